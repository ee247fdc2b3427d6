"""Estimate: the one form in which every estimator answers, and what they all need to get there."""

from dataclasses import dataclass
from math import nan
from typing import Literal, Protocol

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from lab.metrics.accuracy import Share, elicited_share
from lab.metrics.bootstrap import Interval, difference_interval, interval_columns, resamples
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema
from lab.scoring.evidence import ArmKey, DecodingName, Evidence, Role, arm_of

Measure = Literal["strict", "answer_correct"]
MEASURES: dict[str, Measure] = {"strict": "strict", "answer": "answer_correct"}
"""Measure -> column of a `VERDICTS` table."""
Unit = Literal["share", "probability", "points", "nats", "bits", "samples", "tokens", "problems"]

ESTIMATES = Schema(
    "estimates",
    (
        Column("estimator", pl.String, "E1 to E10, as in the README"),
        Column("quantity", pl.String, "what was estimated, in words; unique inside its estimator"),
        Column(
            "unit",
            pl.String,
            "share (an elicited share of the gain, scored by calibration), probability, points, nats, bits, samples, "
            "tokens or problems (fractions of them)",
        ),
        Column("value", pl.Float64, "the estimate; NaN where refused or undefined"),
        Column("low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("high", pl.Float64, "upper end of its 95 % interval over problems"),
        Column("refusal", pl.String, "why no value is given; null where one is"),
    ),
)


UNKNOWN = Interval(value=nan, low=nan, high=nan, stderr=nan)


UNKNOWN = Interval(value=nan, low=nan, high=nan, stderr=nan)
"""What is not known, or has no meaning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """The choices of an analysis, fixed before its results are seen."""

    reach: int = 1000
    """Samples of one problem that still count as within the base model's reach."""
    top: int = 5
    """A token among the base model's first `top` is reranked, not shifted, when the tuned model writes it."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    seed: int = 0


class Estimator(Protocol):
    """Evidence to `ESTIMATES` rows.

    Neither the order of rows in the evidence nor the names of problems and arms matter. What cannot be estimated is a
    row with its reason; EstimateError is for evidence that contradicts itself.
    """

    def __call__(self, evidence: Evidence, analysis: Analysis) -> pl.DataFrame: ...


def problem_ids(evidence: Evidence) -> list[str]:
    """The problems of the evidence, in the one order that every estimator uses."""
    return sorted(evidence.verdicts["problem_id"].unique().to_list())


def problem_weights(
    evidence: Evidence, analysis: Analysis, only: pl.DataFrame | None = None
) -> Int[np.ndarray, "boot problem"]:
    """The resamples that all estimators share, for problems in the order of `problem_ids`.

    Where only those of the table `only` count, how many of them are drawn varies.
    """
    problems = problem_ids(evidence)
    weights = resamples(len(problems), analysis.n_boot, numpy_generator(analysis.seed, "estimates"))
    return weights if only is None else weights[:, np.isin(problems, only["problem_id"].to_list())]


def tries(evidence: Evidence, role: Role) -> list[Bool[np.ndarray, " _sample"]]:
    """Strict verdicts of a model as the study samples, by problem, in the order of samples; EstimateError without."""
    mine = evidence.verdicts.filter(pl.col("arm") == named(evidence, ArmKey(role))).sort("problem_id", "sample_index")
    return [problem["strict"].to_numpy() for problem in mine.partition_by("problem_id", maintain_order=True)]


def rates(verdicts: pl.DataFrame, arm: str, measure: Measure = "strict") -> Float[np.ndarray, " problem"]:
    """Accuracy of an arm on each problem, in the order of the problems' ids; EstimateError where the arm is missing."""
    mine = verdicts.filter(pl.col("arm") == arm)
    if mine.is_empty():
        present = ", ".join(sorted(verdicts["arm"].unique().to_list()))
        raise EstimateError(f"no verdicts of the arm {arm!r}: there are {present or 'none'}")
    return mine.group_by("problem_id").agg(pl.col(measure).mean()).sort("problem_id")[measure].to_numpy()


def named(evidence: Evidence, key: ArmKey) -> str:
    """What the arm that `key` means is called; EstimateError where it is missing."""
    if (arm := arm_of(evidence, key)) is None:
        present = ", ".join(sorted(evidence.arms["arm"])) or "none"
        raise EstimateError(
            f"no verdicts of the arm {str(key)!r}: there are {present}; sample both models on every problem"
        )
    return arm


def gap_refusal(evidence: Evidence, analysis: Analysis) -> str | None:
    """Why no share of the strict gain may be given, or None: every share passes this gate.

    The gap must be a gain, and five standard errors of it: of a loss nothing was elicited.
    """
    base, tuned = (rates(evidence.verdicts, named(evidence, ArmKey(role))) for role in (Role.BASE, Role.TUNED))
    return loss_refusal(elicited_share(base, base, tuned, problem_weights(evidence, analysis)))


def loss_refusal(share: Share) -> str | None:
    """The share's own refusal, or that its gap is a loss."""
    if share.refusal is not None or share.gap > 0:
        return share.refusal
    return f"the tuned model is worse by {-100 * share.gap:.1f} points: there is no gain to share out"


def estimate(
    estimator: str, quantity: str, unit: Unit, interval: Interval | Share | None, refusal: str | None = None
) -> dict[str, object]:
    """A row of `ESTIMATES`; a refused one has no numbers."""
    refusal = refusal or (interval.refusal if isinstance(interval, Share) else None)
    found = UNKNOWN if interval is None or refusal else interval
    named: dict[str, object] = {"estimator": estimator, "quantity": quantity, "unit": unit, "refusal": refusal}
    return named | interval_columns(found)


def share_row(
    evidence: Evidence, analysis: Analysis, estimator: str, quantity: str, *, arm: Role, decoding: DecodingName
) -> dict[str, object]:
    """The share of the strict gap between base and tuned model that the rung `arm` recovers, all decoded alike.

    Refused where an arm is missing, where the sampled gap of the pair is (every share passes that gate), and where the
    gap between the two models so decoded is.
    """
    refusal = missing_arm(evidence, ArmKey(Role.BASE), ArmKey(Role.TUNED)) or gap_refusal(evidence, analysis)
    keys = [ArmKey(role, decoding) for role in (arm, Role.BASE, Role.TUNED)]
    if refusal := refusal or missing_arm(evidence, *keys):
        return estimate(estimator, quantity, "share", None, refusal)
    names = [named(evidence, key) for key in keys]
    mine, base, tuned = (rates(evidence.verdicts, name) for name in names)
    share = elicited_share(mine, base, tuned, problem_weights(evidence, analysis))
    if reason := loss_refusal(share):
        refusal = f"the arms {names[2]!r} and {names[1]!r}: {reason}"
    return estimate(estimator, quantity, "share", share, refusal)


def gain_row(
    evidence: Evidence, analysis: Analysis, estimator: str, quantity: str, *, arm: ArmKey, over: ArmKey
) -> dict[str, object]:
    """Strict accuracy of `arm` minus that of the arm `over`, paired by problem, in [-1, 1]; no gate."""
    if refusal := missing_arm(evidence, arm, over):
        return estimate(estimator, quantity, "points", None, refusal)
    mine, other = (rates(evidence.verdicts, named(evidence, key)) for key in (arm, over))
    gain = difference_interval(mine, other, problem_weights(evidence, analysis))
    return estimate(estimator, quantity, "points", gain)


def missing_arm(evidence: Evidence, *keys: ArmKey) -> str | None:
    """Says which of the arms is the first that there is not; None where all are."""
    for key in keys:
        if arm_of(evidence, key) is None:
            return f"no verdicts of the arm {str(key)!r}: run it on the problems of the base model"
    return None
