import html
import itertools
import math

import pytest

from elicitation.pages.study.estimates import REASONS, agreement_words

NAN = math.nan
REACH, SOLVED, KL, RANKS = (
    ("E2", "gain within the base's reach"),
    ("E1", "gain on problems the base solves when sampled"),
    ("E3", "filtering share of the KL"),
    ("E4", "reranked tokens replaced"),
)
SAMPLED, GREEDY = (("E5", f"fitted vector at the first token, {how}") for how in ("sampled", "greedy"))


def share(name: tuple[str, str], value: float, half: float = 0.05, refusal: str | None = None) -> dict[str, object]:
    return {
        "estimator": name[0], "quantity": name[1], "value": value, "low": value - half, "high": value + half,
        "refusal": refusal,
    }  # fmt: skip


def words(*rows: dict[str, object]) -> str:
    return html.unescape(agreement_words(rows)).replace("\u202f", " ").replace("\u00a0", " ")


def test_shares_within_each_others_intervals_agree():
    assert "The 2 shares given agree" in words(share(SOLVED, 0.9), share(REACH, 0.93))


def test_a_share_inside_a_wide_interval_does_not_agree_with_it_unless_it_holds_the_other_too():
    text = words(share(SOLVED, 0.9), share(REACH, 0.7, half=0.3))
    assert "No two shares lie within" in text
    assert "E2 (gain within the base's reach): 70 % [40, 100], whose intervals overlap" in text


def test_shares_apart_are_not_said_to_overlap():
    text = words(share(SOLVED, 0.9), share(REACH, 0.2))
    assert "overlap" not in text
    assert "1 of the 1 pair that can be compared" in text


def test_agreeing_and_differing_pairs_are_both_named_and_counted():
    text = words(share(SOLVED, 0.9), share(REACH, 0.92), share(KL, 0.2))
    assert "are E1 (gain on problems the base solves when sampled) and E2 (gain within the base's reach)." in text
    assert "2 of the 3 pairs" in text
    # One reason for both pairs, written once.
    assert text.count("E3 measures how far tuning moved the model") == 1


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (SOLVED, REACH, "grows with their number"),
        (REACH, KL, "not where the gain came from"),
        (REACH, RANKS, "blind to whether the base would have reached them"),
        (SOLVED, SAMPLED, "depends on their number; E5"),
        (REACH, GREEDY, "what one vector makes it do at once"),
        (SAMPLED, GREEDY, "sampling adds slips"),
        (KL, RANKS, "E3 measures"),
    ],
)
def test_a_differing_pair_has_its_declared_reason_whichever_comes_first(one, other, reason: str):
    for rows in ((share(one, 0.9), share(other, 0.1)), (share(one, 0.1), share(other, 0.9))):
        for ordered in (rows, rows[::-1]):
            assert reason.lower() in words(*ordered).lower()


def test_no_reason_is_invented_for_a_pair_that_has_none():
    text = words(share(("E7", "probe"), 0.9), share(SOLVED, 0.1))
    assert "No reason is known to the lab" in text


def test_e1_is_not_taken_for_e10():
    text = words(share(("E10", "x"), 0.9), share(REACH, 0.1))
    assert "No reason is known to the lab" in text


def test_two_shares_of_one_estimator_are_compared_only_where_a_reason_speaks_of_both():
    assert words(share(REACH, 0.9), share(("E2", "another"), 0.1)) == ""
    assert words(share(KL, 0.9), share(("E3", "another"), 0.1)) == ""
    assert "sampling adds slips" in words(share(SAMPLED, 0.9), share(GREEDY, 0.1)).lower()


def test_refused_shares_and_those_without_interval_are_not_compared():
    assert words(share(REACH, 0.9), share(SOLVED, 0.1, refusal="no gap")) == ""
    assert words(share(REACH, 0.9), share(SOLVED, 0.1, half=NAN)) == ""


def test_every_reason_can_be_reached():
    names = [SOLVED, REACH, KL, RANKS, SAMPLED, GREEDY]
    said = "".join(words(share(a, 0.9), share(b, 0.1)).lower() for a, b in itertools.combinations(names, 2))
    assert all(reason.split(",")[0].lower() in said for reason in REASONS.values())
