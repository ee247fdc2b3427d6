"""fit_routing: every fitted way to say when and with which vector the base model is steered; its files.

When: a probe of the base model's stream, a bound on its entropy, a schedule. With which vector: that of a category.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.metrics.bootstrap import Interval, resamples
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import StorageError, VectorError
from lab.records.provenance import Provenance, canonical_json
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import require_as_written
from lab.records.tables import replacing, write_text
from lab.sampling.decoder import left_padded
from lab.scoring.scores import by_text, foresee, pieces, trace_rows
from lab.tasks.problem import Problem
from probes.capture.site import Site
from probes.scores.label_probes import auroc_interval
from probes.taxonomy.segments import Rule
from probes.taxonomy.taxonomy import KMeans, Method, load_taxonomy, save_taxonomy
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import ModelFacts
from steering.fits.fit import Disagreements
from steering.fits.gradient import GradientFit
from steering.hybrid.routers import EntropyAbove, LinearProbe, Scheduled
from steering.routing.category_vectors import (
    KEYS,
    CategoryVectors,
    Moments,
    fit_category_vectors,
    moment_taxonomy,
    moments,
    streams_before,
)

REACHED_SHARE = 0.5
"""Steps that this share of the texts have a rate of their own; the later ones share one."""


def fit_schedule(when: Moments) -> Scheduled:
    """Rates by step: the share of the texts that have a disagreement there, of those that go so far.

    `when` are all moments of the texts. Each rate is smoothed by one text more, in which a disagreement is as likely as
    at any token. The last rate is that of all later steps together. Raises VectorError where there is no moment.
    """
    if not len(when.texts):
        raise VectorError("no token to fit a schedule on: want fitting traces of at least one token")
    n_texts = np.bincount(when.positions).astype(np.float64)
    n_decided = np.bincount(when.positions, weights=when.decided, minlength=len(n_texts))
    n_own = int((n_texts >= REACHED_SHARE * n_texts[0]).sum())
    n_texts = np.append(n_texts[:n_own], n_texts[n_own:].sum())
    n_decided = np.append(n_decided[:n_own], n_decided[n_own:].sum())
    return Scheduled(tuple(((n_decided + when.decided_share) / (n_texts + 1)).tolist()))


def threshold(scores: Float[np.ndarray, " token"], n_above: int) -> float:
    """A number that as many of `scores` exceed as can be, nearest to `n_above`; of two as near, the higher number.

    It stands half-way between two scores, and beyond the last by half of the spread where all or none should exceed it.
    """
    levels, counts = np.unique(scores, return_counts=True)
    # Above a cut below level i are all scores of level i and up.
    n_exceeding = np.append(counts[::-1].cumsum()[::-1], 0)
    margin = max((levels[-1] - levels[0]) / 2, 1e-6)
    cuts = np.concatenate([[levels[0] - margin], (levels[:-1] + levels[1:]) / 2, [levels[-1] + margin]])
    distances = np.abs(n_exceeding - n_above)
    return float(cuts[np.flatnonzero(distances == distances.min())[-1]])


MAX_TOKENS = 20_000
"""Tokens that a probe is fitted and judged on, drawn from all."""
MAX_ITER = 10_000
"""Far more steps than a standardised and penalised regression needs."""


class ProbeQuality(NamedTuple):
    """How well a probe tells disagreements, on problems that its direction was not fitted on."""

    auroc: Interval
    """P(score of a disagreement > score of another token) + P(equal) / 2, over problems."""
    decided_share: float
    """Disagreements a token."""
    opened_share: float
    """Tokens at which it opens; as near to `decided_share` as a threshold brings it."""
    caught_share: float
    """Disagreements at which it opens, of all."""
    n_tokens: int
    n_problems: int


class FittedProbe(NamedTuple):
    """A probe and its quality."""

    probe: LinearProbe
    quality: ProbeQuality


def fit_probe(
    model: Model, site: Site, when: Moments, *, seed: int, n_boot: int = 2000, max_tokens: int = MAX_TOKENS
) -> FittedProbe:
    """A probe of `model`'s stream at the token before each moment, for whether the moment is a disagreement.

    A logistic regression with an L2 penalty (C = 1) on standardised inputs, fitted on half of the problems. Its
    threshold is set on the other half, so that it opens there as often as disagreements occur; its quality is that
    half's too. Either half has its share of the problems with a disagreement. The probe reads one model alone: what it
    owes to the other is in the labels.

    At most `max_tokens` moments are read, drawn at random. Raises VectorError where fewer than two problems have a
    disagreement, or where every token of a half is one; SiteError for a layer out of range.
    """
    # Here, since it is slow to import and settings of a study need only what it is called with.
    from sklearn.linear_model import LogisticRegression

    if len(when.texts) > max_tokens:
        drawn = numpy_generator(seed, "tokens").permutation(len(when.texts))[:max_tokens]
        when = when.of(np.isin(np.arange(len(when.texts)), drawn))
    judged = _held_out(when, seed)
    for decided in (when.decided[judged], when.decided[~judged]):
        if decided.all():
            raise VectorError(
                "the two models differ at every token of half of the problems: a probe has nothing to tell; "
                "want other traces, or a router that is always open"
            )
    streams = streams_before(model, site, when.rows, when.texts, when.positions).double().numpy()
    seen, unseen = streams[~judged], when.of(judged)
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    regression = LogisticRegression(max_iter=MAX_ITER).fit((seen - mean) / scale, when.decided[~judged])
    # On the stream as it is, not standardised.
    weight = regression.coef_[0] / scale
    bias = float(np.ravel(regression.intercept_)[0] - weight @ mean)
    scores = streams[judged] @ weight + bias
    cut = threshold(scores, int(unseen.decided.sum()))
    opened, problems = scores > cut, np.unique(unseen.problems, return_inverse=True)[1]
    n_problems = int(problems.max()) + 1
    weights = resamples(n_problems, n_boot, numpy_generator(seed, "resamples"))
    quality = ProbeQuality(
        auroc=auroc_interval(scores, unseen.decided, problems, weights),
        decided_share=unseen.decided_share,
        opened_share=float(opened.mean()),
        caught_share=float(opened[unseen.decided].mean()),
        n_tokens=len(scores),
        n_problems=n_problems,
    )
    return FittedProbe(LinearProbe(site, torch.from_numpy(weight).float(), bias - cut), quality)


def _held_out(when: Moments, seed: int) -> Bool[np.ndarray, " moment"]:
    """True at the moments of half of the problems with a disagreement, and of half of the others."""
    problems = when.problems
    with_decision = np.unique(problems[when.decided])
    if len(with_decision) < 2:
        raise VectorError(
            f"{len(with_decision)} of {len(np.unique(problems))} problems have a token at which the two models differ: "
            "want two, to fit a probe on one and judge it on the other; draw more fitting traces, or leave routing out "
            "where a model is paired with its like"
        )
    generator = numpy_generator(seed, "held-out problems")
    kinds = (with_decision, np.setdiff1d(problems, with_decision))
    held_out = np.concatenate([generator.permutation(kind)[: len(kind) // 2] for kind in kinds])
    return np.isin(problems, held_out)


def fit_entropy(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem], open_share: float) -> EntropyAbove:
    """A router open at about `open_share`, from 0 to 1 else VectorError, of the tokens of the model's own `traces`."""
    if not 0 <= open_share <= 1:
        raise VectorError(f"a router that opens at a share of {open_share} of all tokens: want a number from 0 to 1")
    found = entropies(model, traces, problems)
    return EntropyAbove(max(0.0, threshold(found, round(open_share * len(found)))))


@torch.inference_mode()
def entropies(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Float[np.ndarray, " token"]:
    """Entropy of the model's next-token distribution, at temperature 1 and in nats, before every token of `traces`."""
    rows = trace_rows(model, traces, problems)
    found: list[Float[np.ndarray, " token"]] = [np.empty(0)] * len(rows)

    def entropy(logits: Tensor, _: Tensor) -> tuple[Tensor]:
        return (torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1),)

    for chosen, read in pieces(model, rows):
        for index, (of_text,) in zip(chosen, by_text(entropy, foresee(model, read)), strict=True):
            found[index] = of_text.cpu().numpy().astype(np.float64)
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingFit:
    """How to look for routers and categories."""

    n_categories: int = 5
    """Kinds of disagreements, each with a vector of its own."""
    method: Method = field(default_factory=KMeans, metadata={"flag": None})
    """Of the taxonomies. Centres of `k_means` come out much alike from seed to seed, which few categories need."""
    min_disagreements: int = 8
    """A category with fewer is not steered."""
    max_disagreements: int = 4096
    """Disagreements that the vectors are fitted on, at most; drawn at random from all."""
    vectors: GradientFit = field(default_factory=lambda: GradientFit(n_steps=40), metadata={"flag": None})
    """There are several, each of one kind of disagreement, which takes fewer steps than one vector of all kinds."""

    def __post_init__(self) -> None:
        if min(self.n_categories, self.min_disagreements, self.max_disagreements) < 1:
            raise VectorError(
                f"{self.n_categories} categories, of {self.min_disagreements} disagreements at least and "
                f"{self.max_disagreements} in all: want 1 or more of each"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Routing:
    """Routers, and tables of vectors, that were fitted to how one pair decides on the same traces."""

    probe: LinearProbe
    """Reads the base model."""
    probe_quality: ProbeQuality
    entropy: EntropyAbove
    schedule: Scheduled
    base_side: CategoryVectors
    """Its categories are read off the base model's stream, so the tuned model need not run."""
    tuned_side: CategoryVectors
    """Its categories are read off the tuned model's stream."""


def fit_routing(
    pair: ModelPair,
    site: Site,
    by_base: pl.DataFrame,
    by_tuned: pl.DataFrame,
    disagreements: pl.DataFrame,
    problems: Mapping[str, Problem],
    rule: Rule,
    settings: RoutingFit,
    *,
    seed: int,
) -> Routing:
    """Everything of a `Routing`, at one site of both models.

    `by_base` and `by_tuned` are `TRACES` rows of training problems, one arm each; `disagreements` are all
    `DISAGREEMENTS` in `by_tuned`, which is therefore to hold those traces only in which they were looked for. `rule`
    cuts texts into the segments that categories are learned from. Probe, schedule, taxonomies and vectors come of
    `by_tuned`, the bound on entropy of `by_base` and the share of disagreements.

    Raises VectorError where fewer than two problems have a disagreement, as in a pair of equal models; StorageError and
    EstimateError as `moment_taxonomy` does; SiteError for a layer out of range.
    """
    when = moments(pair.base, by_tuned, disagreements, problems)
    probe, quality = fit_probe(pair.base, site, when, seed=child_seed(seed, "probe"))
    if disagreements.height > settings.max_disagreements:
        generator = numpy_generator(seed, "decisions")
        drawn = generator.choice(disagreements.height, settings.max_disagreements, replace=False)
        disagreements = disagreements[np.sort(drawn)]
    owners = by_tuned.select(KEYS).with_row_index("text")
    found = disagreements.join(owners, on=KEYS, how="left", maintain_order="left")
    texts, positions = (found[name].to_numpy().astype(np.int64) for name in ("text", "position"))
    rows = [when.rows[text] for text in texts]
    prefixes = [row.context + row.completion[:place] for row, place in zip(rows, positions.tolist(), strict=True)]
    targets = torch.tensor(disagreements["tuned_token"].to_list(), dtype=torch.long, device=pair.base.device)
    examples = Disagreements(*left_padded(pair.base, prefixes), targets)

    def side(reader: Literal["base", "tuned"], model: Model) -> CategoryVectors:
        taxonomy = moment_taxonomy(
            model, site, when, rule, settings.n_categories, method=settings.method, seed=child_seed(seed, reader)
        )
        return fit_category_vectors(
            pair.base,
            site,
            taxonomy,
            reader,
            streams_before(model, site, when.rows, texts, positions),
            examples,
            settings.vectors,
            min_disagreements=settings.min_disagreements,
            seed=child_seed(seed, "vectors"),
        )

    return Routing(
        probe=probe,
        probe_quality=quality,
        entropy=fit_entropy(pair.base, by_base, problems, when.decided_share),
        schedule=fit_schedule(when),
        base_side=side("base", pair.base),
        tuned_side=side("tuned", pair.tuned),
    )


FORMAT = "elicitation-lab.routing.1"
NAME = "routing.json"
PROBE = "probe.safetensors"


def save_routing(directory: Path, routing: Routing, made_by: Provenance, *, fitted_on: ModelFacts) -> None:
    """Writes `routing` into `directory`; without the last file, which says that all are there, it is not one.

    Every vector is a file that can be exported by itself; `fitted_on` is the base model. Equal work gives equal bytes.
    """
    with replacing(directory / PROBE) as path:
        save_file({"weight": routing.probe.weight.contiguous()}, path, metadata={"provenance": made_by.to_json()})
    for found in (routing.base_side, routing.tuned_side):
        save_taxonomy(_path(directory, found.reader, "taxonomy"), found.taxonomy, made_by)
        for index, vector in enumerate(found.vectors):
            save_vector(_path(directory, found.reader, f"vector-{index}"), vector, made_by, fitted_on=fitted_on)
    described = {
        "format": FORMAT,
        "provenance": made_by,
        "site": str(routing.probe.site),
        "bias": routing.probe.bias,
        "quality": routing.probe_quality._asdict() | {"auroc": asdict(routing.probe_quality.auroc)},
        "nats": routing.entropy.nats,
        "rates": routing.schedule.rates,
        "n_disagreements": {found.reader: found.n_disagreements for found in (routing.base_side, routing.tuned_side)},
    }
    write_text(directory / NAME, canonical_json(described))


def load_routing(directory: Path) -> Routing:
    """The inverse of `save_routing`, on the CPU; StorageError for what is missing, damaged or no routing."""
    try:
        require_as_written(directory)
        described = json.loads((directory / NAME).read_text(encoding="utf-8"))
        if described.get("format") != FORMAT:
            raise StorageError(f"its format is {described.get('format')!r}, want {FORMAT!r}")
        quality = described["quality"]
        weight = load_file(directory / PROBE)["weight"]
        return Routing(
            probe=LinearProbe(Site.parse(described["site"]), weight, described["bias"]),
            probe_quality=ProbeQuality(**quality | {"auroc": Interval(**quality["auroc"])}),
            entropy=EntropyAbove(described["nats"]),
            schedule=Scheduled(tuple(described["rates"])),
            base_side=_side(directory, "base", described["n_disagreements"]["base"]),
            tuned_side=_side(directory, "tuned", described["n_disagreements"]["tuned"]),
        )
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"cannot read a routing from {directory}: {error}; name another, or fit it again") from error


def _side(directory: Path, reader: Literal["base", "tuned"], n_disagreements: list[int]) -> CategoryVectors:
    files = [_path(directory, reader, f"vector-{index}") for index in range(len(n_disagreements))]
    taxonomy = load_taxonomy(_path(directory, reader, "taxonomy"))
    vectors = tuple(map(load_vector, files))
    return CategoryVectors(taxonomy=taxonomy, reader=reader, vectors=vectors, n_disagreements=tuple(n_disagreements))


def _path(directory: Path, reader: str, part: str) -> Path:
    return directory / f"{reader}-{part}.safetensors"
