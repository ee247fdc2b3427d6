"""Effects: outcomes problem by problem -> each fit beside the base, the tuned model and its best control."""

from collections.abc import Mapping, Sequence
from math import inf, nan

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from elicitation.comparison.fitted import ITSELF, Fitted
from elicitation.report.study.tables import LADDER
from elicitation.report.vectors.tables import CONTROLS, DECODINGS, VECTOR_EFFECTS, VECTOR_FITS
from lab.metrics.bootstrap import difference_interval, mean_interval, resamples
from lab.metrics.share import elicited_share
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.scoring.evidence import Control, Role

MEASURES = ("strict", "answer", "incoherent")
Rates = Mapping[tuple[str, str | None], Float[np.ndarray, " problem"]]
"""(fit, control) -> a share of completions of each problem."""


def effect_table(outcomes: pl.DataFrame, labels: Mapping[str, str], *, n_boot: int, seed: int) -> pl.DataFrame:
    """`VECTOR_EFFECTS` of `VECTOR_OUTCOMES`, which have `base` and `tuned` at either decoding.

    `labels` gives fits, base and tuned in human words. All arms of one decoding are compared on the same resamples of
    the problems; a share is of the gain at that same decoding. Raises EstimateError where arms differ in problems.
    """
    first = (pl.col("fit") == "base", pl.col("decoding") == "sampled")
    problems = outcomes.filter(*first)["problem_id"].to_list()
    weights = resamples(len(problems), n_boot, numpy_generator(seed, "bootstrap"))
    rows: list[dict[str, object]] = []
    for decoding in DECODINGS:
        here = outcomes.filter(pl.col("decoding") == decoding)
        for measure in MEASURES if here.height else ():
            rates = rates_of(here, measure, problems)
            for fit, control in rates:
                n_samples = here.filter(pl.col("fit") == fit, pl.col("control").eq_missing(control))["n_samples"][0]
                common = {"label": labels[fit], "decoding": decoding, "n_samples": n_samples}
                rows.append(common | effect(rates, fit, control, measure, weights))
    return VECTOR_EFFECTS.frame(rows)


def rates_of(here: pl.DataFrame, measure: str, problems: Sequence[str]) -> Rates:
    """The rates of every arm, all in the order of `problems`."""
    found = {}
    for (fit, control), arm in here.group_by(["fit", "control"], maintain_order=True):
        if arm["problem_id"].to_list() != list(problems):
            raise EstimateError(f"{fit} answered other problems than the first arm: want all of one exam, in its order")
        found[fit, control] = arm[measure].to_numpy()
    return found


def effect(
    rates: Rates, fit: str, control: str | None, measure: str, weights: Int[np.ndarray, "boot _problem"]
) -> dict[str, object]:
    """A `VECTOR_EFFECTS` row, but for what does not hang on the numbers."""
    mine, base, tuned = rates[fit, control], rates["base", None], rates["tuned", None]
    level, gain = mean_interval(mine, weights, bounds=(0.0, 1.0)), difference_interval(mine, base, weights)
    share = elicited_share(mine, base, tuned, weights)
    has_share = fit not in ("base", "tuned") and measure != "incoherent"
    is_base = fit == "base"
    controls = {other: rate for (name, other), rate in rates.items() if name == fit and other is not None}
    best_control = (
        None if control is not None else max(controls, key=lambda name: float(controls[name].mean()), default=None)
    )
    beyond = None if best_control is None else difference_interval(mine, controls[best_control], weights)
    return {
        "fit": fit,
        "control": control,
        "measure": measure,
        "value": level.value,
        "low": level.low,
        "high": level.high,
        "gain": 0.0 if is_base else gain.value,
        "gain_low": 0.0 if is_base else gain.low,
        "gain_high": 0.0 if is_base else gain.high,
        "share": share.value if has_share else nan,
        "share_low": share.low if has_share else nan,
        "share_high": share.high if has_share else nan,
        "refusal": share.refusal if has_share else None,
        "best_control": best_control,
        "beyond": nan if beyond is None else beyond.value,
        "beyond_low": nan if beyond is None else beyond.low,
        "beyond_high": nan if beyond is None else beyond.high,
        "n_problems": len(mine),
    }


def fit_table(fits: Sequence[Fitted]) -> pl.DataFrame:
    """`VECTOR_FITS`: what was found where, and why what was not."""
    rows: list[dict[str, object]] = []
    for fitted in fits:
        entry = fitted.entry
        common: dict[str, object] = {"fit": entry.name, "label": entry.label, "tokens": entry.tokens}
        vectors = {} if fitted.vector is None else {ITSELF: fitted.vector}
        # All vectors of a control have the same norms.
        vectors |= {name: several[0] for name, several in fitted.controls.items()}
        for name, vector in vectors.items():
            for site, norm in vector.norms.items():
                stream = vector.residual_norms[site]
                rows.append(
                    common
                    | {
                        "control": None if name == ITSELF else name,
                        "site": str(site),
                        "norm": norm,
                        "residual_norm": stream,
                        "relative_dose": norm / stream if stream > 0 else nan,
                        "description": vector.description,
                        "reason": None,
                    }
                )
        for name, reason in fitted.reasons.items():
            missing: dict[str, object] = {
                "site": None,
                "norm": nan,
                "residual_norm": nan,
                "relative_dose": nan,
                "description": None,
            }
            rows.append(common | missing | {"control": None if name == ITSELF else name, "reason": reason})
    return VECTOR_FITS.frame(rows)


BITS = (
    "bits_per_token",
    "bits_low",
    "bits_high",
    "bits_per_problem",
    "bits_per_problem_low",
    "bits_per_problem_high",
)
"""What crosses from the tuned model at test time is nothing or, for itself, everything: the interval is that point."""


CONTROL = {
    "random": Control.RANDOM_VECTORS,
    "shuffled": Control.SHUFFLED_LABELS,
    "other-task": Control.OTHER_TASK,
    "placebo": Control.PLACEBO_PAIR,
}
"""Control of a fit -> what it controls for."""


def ladder_of(effects: pl.DataFrame) -> pl.DataFrame:
    """The same numbers as a `LADDER`, for the cards of exported vectors: arm FIT at temperature 1, and FIT-greedy."""
    rows: list[dict[str, object]] = []
    for row in effects.filter(pl.col("measure") != "incoherent").iter_rows(named=True):
        end, suffix = row["fit"] in ("base", "tuned"), "-greedy" if row["decoding"] == "greedy" else ""
        label = row["label"] if row["control"] is None else f"{CONTROLS[row['control']]}, for {row['label']}"
        control = row["control"]
        crossed = inf if row["fit"] == "tuned" else 0.0
        rows.append(
            {
                "arm": f"{row['fit']}{'' if control is None else '.' + control}{suffix}",
                "label": f"{label}{', greedy decoding' if suffix else ''}",
                "kind": "end" if end else "rung" if control is None else "control",
                "role": Role(row["fit"]) if end else Role.VECTOR,
                "decoding": row["decoding"],
                "control": None if control is None else CONTROL[control],
                "control_of": None if control is None else f"{row['fit']}{suffix}",
                "order": len(rows),
                "measure": row["measure"],
                "accuracy": row["value"],
                "over_control": row["beyond"],
                "over_control_low": row["beyond_low"],
                "over_control_high": row["beyond_high"],
                # Neither is measured here.
                "steered_share": nan,
                "truncated": nan,
                "family": "end" if end else "vector",
                "cost": 1.0,
                **dict.fromkeys(BITS, crossed),
                **{name: row[name] for name in ("low", "high", "gain", "gain_low", "gain_high")},
                **{name: row[name] for name in ("share", "share_low", "share_high", "refusal")},
                **{name: row[name] for name in ("n_problems", "n_samples")},
            }
        )
    return LADDER.frame(rows)
