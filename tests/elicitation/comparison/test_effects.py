"""Effects are means over problems, compared within one decoding and with the best control; a ladder says the same."""

import math

import polars as pl
import pytest
import torch

from elicitation.comparison.effects import effect_table, fit_table, ladder_of
from elicitation.comparison.fits import FIRST, Entry
from elicitation.comparison.fitted import Fitted
from elicitation.report.vectors.tables import VECTOR_EFFECTS, VECTOR_FITS, VECTOR_OUTCOMES
from lab.records.errors import EstimateError
from probes.capture.site import Site
from steering.fits.fits import MeanDifference
from steering.vector import SteeringVector

N = 40
LABELS = {"base": "B", "tuned": "T", "v": "vector"}


def outcomes(arms, problems=None) -> pl.DataFrame:
    """`VECTOR_OUTCOMES`; `arms` maps (fit, control, decoding) to how many of the first problems are solved."""
    names = problems or [f"p{index}" for index in range(N)]
    return VECTOR_OUTCOMES.frame(
        [
            {
                "fit": fit,
                "control": control,
                "decoding": decoding,
                "problem_id": problem,
                "n_samples": 2,
                "strict": float(index < n_solved),
                "answer": float(index < n_solved + 2),
                "incoherent": 0.25,
            }
            for (fit, control, decoding), n_solved in arms.items()
            for index, problem in enumerate(names)
        ]
    )


ARMS = {
    ("base", None, "sampled"): 4,
    ("tuned", None, "sampled"): 36,
    ("v", None, "sampled"): 20,
    ("v", "random", "sampled"): 6,
    ("v", "shuffled", "sampled"): 8,
    ("base", None, "greedy"): 0,
    ("tuned", None, "greedy"): 40,
    ("v", None, "greedy"): 30,
}


@pytest.fixture(scope="module")
def effects() -> pl.DataFrame:
    return effect_table(outcomes(ARMS), LABELS, n_boot=300, seed=0)


def row(effects, fit, control=None, decoding="sampled", measure="strict") -> dict:
    found = effects.filter(
        pl.col("fit") == fit,
        pl.col("control").eq_missing(control),
        pl.col("decoding") == decoding,
        pl.col("measure") == measure,
    )
    assert found.height == 1
    return found.row(0, named=True)


def test_values_gains_and_shares_are_those_of_hand_arithmetic(effects):
    VECTOR_EFFECTS.checked(effects)
    mine = row(effects, "v")
    assert mine["value"] == pytest.approx(20 / 40)
    assert mine["gain"] == pytest.approx(16 / 40)
    assert mine["share"] == pytest.approx(16 / 32)
    assert mine["refusal"] is None
    assert mine["low"] < mine["value"] < mine["high"]
    assert mine["share_low"] < mine["share"] < mine["share_high"]
    assert (mine["label"], mine["n_problems"], mine["n_samples"]) == ("vector", 40, 2)


def test_a_fit_stands_beside_the_best_of_its_controls_and_controls_beside_none(effects):
    mine = row(effects, "v")
    assert mine["best_control"] == "shuffled"
    assert mine["beyond"] == pytest.approx((20 - 8) / 40)
    assert mine["beyond_low"] < mine["beyond"] < mine["beyond_high"]
    for other in (row(effects, "v", "random"), row(effects, "base"), row(effects, "v", decoding="greedy")):
        assert other["best_control"] is None
        assert math.isnan(other["beyond"])


def test_a_greedy_share_is_of_the_greedy_gain(effects):
    assert row(effects, "v", decoding="greedy")["share"] == pytest.approx(30 / 40)


def test_the_models_and_what_cannot_be_read_have_no_share(effects):
    for one in (row(effects, "tuned"), row(effects, "base"), row(effects, "v", measure="incoherent")):
        assert math.isnan(one["share"])
        assert one["refusal"] is None
    assert row(effects, "base")["gain"] == 0
    assert row(effects, "v", measure="incoherent")["value"] == pytest.approx(0.25)


def test_a_share_of_a_gap_like_noise_is_refused_with_its_reason():
    arms = ARMS | {("tuned", None, "sampled"): 6}
    found = effect_table(outcomes(arms), LABELS, n_boot=300, seed=0)
    assert math.isnan(row(found, "v")["share"])
    assert "standard errors" in row(found, "v")["refusal"]


def test_arms_of_different_problems_are_not_compared():
    mixed = pl.concat(
        [
            outcomes({key: n for key, n in ARMS.items() if key[0] != "v"}),
            outcomes({("v", None, "sampled"): 3}, problems=[f"q{index}" for index in range(N)]),
        ]
    )
    with pytest.raises(EstimateError, match="v answered other problems"):
        effect_table(mixed, LABELS, n_boot=300, seed=0)


def test_the_ladder_of_the_card_has_the_same_numbers(effects):
    ladder = ladder_of(effects).filter(pl.col("measure") == "strict")
    assert ladder["arm"].to_list() == [
        "base", "tuned", "v", "v.random", "v.shuffled", "base-greedy", "tuned-greedy", "v-greedy",
    ]  # fmt: skip
    mine = ladder.row(2, named=True)
    assert (mine["kind"], mine["control_of"], mine["accuracy"]) == ("rung", None, pytest.approx(0.5))
    assert mine["over_control"] == pytest.approx(0.3)
    assert ladder.row(3, named=True)["control_of"] == "v"
    assert ladder.row(3, named=True)["label"] == "random directions, for vector"
    assert ladder.row(7, named=True)["label"] == "vector, greedy decoding"


def test_the_table_of_fits_has_a_row_a_site_and_a_reason_for_what_is_missing():
    sites = (Site(0), Site(1))
    directions = {sites[0]: torch.tensor([3.0, 4.0]), sites[1]: torch.tensor([0.0, 1.0])}
    vector = SteeringVector(directions, {sites[0]: 10.0, sites[1]: math.nan}, "by hand")
    entry = Entry(name="v", label="vector", method="mean-first", fit=MeanDifference(), sites=sites, where=FIRST)
    fitted = Fitted(
        entry=entry,
        vector=vector,
        controls={"shuffled": (vector, vector)},
        reasons={"placebo": "no trace"},
        digest="0",
    )
    lost = Fitted(entry=entry, vector=None, controls={}, reasons={"itself": "nothing solved"}, digest="1")
    table = VECTOR_FITS.checked(fit_table([fitted, lost]))
    assert table["control"].to_list() == [None, None, "shuffled", "shuffled", "placebo", None]
    first = table.row(0, named=True)
    assert (first["norm"], first["relative_dose"], first["tokens"]) == (5.0, 0.5, "first token")
    assert math.isnan(table.row(1, named=True)["relative_dose"])
    assert table["reason"].to_list()[4:] == ["no trace", "nothing solved"]
    assert table["site"].to_list()[4:] == [None, None]
