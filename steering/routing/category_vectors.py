"""CategoryVectors: a vector for each kind of moment, fitted on the disagreements of that kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed, torch_generator
from lab.scoring.scores import Row, pieces, trace_rows
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import TEXTS, Site
from probes.taxonomy.segments import Rule, SegmentMeans, parts, segments
from probes.taxonomy.taxonomy import Method, Taxonomy, fit
from steering.edit import Add
from steering.fits.fit import Disagreements, chosen
from steering.fits.gradient import Category, GradientFit, fit_gradients
from steering.hybrid.interventions import Drawn, PerCategory, RandomCategory
from steering.vector import SteeringVector, random_like


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryVectors:
    """A vector for each category of a taxonomy; a category with too few disagreements has a vector of zeros."""

    taxonomy: Taxonomy
    reader: Literal["base", "tuned"]
    """Whose stream the taxonomy reads. The vectors are the base model's in either case."""
    vectors: tuple[SteeringVector, ...]
    """In the order of the taxonomy's categories."""
    n_disagreements: tuple[int, ...]
    """How many each category has, also where they were too few to fit a vector on."""

    def __post_init__(self) -> None:
        n = self.taxonomy.n_categories
        if not len(self.vectors) == len(self.n_disagreements) == n:
            raise VectorError(
                f"{len(self.vectors)} vectors and {len(self.n_disagreements)} counts of disagreements for a taxonomy "
                f"of {n} categories: want one each"
            )

    @property
    def fitted(self) -> tuple[int, ...]:
        """The categories whose vector is not zero."""
        return tuple(index for index, vector in enumerate(self.vectors) if any(vector.norms.values()))

    @property
    def table(self) -> PerCategory:
        """What a hybrid looks vectors up in."""
        return PerCategory(self.taxonomy, self.reader, tuple(map(Add, self.vectors)))


def fit_category_vectors(
    base: Model,
    site: Site,
    taxonomy: Taxonomy,
    reader: Literal["base", "tuned"],
    streams: Float[Tensor, "disagreement d_model"],
    disagreements: Disagreements,
    fit: GradientFit,
    *,
    min_disagreements: int,
    seed: int,
) -> CategoryVectors:
    """Vectors at `site` of `base`, all in one loop; each is as if it were fitted alone.

    `streams` are what the reader has, where the taxonomy reads it, at the last token of the context of each
    disagreement: they say which category it belongs to. A category of fewer than `min_disagreements` disagreements, 1
    or more, is not steered: its vector is zero and says so. Raises VectorError where a loss is not finite, or where
    streams and disagreements differ in number.
    """
    if len(streams) != len(disagreements.targets):
        raise VectorError(f"{len(streams)} streams of {len(disagreements.targets)} disagreements: want one each")
    categories = taxonomy.category(streams)
    counts = dict(zip(taxonomy.names, categories.bincount(minlength=taxonomy.n_categories).tolist(), strict=True))
    table = {
        name: Category(
            examples=chosen(disagreements, (categories == index).nonzero()[:, 0]),
            generator=torch_generator(seed, reader, "category", index),
            description=f"gradient on {counts[name]} tokens where the {reader} model's stream is in category {name!r}",
        )
        for index, name in enumerate(taxonomy.names)
        if counts[name] >= min_disagreements
    }
    found = fit_gradients(base, site, table, fit) if table else {}
    nothing = {site: torch.zeros(base.anatomy.d_model)}
    for name in counts.keys() - found.keys():
        why = f"none: {counts[name]} disagreements in category {name!r}, too few"
        found[name] = SteeringVector(nothing, {site: np.nan}, why)
    vectors = tuple(found[name] for name in taxonomy.names)
    return CategoryVectors(taxonomy=taxonomy, reader=reader, vectors=vectors, n_disagreements=tuple(counts.values()))


def exchanged(found: CategoryVectors, generator: torch.Generator) -> PerCategory:
    """The fitted vectors passed on in a ring, in a random order: each category that has one gets another's.

    The zero vectors stay where they are: to move these as well would be to compare with no edit where disagreements
    fall in few categories. Raises VectorError where fewer than two categories have a vector.
    """
    if len(found.fitted) < 2:
        raise VectorError(
            f"{len(found.fitted)} of {found.taxonomy.n_categories} categories have a vector, which leaves nothing to "
            "exchange: want two; draw more fitting traces or lower min_disagreements"
        )
    order = [found.fitted[index] for index in torch.randperm(len(found.fitted), generator=generator).tolist()]
    edits = list(found.table.edits)
    for index, other in zip(order, [*order[1:], order[0]], strict=True):
        edits[index] = Add(found.vectors[other])
    return replace(found.table, edits=tuple(edits))


def any_category(found: CategoryVectors) -> RandomCategory:
    """One of the fitted vectors at random for each token. Raises VectorError where there is none."""
    return RandomCategory(tuple(Add(found.vectors[index]) for index in found.fitted))


def random_vectors(found: CategoryVectors, n_draws: int, *, seed: int) -> Drawn:
    """Random directions, each as long as a fitted vector drawn by its disagreements; VectorError where none is."""
    counts = torch.tensor([found.n_disagreements[index] for index in found.fitted], dtype=torch.float64)
    if not len(counts):
        raise VectorError("no category has a vector that a random one could be as long as: draw more fitting traces")
    drawn = torch.multinomial(counts, n_draws, replacement=True, generator=torch_generator(seed, "categories"))
    vectors = (
        random_like(found.vectors[found.fitted[place]], torch_generator(seed, "random vector", draw))
        for draw, place in enumerate(drawn.tolist())
    )
    return Drawn(tuple(map(Add, vectors)))


KEYS = ("problem_id", "sample_index")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Tokens about to be written, in texts; all that may be known of one is what stands before it."""

    rows: Sequence[Row]
    """The texts."""
    problem_ids: tuple[str, ...]
    """The problem of each text."""
    texts: Int[np.ndarray, " moment"]
    """The text of each moment."""
    positions: Int[np.ndarray, " moment"]
    """Its token in the completion, from 0."""
    decided: Bool[np.ndarray, " moment"]
    """Whether the tuned model, greedily, would write another token there than the base model."""

    def of(self, chosen: Bool[np.ndarray, " moment"]) -> "Moments":
        """Some of them, in the same texts."""
        return replace(self, texts=self.texts[chosen], positions=self.positions[chosen], decided=self.decided[chosen])

    @property
    def problems(self) -> Int[np.ndarray, " moment"]:
        """Number of the problem of each moment, among the problems of all texts in alphabetical order."""
        return np.unique(np.array(self.problem_ids), return_inverse=True)[1][self.texts]

    @property
    def decided_share(self) -> float:
        """Disagreements a token; NaN of no moments."""
        return float(self.decided.mean()) if len(self.decided) else np.nan


def moments(
    model: Model, traces: pl.DataFrame, disagreements: pl.DataFrame, problems: Mapping[str, Problem]
) -> Moments:
    """Every token of every completion, in order.

    `traces` are `TRACES` rows of one arm, and `disagreements` all disagreements in them, with the columns `problem_id`,
    `sample_index` and `position`. Raises VectorError for a disagreement at a token that no trace has.
    """
    tokens = (
        traces.select(*KEYS, position=pl.int_ranges(pl.col("tokens").list.len(), dtype=pl.Int32))
        .with_row_index("text")
        .explode("position", empty_as_null=False)
    )
    places = [*KEYS, "position"]
    if strays := disagreements.join(tokens, on=places, how="anti").select(places).rows():
        raise VectorError(
            f"{len(strays)} disagreements, such as {strays[0]}, are at tokens that no trace has: want the "
            f"disagreements of these {traces.height} traces"
        )
    marked = disagreements.select(places).unique().with_columns(decided=pl.lit(True))
    found = tokens.join(marked, on=places, how="left", maintain_order="left")
    return Moments(
        rows=trace_rows(model, traces, problems),
        problem_ids=tuple(traces["problem_id"].to_list()),
        texts=found["text"].to_numpy().astype(np.int64),
        positions=found["position"].to_numpy().astype(np.int64),
        decided=found["decided"].fill_null(False).to_numpy(),
    )


def streams_before(
    model: Model,
    site: Site,
    rows: Sequence[Row],
    texts: Int[np.ndarray, " moment"],
    positions: Int[np.ndarray, " moment"],
) -> Float[Tensor, "moment d_model"]:
    """The stream of `model` at the token before each moment, one of a completion of `rows`; fp32, on the CPU."""
    found = torch.zeros(len(texts), model.anatomy.d_model)
    order = np.argsort(texts, kind="stable")
    starts = np.searchsorted(texts[order], np.arange(len(rows) + 1))
    for some, read in pieces(model, rows):
        stream = capture(model, read.tokens, read.mask, [site])[site]
        for place, text in enumerate(some):
            here = order[starts[text] : starts[text + 1]]
            # Texts end where the batch does, so places are counted from the right.
            before = torch.from_numpy(positions[here]) - len(rows[text].completion) - 1
            found[torch.from_numpy(here)] = stream[place, before.to(stream.device)].float().cpu()
    return found


def moment_taxonomy(
    model: Model, site: Site, when: Moments, rule: Rule, n_categories: int, *, method: Method, seed: int
) -> Taxonomy:
    """A taxonomy of the segments of the texts of `when`, by `model`'s stream at the token before each segment.

    That token is where a hybrid reads it; a taxonomy of the means of whole segments, as `probes.taxonomy.survey` fits,
    often takes it for something else. Raises StorageError where no text has a segment; EstimateError for segments of
    fewer than three problems, or fewer of them than categories.
    """
    rows = [
        {"problem_id": problem_id, "sample_index": index, "prompt": row.context, "completion": row.completion}
        for index, (problem_id, row) in enumerate(zip(when.problem_ids, when.rows, strict=True))
    ]
    found = segments(rule, model.tokenizer, TEXTS.frame(rows))
    owners = found["text"].to_numpy().astype(np.int64)
    firsts = found["first"].to_numpy() - np.array([len(row.context) for row in when.rows])[owners]
    means = streams_before(model, site, when.rows, owners, firsts)
    data = SegmentMeans(site=site, segments=found, means=means, model=model.name, model_digest=model.digest)
    cut = parts(found["problem_id"].to_list(), child_seed(seed, "parts"))
    return fit(data, cut, n_categories, method, seed=child_seed(seed, "taxonomy")).taxonomy
