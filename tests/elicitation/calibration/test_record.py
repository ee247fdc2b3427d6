import math

import polars as pl
import pytest

import elicitation.calibration.record as record_module
from elicitation.calibration.record import RECORDS, SHIPPED, TRIALS, records, shipped_records
from lab.records.errors import StorageError
from lab.records.provenance import provenance
from lab.records.tables import read_table, write_table

NAN = math.nan


def trial(case: str, kind: str, truth: float, value: float | str, **changes: object) -> dict[str, object]:
    """A trial whose interval reaches 0.05 to either side of the value; words in place of a value are a refusal."""
    refusal = value if isinstance(value, str) else None
    number = NAN if isinstance(value, str) else value
    return {
        "case": case, "kind": kind, "seed": 0, "truth": truth, "truth_low": truth, "truth_high": truth,
        "estimator": "E2", "quantity": "within reach", "value": number, "low": number - 0.05, "high": number + 0.05,
        "refusal": refusal, "replicas_covered": NAN, "seconds": NAN,
    } | changes  # fmt: skip


def scored(*rows: dict[str, object]) -> dict[str, object]:
    return records(TRIALS.frame(list(rows))).row(0, named=True)


def test_a_record_is_that_of_hand_arithmetic():
    row = scored(
        trial("locked", "LOCKED", 1.0, 0.97, replicas_covered=0.9, seconds=1.0),  # error -0.03, covered
        trial("mixed", "MIXED", 0.5, 0.6, replicas_covered=0.6, seconds=3.0),  # error +0.10, not covered
        trial("taught", "TAUGHT", 0.0, 0.02, seconds=8.0),  # error +0.02, covered
        trial("taught again", "TAUGHT", 0.0, "too small a gap", replicas_covered=0.1),
    )
    assert row == pytest.approx(
        {
            "estimator": "E2",
            "quantity": "within reach",
            "n_trials": 4,
            "n_refused": 1,
            "mean_absolute_error": 0.05,
            "worst_error": 0.1,
            "bias": 0.03,
            "coverage": 2 / 3,
            "coverage_replicas": 0.75,
            "leak": 0.02,
            "n_false_alarms": 0,
            "n_silent": 0,
            "seconds": 4.0,
        }
    )


def test_an_interval_that_ends_at_the_truth_holds_it():
    ends = {"low": 0.5, "high": 0.5}
    assert scored(trial("mixed", "MIXED", 0.5, 0.5, **ends))["coverage"] == 1.0


def test_an_undefined_interval_holds_nothing_and_an_estimator_that_never_gives_one_has_no_coverage():
    lost = trial("mixed", "MIXED", 0.5, 0.5, low=NAN, high=NAN)
    assert scored(trial("locked", "LOCKED", 1.0, 1.0), lost)["coverage"] == 0.5
    assert math.isnan(scored(lost)["coverage"])


@pytest.mark.parametrize("kind", ["DILUTED", "ATOMS", "SHARPENED"])
def test_harder_kinds_stay_out_of_the_headline(kind: str):
    alone = scored(trial("locked", "LOCKED", 1.0, 0.97))
    both = scored(trial("locked", "LOCKED", 1.0, 0.97), trial("hard", kind, 1.0, 0.1))
    assert both == pytest.approx(alone, nan_ok=True)


def test_a_trial_without_a_true_share_stays_out_of_the_headline():
    alone = scored(trial("taught", "TAUGHT", 0.0, 0.02))
    both = scored(trial("taught", "TAUGHT", 0.0, 0.02), trial("no gain", "TAUGHT", NAN, 0.4))
    assert both == pytest.approx(alone, nan_ok=True)


def test_a_false_alarm_is_any_share_on_placebo_and_a_positive_one_on_absent():
    row = scored(
        trial("placebo", "PLACEBO", NAN, -0.2),
        trial("placebo again", "PLACEBO", NAN, "no gap"),
        trial("absent", "ABSENT", NAN, 0.01),
        trial("absent again", "ABSENT", NAN, -0.01),
        trial("absent at last", "ABSENT", NAN, "no gap"),
        trial("taught", "TAUGHT", 0.0, 0.9),
    )
    assert (row["n_false_alarms"], row["n_silent"], row["n_trials"]) == (2, 5, 1)


def test_what_cannot_be_computed_is_nan():
    row = scored(trial("mixed", "MIXED", 0.5, "no gap"))
    undefined = {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
    assert undefined == {name for name, dtype in RECORDS.dtypes.items() if dtype == pl.Float64}
    assert (row["n_trials"], row["n_refused"]) == (1, 1)


def test_an_undefined_share_without_a_reason_counts_as_refused():
    row = scored(trial("mixed", "MIXED", 0.5, NAN), trial("placebo", "PLACEBO", NAN, NAN))
    assert (row["n_refused"], row["n_false_alarms"]) == (1, 0)


def test_shares_come_in_order_of_first_appearance_and_apart():
    frame = records(
        TRIALS.frame(
            [
                trial("locked", "LOCKED", 1.0, 0.9, estimator="E5"),
                trial("locked", "LOCKED", 1.0, 0.8),
                trial("mixed", "MIXED", 0.5, 0.5, estimator="E5"),
                trial("locked", "LOCKED", 1.0, 1.0, quantity="another"),
            ]
        )
    )
    assert frame.select("estimator", "quantity", "n_trials").rows() == [
        ("E5", "within reach", 2),
        ("E2", "within reach", 1),
        ("E2", "another", 1),
    ]


def test_no_trials_give_no_records_and_a_strange_table_is_an_error():
    assert records(TRIALS.frame([])).is_empty()
    with pytest.raises(StorageError, match="trials"):
        records(RECORDS.frame([]))


def test_shipped_records_are_read_where_they_are_and_empty_where_not(tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    monkeypatch.setattr(record_module, "SHIPPED", tmp_path)
    assert shipped_records().is_empty()
    made = records(TRIALS.frame([trial("locked", "LOCKED", 1.0, 0.97)]))
    write_table(path, made, RECORDS, provenance("calibrate", {}, {}, device="cpu", dtype="float32", seed=0))
    assert shipped_records().equals(made)


def test_the_shipped_records_are_those_of_the_shipped_trials():
    trials = read_table(SHIPPED / "trials.parquet", TRIALS)
    assert records(trials).equals(shipped_records(), null_equal=True)
    assert trials["case"].n_unique() == 26
