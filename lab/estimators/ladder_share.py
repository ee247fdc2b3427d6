"""E5, the elicitation ladder: how much of the tuned model's gain an arm gives the base model, decoding held equal."""

import polars as pl

from lab.estimators.estimate import ESTIMATES, Analysis, estimate, gap_refusal, problem_ids, problem_weights, rates
from lab.estimators.evidence import Evidence
from lab.metrics.bootstrap import difference_interval
from lab.metrics.share import elicited_share


def ladder_share(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the steering vectors at the first token, sampled at temperature 1 and decoded greedily.

    Share: (arm - base) / (tuned - base) in strict accuracy, all three decoded the same way, so what greedy decoding
    itself gives is in no numerator. It is raw: a vector of no meaning may help as well, so a share counts only as far
    as the fitted vector beats its norm-matched random control, whose gain and distance stand beside it in points
    (differences of strict accuracy, as fractions).
    Source: one edit at the first generated token against random ones of the same norm, "Reasoning Beyond
    Chain-of-Thought" (arXiv 2601.08058), and "Small Vectors, Big Effects" (arXiv 2509.06608) for a fitted vector.
    Departure: they compare accuracies; here it is a ratio with Fieller's interval, refused where the gap is noise.
    """
    sampled = {"base": "base", "tuned": "tuned"}
    greedy = {"base": "greedy", "tuned": "tuned-greedy"}
    rows = [
        share_row(
            evidence, analysis, "E5", "fitted vector at the first token, sampled", arm="fitted-opening", **sampled
        ),
        share_row(evidence, analysis, "E5", "fitted vector at the first token, greedy", arm="fitted-greedy", **greedy),
        gain_row(evidence, analysis, "E5", "random vectors, sampled", arm="random-opening", over="base"),
        gain_row(evidence, analysis, "E5", "random vectors, greedy", arm="random-greedy", over="greedy"),
        gain_row(evidence, analysis, "E5", "fitted over random, sampled", arm="fitted-opening", over="random-opening"),
        gain_row(evidence, analysis, "E5", "fitted over random, greedy", arm="fitted-greedy", over="random-greedy"),
    ]
    return ESTIMATES.frame(rows)


def share_row(
    evidence: Evidence, analysis: Analysis, estimator: str, quantity: str, *, arm: str, base: str, tuned: str
) -> dict[str, object]:
    """The share of the strict gap between the arms `base` and `tuned` that `arm` recovers.

    Refused where an arm is missing, where the sampled gap of the pair is (every share passes that gate), and where the
    gap between these two arms is.
    """
    if refusal := _missing(evidence, "base", "tuned", arm, base, tuned) or gap_refusal(evidence, analysis):
        return estimate(estimator, quantity, "share", None, refusal)
    verdicts = evidence.verdicts
    share = elicited_share(
        rates(verdicts, arm), rates(verdicts, base), rates(verdicts, tuned), problem_weights(evidence, analysis)
    )
    refusal = None if share.refusal is None else f"the arms {tuned!r} and {base!r}: {share.refusal}"
    return estimate(estimator, quantity, "share", share, refusal)


def gain_row(
    evidence: Evidence, analysis: Analysis, estimator: str, quantity: str, *, arm: str, over: str
) -> dict[str, object]:
    """Strict accuracy of `arm` minus that of the arm `over`, paired by problem, in [-1, 1]; no gate."""
    if refusal := _missing(evidence, arm, over):
        return estimate(estimator, quantity, "points", None, refusal)
    weights = problem_weights(evidence, analysis)
    gain = difference_interval(rates(evidence.verdicts, arm), rates(evidence.verdicts, over), weights)
    return estimate(estimator, quantity, "points", gain)


def _missing(evidence: Evidence, *arms: str) -> str | None:
    """Which of the arms lacks verdicts, and on how many of the problems; None where all are whole."""
    wanted = problem_ids(evidence)
    for arm in arms:
        n_lacking = len(set(wanted).difference(evidence.verdicts.filter(pl.col("arm") == arm)["problem_id"].to_list()))
        if n_lacking or not wanted:
            return (
                f"no verdicts of the arm {arm!r} on {n_lacking} of {len(wanted)} problems: "
                "run it on the problems of the base model"
            )
    return None
