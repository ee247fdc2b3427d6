import math
import re
from typing import Any

import polars as pl
import pytest

from elicitation.calibration.record import RECORDS
from elicitation.estimators.estimate import ESTIMATES, Analysis
from elicitation.estimators.panel import panel
from elicitation.pages.kit.markup import escaped
from elicitation.pages.record_words import record_words
from elicitation.pages.study.estimates import ASKS, estimates_section, quantity, quantity_words
from lab.sampling.trace import VERDICTS
from tests.elicitation.pages.opened import kinds, plain
from tests.evidence import evidence_of

NAN = math.nan
GAP = "the gap of 1.2 points is 0.8 standard errors, under the five that a share needs"
ROWS = (
    # estimator, quantity, unit, value, low, high, refusal
    ("E10", "KL of base from tuned on the new task", "nats", 4.213, 3.9, 4.5, None),
    ("E10", "old-task drop, strict", "points", 0.021, -0.004, 0.046, None),
    ("E1", "gain on problems the base solves when sampled", "share", 0.97, 0.91, 1.02, None),
    ("E1", "Cover@0.5, base", "problems", 0.94, 0.9, 0.97, None),
    ("E2", "gain within the base's reach", "share", 0.95, 0.88, 1.01, None),
    ("E2", "base success, importance sampled", "probability", 3.2e-6, 1.1e-6, 0.004, None),
    ("E2", "base-equivalent budget k*", "samples", 12480.0, 310.0, math.inf, None),
    ("E3", "filtering share of the KL", "share", NAN, NAN, NAN, "the base solved none of 128 samples"),
    ("E4", "shifted tokens, in the tuned model's texts", "tokens", 0.031, 0.022, 0.041, None),
    ("E5", "fitted vector at the first token, sampled", "share", 0.61, 0.55, 0.68, None),
    ("E8", "information gain before leakage, read by tuned", "nats", 2.31, 2.1, 2.52, None),
)


def estimates(rows: tuple[tuple[Any, ...], ...] = ROWS) -> pl.DataFrame:
    return ESTIMATES.frame([dict(zip(ESTIMATES.dtypes, row, strict=True)) for row in rows])


def records(**changes: object) -> pl.DataFrame:
    rows = [
        {
            "estimator": estimator, "quantity": quantity, "n_trials": 15, "n_refused": 0, "mean_absolute_error": error,
            "worst_error": 0.1, "bias": 0.01, "coverage": 0.953, "coverage_replicas": 0.95, "leak": 0.012,
            "n_false_alarms": 0, "n_silent": 4, "seconds": 2.0,
        } | changes
        for (estimator, quantity, unit, *_), error in zip(ROWS, range(99), strict=False)
        if unit == "share" and estimator != "E1"
        for error in (0.034,)
    ]  # fmt: skip
    return RECORDS.frame(rows)


def section(rows: tuple[tuple[Any, ...], ...] = ROWS) -> str:
    return plain(estimates_section(estimates(rows), records()))


def test_shares_stand_first_with_their_calibration_record():
    text = section()
    assert (
        "on organisms of known share: mean error 3.4 points, interval held the truth in 95 % of 15, leak 1 %; " in text
    )
    assert "0 false alarms in 4 with no gain to explain" in text
    assert '95 % <span class="span">[88, 101]</span>' in text
    assert text.index("[88, 101]") < text.index("<h3>")


def test_a_share_without_a_record_is_said_to_be_not_calibrated():
    assert section().count("not calibrated") == 1
    assert plain(estimates_section(estimates(), RECORDS.frame([]))).count("not calibrated") == 4


def test_a_refused_share_has_a_number_that_leads_to_its_reason():
    text = section()
    assert "refused<sup>1</sup>" in text
    assert "<li>the base solved none of 128 samples</li>" in text


def test_estimators_come_in_order_and_say_what_they_ask():
    headings = re.findall(r"<h3>(.*?)</h3>", section())
    assert headings == [f"{name} · {title}" for name, (title, _) in ASKS.items()]
    assert all(f"<p>{escaped(asks)}</p>" in section() for _, asks in ASKS.values())


def test_shares_outside_each_others_intervals_are_listed_with_the_reason_known():
    text = section()
    assert "Not within each other's intervals</b> are 2 of the 3 pairs that can be compared" in text
    assert "E2 (gain within the base&#x27;s reach): 95 % [88, 101] and E5 (" in text
    assert "E5 asks what one vector makes it do at once" in text
    assert "E1 (gain on problems the base solves when sampled): 97 % [91, 102] and E2" not in text


def test_shares_that_overlap_are_said_to_agree():
    text = section(ROWS[:6])
    assert "The 2 shares given agree: each lies within the interval of every other." in text
    assert "Not within" not in text


def test_two_shares_of_one_estimator_are_not_set_against_each_other():
    twin = ("E2", "another share", "share", 0.1, 0.0, 0.2, None)
    text = section((ROWS[4], twin))
    assert "shares given agree" not in text
    assert "each other's intervals" not in text


def test_a_study_without_estimates_has_no_section_and_one_without_shares_says_so():
    assert estimates_section(ESTIMATES.frame([]), records()) == ""
    assert "No estimator gives a share" in section(ROWS[:2])


@pytest.mark.parametrize(
    ("unit", "numbers", "written"),
    [
        ("share", (0.5, 0.4, 0.6), ("50.0 % of the gain", "[40.0, 60.0]")),
        ("probability", (3.24e-6, 0.0, 0.004), ("3.2·10⁻⁶", "[0.0 %, 4.0·10⁻³]")),
        ("probability", (0.25, NAN, NAN), ("25.0 %", "")),
        ("points", (-0.021, -0.05, 0.01), ("−2.1 points", "[−5.0, 1.0]")),
        ("nats", (4.2134, 3.9, 4.5), ("4.21 nats", "[3.9, 4.5]")),
        ("samples", (12480.4, 310.0, math.inf), ("12 480 samples", "[310, ∞]")),
        ("tokens", (0.03, 0.02, 0.04), ("3.0 % of tokens", "[2.0, 4.0]")),
        ("bits", (NAN, NAN, NAN), ("–", "")),
    ],
)
def test_an_estimate_is_written_in_its_unit(unit: str, numbers: tuple[float, float, float], written: tuple[str, str]):
    assert tuple(map(plain, quantity(unit, *numbers))) == written


def test_every_quantity_of_every_estimator_is_put_in_plain():
    verdicts = VERDICTS.frame(
        [
            {
                "arm": arm, "problem_id": f"p{problem}", "sample_index": sample, "answer_correct": solved,
                "process_valid": solved, "strict": solved, "reason": "ok", "read_by": "box",
                "outcome": "right" if solved else "wrong",
            }
            for arm, solved in (("base", False), ("tuned", True))
            for problem in range(6)
            for sample in range(8)
        ]
    )  # fmt: skip
    asked = panel(evidence_of(verdicts), Analysis(n_boot=100)).select("estimator", "quantity").rows()
    assert {estimator for estimator, _ in asked} == set(ASKS)
    assert [pair for pair in asked if not quantity_words(*pair)] == []
    assert quantity_words("E99", "SRR") == ""


def test_a_record_says_what_it_lacks():
    row = records().row(0, named=True)
    assert record_words(None) == "not calibrated"
    assert record_words(row | {"n_trials": 0, "n_silent": 0}) == "not calibrated"
    assert record_words(row | {"n_refused": 15, "n_silent": 0}) == "on organisms of known share: refused all 15"
    some = plain(record_words(row | {"n_refused": 3, "leak": NAN, "n_false_alarms": 1}))
    assert some == (
        "on organisms of known share: mean error 3.4 points, interval held the truth in 95 % of 12, refused 3 of 15; "
        "1 false alarm in 4 with no gain to explain"
    )


@pytest.mark.parametrize("payload", ["<script>x</script>", "\"' onclick='x' y=\"", "</td><img src=x onerror=x>"])
def test_hostile_text_makes_no_element_of_the_section(payload: str):
    def poisoned(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
        return frame.with_columns(
            pl.when(pl.col(name).is_not_null()).then(pl.concat_str(pl.col(name), pl.lit(payload))).alias(name)
            for name in names
        )

    named = ("estimator", "quantity")
    text = estimates_section(poisoned(estimates(), *named, "refusal"), poisoned(records(), *named))
    assert kinds(text) <= kinds(section())
    assert payload not in text
