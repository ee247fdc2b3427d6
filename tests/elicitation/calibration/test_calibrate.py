"""Calibration end to end, on shipped organisms, with few samples."""

from dataclasses import replace

import polars as pl
import pytest

from elicitation.calibration.record import SILENT
from elicitation.calibration.run import PathStart, calibrate, path_rows, path_starts
from elicitation.calibration.trials import QUICK, case_out, known_cases
from elicitation.estimators.estimate import ESTIMATES
from lab.post_training.path_test import PathTest
from lab.records.errors import ModelError
from lab.records.tables import read_table

SMALL = replace(
    QUICK, n_problems=40, n_curve_samples=16, n_score_samples=8, n_boot=200, n_replicas=2, n_fit_problems=32
)
CASES = {case.name: case for case in known_cases()}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A small calibration of one pair with everything to elicit, one with nothing, and the two silent kinds."""
    out = tmp_path_factory.mktemp("calibration") / "out"
    only = ("locked", "taught", "placebo", "absent")
    found = calibrate(
        SMALL, out, seed=0, device="cpu", jobs=2, only=only, command="lab calibrate", watch=lambda *_: None
    )
    return out, found


def ours(trials: pl.DataFrame) -> pl.DataFrame:
    """Without the published formula of the rivals, which refuses nothing."""
    theirs = pl.col("quantity").str.ends_with("their formula")
    assert not trials.filter(theirs).is_empty()
    return trials.filter(~theirs)


@pytest.mark.slow
def test_every_share_of_a_placebo_is_refused_and_says_why(calibrated):
    _, found = calibrated
    placebo = ours(found.trials).filter(pl.col("kind") == "PLACEBO")
    assert placebo.height >= 6
    assert placebo["refusal"].null_count() == 0
    assert placebo["value"].is_nan().all()


@pytest.mark.slow
def test_a_pair_that_learned_nothing_yields_no_positive_share(calibrated):
    _, found = calibrated
    absent = ours(found.trials).filter(pl.col("kind") == "ABSENT")
    assert absent.height >= 6
    assert absent.filter(pl.col("refusal").is_null() & (pl.col("value") > 0)).is_empty()


@pytest.mark.slow
def test_a_locked_skill_reads_as_elicited_and_a_taught_one_as_not(calibrated):
    _, found = calibrated
    for kind, wanted in (("LOCKED", 1.0), ("TAUGHT", 0.0)):
        mine = found.trials.filter(pl.col("kind") == kind)
        by_name = {(row["estimator"], row["quantity"]): row for row in mine.iter_rows(named=True)}
        assert by_name["E2", "gain within the base's reach"]["value"] == pytest.approx(wanted, abs=0.1)
        assert by_name["E5", "fitted vector at the first token, greedy"]["value"] == pytest.approx(wanted, abs=0.1)
        assert set(mine["truth"]) == {wanted}


@pytest.mark.slow
def test_the_three_parts_of_the_divergence_add_up_to_an_independent_total(calibrated):
    out, _ = calibrated
    for name in ("locked", "taught"):
        table = read_table(case_out(out, CASES[name]) / "estimates" / "estimates.parquet", ESTIMATES)
        row = table.row(by_predicate=pl.col("quantity") == "parts minus token-by-token total", named=True)
        assert row["low"] <= 0.0 <= row["high"], name


@pytest.mark.slow
def test_a_calibration_that_is_run_again_computes_nothing_and_writes_the_same_tables(calibrated):
    out, found = calibrated
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))}
    seen = []
    again = calibrate(
        SMALL, out, seed=0, device="cpu", jobs=1, only=("locked", "taught", "placebo", "absent"),
        command="lab calibrate", watch=lambda *told: seen.append(told),
    )  # fmt: skip
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))} == before
    assert again.records.equals(found.records, null_equal=True)
    assert found.page.stat().st_size > 100_000


def test_an_organism_without_a_known_answer_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match="zero-base"):
        calibrate(
            SMALL,
            tmp_path / "out",
            seed=0,
            device="cpu",
            jobs=1,
            only=("zero-base",),
            command="",
            watch=lambda *_: None,
        )
    assert not (tmp_path / "out").exists()


def test_every_kind_of_organism_is_among_the_cases():
    kinds = {case.kind for case in CASES.values()}
    assert kinds == {"LOCKED", "DILUTED", "ATOMS", "TAUGHT", "MIXED", "SHARPENED", *SILENT}
    for kind in ("LOCKED", "TAUGHT", "MIXED", "PLACEBO"):
        assert len({case.seed for case in CASES.values() if case.kind == kind}) >= 3, kind
    mixed = [case.truth for case in CASES.values() if case.kind == "MIXED"]
    assert len(mixed) >= 9
    assert sorted({round(4 * share) for share in mixed}) == [1, 2, 3]


@pytest.mark.slow
def test_one_round_of_its_own_samples_unlocks_what_a_base_has_and_nothing_else(tmp_path):
    assert PathStart(base="world", task="chain:#:3-5") in path_starts(list(CASES.values()))
    test = PathTest(n_problems=100, n_samples=32, n_rounds=2)
    for task, low, high in (("chain:#:3-5", 0.8, 1.0), ("chain:*:3-5", 0.0, 0.05)):
        rows = path_rows(PathStart(base="world", task=task), test, tmp_path, seed=0, device="cpu")
        values = dict(rows.select("route", "value").iter_rows())
        assert values["base model"] < 0.1
        assert low <= values["one round"] <= high, task
