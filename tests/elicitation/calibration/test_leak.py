import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import elicitation.calibration.record as leak_module
from elicitation.calibration.record import LEAKS, NOT_MEASURED, Case, leak, leaks, mean_over_cases, shipped_leaks
from elicitation.pages.study.tables import LADDER
from lab.metrics.bootstrap import mean_interval, resamples
from lab.records.errors import EstimateError, StorageError
from lab.records.provenance import provenance
from lab.records.tables import write_table

NAN = math.nan


def arm(name: str, gain: float, **changes: object) -> list[dict[str, object]]:
    """Both rows of an arm; the answer-only one is wrong by far, so that it shows where it is taken for the strict."""
    row = dict.fromkeys(LADDER.dtypes) | {
        "arm": name, "kind": "rung", "measure": "strict", "n_problems": 100, "gain": gain, "gain_low": gain - 0.03,
        "gain_high": gain + 0.04, "over_control": NAN, "over_control_low": NAN, "over_control_high": NAN,
        "share": gain / 0.5, "share_low": gain / 0.5 - 0.06, "share_high": gain / 0.5 + 0.08,
    } | changes  # fmt: skip
    return [row, row | {"measure": "answer", "gain": 9.0, "share": 9.0}]


def ladder(*arms: list[dict[str, object]]) -> pl.DataFrame:
    ends = [arm("base", 0.0, kind="end"), arm("tuned", 0.5, kind="end")]
    return LADDER.frame([row for rows in (ends[0], *arms, ends[1]) for row in rows])


REFUSED = {"share": NAN, "share_low": NAN, "share_high": NAN, "refusal": "no gap"}


def test_the_leak_is_the_mean_share_on_taught_with_the_ends_of_hand_arithmetic():
    found = leak(
        leaks(
            [
                Case("taught-1", "TAUGHT", ladder(arm("vector", 0.05, share=0.10, share_low=0.04, share_high=0.18))),
                Case("taught-2", "TAUGHT", ladder(arm("vector", 0.01, share=0.02, share_low=-0.06, share_high=0.08))),
            ]
        ),
        "vector",
    )
    assert found is not None
    # Half the root of 0.06^2 + 0.08^2 downwards, of 0.08^2 + 0.06^2 upwards.
    assert found.share == pytest.approx((0.06, 0.01, 0.11))
    assert found.gain == pytest.approx((0.03, 0.03 - 0.03 / math.sqrt(2), 0.03 + 0.04 / math.sqrt(2)))
    assert (found.n_cases, found.n_problems, found.n_refused, found.n_silent) == (2, 200, 0, 0)
    assert (found.beyond_case, math.isnan(found.beyond.value)) == ("", True)


def test_the_interval_of_the_mean_is_that_of_resampling_the_problems_of_every_case():
    generator = np.random.default_rng(3)
    problems = [generator.random(n) < rate for n, rate in ((400, 0.2), (300, 0.5), (350, 0.35))]
    alone = [mean_interval(one.astype(float), resamples(one.size, 4000, generator)) for one in problems]
    mean = mean_over_cases(pl.DataFrame([{"x": i.value, "x_low": i.low, "x_high": i.high} for i in alone]), "x")
    drawn = sum(generator.choice(one, (20_000, one.size)).mean(axis=1) for one in problems) / 3
    assert (mean.low, mean.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.003)


@given(st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_mean_lies_in_its_interval_and_more_cases_make_it_no_wider_than_the_widest(rows):
    frame = pl.DataFrame([{"x": value, "x_low": value - down, "x_high": value + up} for value, down, up in rows])
    mean = mean_over_cases(frame, "x")
    assert mean.low <= mean.value <= mean.high
    assert mean.value - mean.low <= max(down for _, down, _ in rows) + 1e-9
    assert mean.high - mean.value <= max(up for *_, up in rows) + 1e-9


def test_one_case_keeps_its_own_interval():
    mean = mean_over_cases(pl.DataFrame([{"x": 0.1, "x_low": 0.04, "x_high": 0.3}]), "x")
    assert mean == pytest.approx((0.1, 0.04, 0.3))


def test_a_refused_share_still_leaks_in_points():
    found = leak(leaks([Case("taught", "TAUGHT", ladder(arm("vector", 0.05, **REFUSED)))]), "vector")
    assert found is not None
    assert math.isnan(found.share.value)
    assert (found.gain.value, found.n_refused) == (0.05, 1)


def test_where_the_skill_is_absent_the_largest_gain_beyond_the_control_counts_and_placebos_do_not():
    over = {"over_control": 0.02, "over_control_low": -0.01, "over_control_high": 0.05}
    less = {"over_control": -0.01, "over_control_low": -0.05, "over_control_high": 0.03}
    found = leak(
        leaks(
            [
                Case("placebo", "PLACEBO", ladder(arm("vector", 0.9, **REFUSED))),
                Case("absent-1", "ABSENT", ladder(arm("vector", 0.2, **over, **REFUSED))),
                Case("absent", "ABSENT", ladder(arm("vector", 0.3, **less, **REFUSED))),
            ]
        ),
        "vector",
    )
    assert found is not None
    assert found.beyond == pytest.approx((0.02, -0.01, 0.05))
    assert (found.beyond_case, found.n_silent) == ("absent-1", 2)
    assert (found.n_cases, math.isnan(found.gain.value)) == (0, True)


def test_an_arm_without_a_control_is_set_over_the_base():
    table = leaks([Case("absent", "ABSENT", ladder(arm("prompt", 0.07)))])
    assert table.select("beyond", "beyond_low", "beyond_high").row(0) == pytest.approx((0.07, 0.04, 0.11))


def test_only_rungs_and_controls_of_kinds_that_can_leak_are_measured():
    cases = [
        Case(kind.lower(), kind, ladder(arm("vector", 0.1), arm("random", 0.0, kind="control", control_of="vector")))
        for kind in ("LOCKED", "MIXED", "TAUGHT", "ABSENT", "PLACEBO")
    ]
    table = leaks(cases)
    assert table.select("case", "arm").rows() == [
        (case, name) for case in ("taught", "absent", "placebo") for name in ("vector", "random")
    ]
    assert table["gain"].max() == 0.1


def test_a_case_that_comes_twice_is_an_error_that_names_it():
    case = Case("taught-1", "TAUGHT", ladder(arm("vector", 0.1)))
    with pytest.raises(EstimateError, match="taught-1 came more than once"):
        leaks([case, case])


def test_what_was_not_measured_has_no_leak():
    assert leak(NOT_MEASURED, "vector") is None
    assert leak(leaks([Case("taught", "TAUGHT", ladder(arm("vector", 0.1)))]), "prompt") is None


def test_shipped_leaks_are_read_where_they_are_and_empty_where_not(tmp_path, monkeypatch):
    path = tmp_path / "leaks.parquet"
    monkeypatch.setattr(leak_module, "SHIPPED", tmp_path)
    assert shipped_leaks().is_empty()
    made = leaks([Case("taught", "TAUGHT", ladder(arm("vector", 0.1)))])
    write_table(path, made, LEAKS, provenance("calibrate", {}, {}, device="cpu", dtype="float32", seed=0))
    assert shipped_leaks().equals(made)
    path.write_bytes(b"none")
    with pytest.raises(StorageError):
        shipped_leaks()
