"""fit_probe: a linear probe of the base model's own stream that opens where the tuned model would decide otherwise."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from lab.errors import VectorError
from lab.metrics.bootstrap import Interval, resamples
from lab.models.load import Model
from lab.seeds import numpy_generator
from probes.scores.roc import auroc_interval
from probes.site import Site
from steering.hybrid.linear_probe import LinearProbe
from steering.routing.moments import Moments, streams_before
from steering.routing.threshold import threshold

MAX_TOKENS = 20_000
"""Tokens that a probe is fitted and judged on, drawn from all."""
MAX_ITER = 10_000
"""Far more steps than a standardised and penalised regression needs."""


class ProbeQuality(NamedTuple):
    """How well a probe tells decisions, on problems that its direction was not fitted on."""

    auroc: Interval
    """P(score of a decision > score of another token) + P(equal) / 2, over problems."""
    decided_share: float
    """Decisions a token."""
    opened_share: float
    """Tokens at which it opens; as near to `decided_share` as a threshold brings it."""
    caught_share: float
    """Decisions at which it opens, of all."""
    n_tokens: int
    n_problems: int


class FittedProbe(NamedTuple):
    """A probe and its quality."""

    probe: LinearProbe
    quality: ProbeQuality


def fit_probe(
    model: Model, site: Site, when: Moments, *, seed: int, n_boot: int = 2000, max_tokens: int = MAX_TOKENS
) -> FittedProbe:
    """A probe of `model`'s stream at the token before each moment, for whether the moment is a decision.

    A logistic regression with an L2 penalty (C = 1) on standardised inputs, fitted on half of the problems. Its
    threshold is set on the other half, so that it opens there as often as decisions occur; its quality is that half's
    too. Either half has its share of the problems with a decision. The probe reads one model alone: what it owes to the
    other is in the labels.

    At most `max_tokens` moments are read, drawn at random. Raises VectorError where fewer than two problems have a
    decision, or where every token of a half is one; SiteError for a layer out of range.
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
    """True at the moments of half of the problems with a decision, and of half of the others."""
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
