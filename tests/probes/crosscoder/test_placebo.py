"""The kinds of a pair's latents stand beside a placebo's, or there is no difference and a reason."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from probes.crosscoder.compare import KINDS, against_placebo, with_placebo
from probes.tables import LATENT_KINDS, LATENTS

some_kinds = st.lists(st.sampled_from(KINDS), max_size=30)
DIFFERENCE = ("difference", "difference_low", "difference_high")


def of_kind(table: pl.DataFrame, kind: str) -> dict[str, object]:
    return table.row(by_predicate=pl.col("kind") == kind, named=True)


@given(some_kinds, some_kinds)
def test_shares_and_their_intervals_are_wilsons_over_living_latents(frames, pair, placebo):
    table = LATENT_KINDS.checked(against_placebo(frames(pair), frames(placebo)))
    assert table["kind"].to_list() == list(KINDS)
    for kind in KINDS:
        row = of_kind(table, kind)
        for prefix, came in (("", pair), ("placebo_", placebo)):
            n_of = len(came) if kind == "dead" else len(came) - came.count("dead")
            names = (f"{prefix}share", f"{prefix}low", f"{prefix}high")
            if n_of == 0:
                assert row[f"{prefix}n"] is None
                assert np.isnan([row[name] for name in names]).all()
                continue
            assert row[f"{prefix}n"] == came.count(kind)
            wilson = binomtest(came.count(kind), n_of).proportion_ci(method="wilson")
            wanted = (came.count(kind) / n_of, wilson.low, wilson.high)
            assert [row[name] for name in names] == pytest.approx(wanted, abs=1e-9)


def test_the_interval_of_a_difference_is_newcombes(frames):
    # Newcombe 1998, example (a), method 10: 56 of 70 and 48 of 80 differ by 0.2, from 0.0524 to 0.3339.
    table = against_placebo(
        frames(["tuned only"] * 56 + ["shared"] * 14), frames(["tuned only"] * 48 + ["undecided"] * 32)
    )
    row = of_kind(table, "tuned only")
    assert [row[name] for name in DIFFERENCE] == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)
    assert row["reason"] == "ok"


@given(some_kinds, some_kinds)
def test_pair_and_placebo_in_each_others_place_turn_the_difference_round(frames, pair, placebo):
    one, other = (against_placebo(frames(a), frames(b)) for a, b in ((pair, placebo), (placebo, pair)))
    assert np.allclose(one["difference"], -other["difference"], equal_nan=True)
    assert np.allclose(one["difference_low"], -other["difference_high"], equal_nan=True)


@pytest.mark.parametrize(
    ("pair", "placebo", "reason"),
    [
        (["shared"], None, "no living latents of a placebo: compare the base with a later checkpoint"),
        (["shared"], ["dead"], "no living latents of a placebo"),
        (None, ["shared"], "no living latents of the pair: train and read its crosscoder"),
        (["dead", "dead"], ["shared"], "no living latents of the pair"),
        (None, None, "no living latents of the pair"),
    ],
)
def test_without_either_there_is_no_difference_and_a_reason(frames, pair, placebo, reason):
    table = against_placebo(*(None if kinds is None else frames(kinds) for kinds in (pair, placebo)))
    row = of_kind(table, "shared")
    assert np.isnan([row[name] for name in DIFFERENCE]).all()
    assert row["reason"].startswith(reason)
    # What is known of the one that came is still there.
    assert np.isnan(row["share"]) == (pair in (None, ["dead", "dead"]))
    assert np.isnan(row["placebo_share"]) == (placebo in (None, ["dead"]))


def test_the_placebo_share_of_a_latent_by_hand(frames):
    pair = frames(["shared", "tuned only", "base only", "dead"], [0.5, 0.9, 0.25, 0.9])
    placebo = frames(["shared", "shared", "undecided", "shared", "dead"], [0.5, 0.625, 0.25, 0.45, 1.0])
    table = LATENTS.checked(with_placebo(pair, placebo))
    # Of four living ones all are as far from 1/2 as 0.5 is, none as 0.9, and one (itself a tie) as 0.25.
    assert table["placebo_share"].to_list()[:3] == [1.0, 0.0, 0.25]
    assert np.isnan(table["placebo_share"][3])
    assert table.drop("placebo_share").equals(pair.drop("placebo_share"))


def test_a_placebo_of_dead_latents_gives_no_share(frames):
    assert with_placebo(frames(["shared"]), frames(["dead"]))["placebo_share"].is_nan().all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_beside_itself_every_latent_finds_at_least_itself(frames, norms):
    latents = frames(["shared"] * len(norms), norms)
    shares = with_placebo(latents, latents)["placebo_share"]
    assert shares.min() >= 1 / len(norms)
    assert shares.max() == 1.0
