"""E4, token ranks: does the tuned model choose what the base model ranks high, and do those choices carry its gain?"""

from functools import partial

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from elicitation.estimators.estimate import ESTIMATES, Analysis, estimate, gain_row, problem_weights, share_row
from lab.metrics.bootstrap import FEW, Interval, percentile_interval, resampled_means, unlike_bounds
from lab.scoring.evidence import ArmKey, Control, Evidence, Role

_TEXTS = {Role.BASE: "in the base's texts", Role.TUNED: "in the tuned model's texts"}


def token_ranks(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of how far the tuned model's first choices are from the base model's, and of replacing them.

    A token is reranked where the tuned model's first choice is among the base model's first `analysis.top` but is not
    its first, and shifted where it lies beyond. Rates are fractions of tokens, read in the texts of either model; the
    tuned model's own texts hold the tokens that the base model never reaches. The entropy is that of the base model.
    Replacement, all greedy: the share of the greedy strict gain that the base model gets when the reranked tokens are
    written for it. Its two controls are no estimates of a share, so they are gains over greedy in points.

    Source: "Rethinking RL: sparse selection" (arXiv 2605.06241). Departures: there, ranks are read in the base model's
    texts only, the random control draws from the first 20 and not from the first `analysis.top`, and the result is a
    match of pass@1; here it is a ratio with Fieller's interval, behind the gate of every share. Rates are ratios of
    sums over problems (a problem counts by its tokens), resampled by problem: tokens of a text are no sample.
    """
    share, gain = (partial(row, evidence, analysis, "E4") for row in (share_row, gain_row))
    rows = [row for writer in _TEXTS for row in _rates(evidence, analysis, writer)]
    rows += [_entropy(evidence, analysis), share("reranked tokens replaced", arm=Role.RERANKED, decoding="greedy")]
    for quantity, control in (
        ("base's second choice at those tokens", Control.SECOND_CHOICE),
        ("random likely token, at random tokens", Control.RANDOM_TOKENS),
    ):
        rows.append(gain(quantity, arm=ArmKey(Role.RERANKED, "greedy", control), over=ArmKey(Role.BASE, "greedy")))
    return ESTIMATES.frame(rows)


def _rates(evidence: Evidence, analysis: Analysis, writer: Role) -> list[dict[str, object]]:
    """The rows of shifted and reranked tokens in the texts of `writer`."""
    quantities = {kind: f"{kind} tokens, {_TEXTS[writer]}" for kind in ("shifted", "reranked")}
    sums = _sums(evidence, analysis, writer)
    if sums.is_empty():
        return [estimate("E4", name, "tokens", None, _unread(writer)) for name in quantities.values()]
    weights, n_tokens = problem_weights(evidence, analysis, sums), sums["n_tokens"].to_numpy()
    return [
        estimate("E4", name, "tokens", _fraction(sums[f"n_{kind}"].to_numpy(), n_tokens, weights))
        for kind, name in quantities.items()
    ]


def _entropy(evidence: Evidence, analysis: Analysis) -> dict[str, object]:
    """Mean base entropy over the reranked tokens minus that over all others (shifted ones too), in tuned texts."""
    quantity = f"entropy where reranked minus elsewhere, {_TEXTS[Role.TUNED]}"
    sums = _sums(evidence, analysis, Role.TUNED)
    if sums.is_empty():
        return estimate("E4", quantity, "nats", None, _unread(Role.TUNED))
    n_here, here, n_tokens, entropy = (
        sums[name].to_numpy() for name in ("n_reranked", "entropy_reranked", "n_tokens", "entropy")
    )
    n_else = n_tokens - n_here
    if not (n_here.sum() and n_else.sum()):
        refusal = (
            f"{n_here.sum():.0f} of {n_tokens.sum():.0f} tokens are reranked, so there is nothing to compare: "
            "read more of the tuned model's completions"
        )
        return estimate("E4", quantity, "nats", None, refusal)
    weights = problem_weights(evidence, analysis, sums)
    value = float(here.sum() / n_here.sum() - (entropy - here).sum() / n_else.sum())
    replicates = _ratios(here, n_here, weights) - _ratios(entropy - here, n_else, weights)
    return estimate("E4", quantity, "nats", percentile_interval(value, replicates, len(sums)))


def _sums(evidence: Evidence, analysis: Analysis, writer: Role) -> pl.DataFrame:
    """Counts of tokens and sums of entropies (nats) of each problem with texts of `writer`, by problem."""
    rank, entropy = pl.col("rank"), pl.col("entropy")
    reranked = rank.is_between(2, analysis.top)
    return (
        evidence.ranks.filter(pl.col("writer") == writer)
        .group_by("problem_id")
        .agg(
            n_tokens=pl.len().cast(pl.Float64),
            n_shifted=(rank > analysis.top).sum().cast(pl.Float64),
            n_reranked=reranked.sum().cast(pl.Float64),
            entropy=entropy.sum(),
            entropy_reranked=entropy.filter(reranked).sum(),
        )
        .sort("problem_id")
    )


def _fraction(
    hits: Float[np.ndarray, " problem"], tokens: Float[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]
) -> Interval:
    """Sum of `hits` over sum of `tokens`, in [0, 1].

    As in `mean_interval`, where fewer than ten problems hold a hit (or a miss) resamples understate what is unknown,
    and the interval also covers `unlike_bounds`; an unseen problem is taken to be as long as the others.
    """
    value, n = float(hits.sum() / tokens.sum()), hits.size
    drawn = percentile_interval(value, _ratios(hits, tokens, weights), n, bounds=(0.0, 1.0))
    n_off = min(np.count_nonzero(hits), np.count_nonzero(hits < tokens))
    if n < 2 or n_off >= FEW or 2 * n_off >= n:
        return drawn
    low, high = unlike_bounds(value, n, (0.0, 1.0))
    return Interval(value=value, low=min(low, drawn.low), high=max(high, drawn.high), stderr=drawn.stderr)


def _ratios(
    top: Float[np.ndarray, " problem"], bottom: Float[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]
) -> Float[np.ndarray, " boot"]:
    """Sum of `top` over sum of `bottom` in each resample; NaN where the latter is 0."""
    above, below = resampled_means(top, weights), resampled_means(bottom, weights)
    return np.divide(above, below, out=np.full(below.size, np.nan), where=below > 0)


def _unread(writer: Role) -> str:
    return f"no ranks of tokens {_TEXTS[writer]}: read some of its completions with both models"
