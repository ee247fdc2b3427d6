"""fit_probe: a linear probe of the base model's own stream that opens where the tuned model would decide otherwise."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from lab.metrics.bootstrap import Interval, resamples
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import numpy_generator
from lab.scoring.scores import completion_logits, pieces, trace_rows
from lab.tasks.problem import Problem
from probes.capture.site import Site
from probes.scores.label_probes import auroc_interval
from steering.hybrid.routers import EntropyAbove, LinearProbe, Scheduled
from steering.routing.category_vectors import Moments, streams_before

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
    weight, bias = _regression(streams[~judged], when.decided[~judged])
    scores = streams[judged] @ weight + bias
    unseen = when.of(judged)
    cut = threshold(scores, int(unseen.decided.sum()))
    probe = LinearProbe(site, torch.from_numpy(weight).float(), bias - cut)
    return FittedProbe(probe, _quality(scores, scores > cut, unseen, seed, n_boot))


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


def _regression(
    streams: Float[np.ndarray, "token d_model"], decided: Bool[np.ndarray, " token"]
) -> tuple[Float[np.ndarray, " d_model"], float]:
    """Weight and bias on the stream as it is, of a regression on the standardised one."""
    # Here, since it is slow to import and settings of a study need only what it is called with.
    from sklearn.linear_model import LogisticRegression

    mean, spread = streams.mean(axis=0), streams.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    regression = LogisticRegression(max_iter=MAX_ITER).fit((streams - mean) / scale, decided)
    weight = regression.coef_[0] / scale
    return weight, float(np.ravel(regression.intercept_)[0] - weight @ mean)


def _quality(
    scores: Float[np.ndarray, " token"], opened: Bool[np.ndarray, " token"], unseen: Moments, seed: int, n_boot: int
) -> ProbeQuality:
    problems = np.unique(unseen.problems, return_inverse=True)[1]
    n_problems = int(problems.max()) + 1
    weights = resamples(n_problems, n_boot, numpy_generator(seed, "resamples"))
    return ProbeQuality(
        auroc=auroc_interval(scores, unseen.decided, problems, weights),
        decided_share=unseen.decided_share,
        opened_share=float(opened.mean()),
        caught_share=float(opened[unseen.decided].mean()),
        n_tokens=len(scores),
        n_problems=n_problems,
    )


def fit_entropy(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem], open_share: float) -> EntropyAbove:
    """A router that opens at `open_share` of the tokens of `traces`, `TRACES` rows of the model's own, or near it.

    Raises VectorError for a share outside 0 to 1.
    """
    if not 0 <= open_share <= 1:
        raise VectorError(f"a router that opens at a share of {open_share} of all tokens: want a number from 0 to 1")
    found = entropies(model, traces, problems)
    return EntropyAbove(max(0.0, threshold(found, round(open_share * len(found)))))


@torch.inference_mode()
def entropies(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Float[np.ndarray, " token"]:
    """Entropy of the model's next-token distribution, at temperature 1 and in nats, before every token of `traces`."""
    rows = trace_rows(model, traces, problems)
    found: list[Float[np.ndarray, " token"]] = [np.empty(0)] * len(rows)
    for chosen, read in pieces(model, rows):
        entropy = torch.special.entr(completion_logits(model, read).float().softmax(dim=-1)).sum(dim=-1).cpu().numpy()
        for place, index in enumerate(chosen):
            found[index] = entropy[place, -len(rows[index].completion) :].astype(np.float64)
    return np.concatenate(found)
