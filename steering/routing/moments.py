"""Moments: tokens of fitting traces, each with whether the tuned model would decide otherwise there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed
from lab.scoring.scores import Row, pieces, trace_rows
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import Site
from probes.capture.texts import TEXTS
from probes.taxonomy.fit import Method, fit
from probes.taxonomy.segment_means import SegmentMeans
from probes.taxonomy.segments import Rule, parts, segments
from probes.taxonomy.taxonomy import Taxonomy

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
    """What `model` has at `site` at the token before each moment, in fp32 on the CPU: all that a router can know.

    A moment is a token of the completion of one of `rows`. Raises SiteError for a layer out of range.
    """
    found = torch.zeros(len(texts), model.anatomy.d_model)
    order = np.argsort(texts, kind="stable")
    starts = np.searchsorted(texts[order], np.arange(len(rows) + 1))
    for chosen, read in pieces(model, rows):
        stream = capture(model, read.tokens, read.mask, [site])[site]
        for place, text in enumerate(chosen):
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
    texts = TEXTS.frame(
        [
            {"problem_id": problem_id, "sample_index": index, "prompt": row.context, "completion": row.completion}
            for index, (problem_id, row) in enumerate(zip(when.problem_ids, when.rows, strict=True))
        ]
    )
    found = segments(rule, model.tokenizer, texts)
    owners = found["text"].to_numpy().astype(np.int64)
    firsts = found["first"].to_numpy() - np.array([len(row.context) for row in when.rows])[owners]
    data = SegmentMeans(
        site=site,
        segments=found,
        means=streams_before(model, site, when.rows, owners, firsts),
        model=model.name,
        model_digest=model.digest,
    )
    cut = parts(found["problem_id"].to_list(), child_seed(seed, "parts"))
    return fit(data, cut, n_categories, method, seed=child_seed(seed, "taxonomy")).taxonomy
