from dataclasses import replace
from math import log

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.estimate import ESTIMATES, Analysis
from elicitation.estimators.kl_split import kl_split, split
from lab.records.errors import EstimateError
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import SCORES
from tests.evidence import evidence_of

FAST = Analysis(n_boot=400)
PARTS = ("filtering", "mode change", "waste")
CHECK = "parts minus token-by-token total"


def divergence(new, old):
    """KL(new || old) of two explicit distributions, in nats."""
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    return float(np.sum(new[new > 0] * np.log(new[new > 0] / old[new > 0])))


class Tree:
    """A policy over completions of two binary tokens, as its next-token distributions; completions count 00 to 11."""

    def __init__(self, first, after_0, after_1):
        self.first, self.second = (first, 1 - first), ((after_0, 1 - after_0), (after_1, 1 - after_1))
        self.completions = np.array([self.first[a] * self.second[a][b] for a in (0, 1) for b in (0, 1)])

    def token_kl(self, other, y):
        """Sum over the two tokens of completion y of this policy's next-token divergence from the other's."""
        return divergence(self.first, other.first) + divergence(self.second[y // 2], other.second[y // 2])


BASE, TUNED = Tree(0.2, 0.5, 0.25), Tree(0.5, 0.8, 0.4)
"""Completions in tenths: 1 1 2 6 by the base, 4 1 2 3 by the tuned model."""
CORRECT = np.array([True, False, True, False])


def samples(problem, base, tuned, correct, of_base, of_tuned):
    """What either model wrote, read by both."""
    rows = []
    for writer, mine, other, written in (("base", base, tuned, of_base), ("tuned", tuned, base, of_tuned)):
        read = [
            (writer, problem, log(base.completions[y]), log(tuned.completions[y]), mine.token_kl(other, y), correct[y])
            for y in range(4)
        ]
        rows += [read[y] for y in written]
    return rows


def evidence(rows):
    frame = pl.DataFrame(
        rows, schema=["writer", "problem_id", "logp_base", "logp_tuned", "token_kl", "strict"], orient="row"
    ).with_columns(
        pl.col("logp_base", "logp_tuned", "token_kl").cast(pl.Float64),
        pl.col("strict").cast(pl.Boolean),
        sample_index=pl.int_range(pl.len()).over("writer", "problem_id").cast(pl.Int32),
    )
    return evidence_of(
        frame.select(
            "problem_id",
            "sample_index",
            "strict",
            arm="writer",
            answer_correct="strict",
            process_valid=pl.lit(None, dtype=pl.Boolean),
            reason=pl.lit("ok"),
            read_by=pl.lit("box"),
            outcome=pl.lit("right"),
        ).select(list(VERDICTS.dtypes)),
        scores=frame.with_columns(n_tokens=pl.lit(2, dtype=pl.Int32)).select(list(SCORES.dtypes)),
    )


def in_proportion(problem, base, tuned, correct):
    """Ten samples of either model, each completion as often as its probability says: no Monte Carlo error is left."""
    of_base, of_tuned = (
        np.repeat(np.arange(4), np.rint(10 * policy.completions).astype(int)) for policy in (base, tuned)
    )
    return samples(problem, base, tuned, correct, of_base, of_tuned)


def random_samples(generator, n_problems, n, base=BASE, tuned=TUNED, correct=CORRECT):
    return [
        row
        for index in range(n_problems)
        for row in samples(
            f"p{index:03d}",
            base,
            tuned,
            correct,
            generator.choice(4, size=n, p=base.completions),
            generator.choice(4, size=n, p=tuned.completions),
        )
    ]


def row(table, quantity):
    return table.row(by_predicate=pl.col("quantity") == quantity, named=True)


def values(table):
    return dict(zip(table["quantity"], table["value"], strict=True))


def test_with_samples_in_proportion_every_part_is_exact():
    table = kl_split(evidence([s for i in range(60) for s in in_proportion(f"p{i}", BASE, TUNED, CORRECT)]), FAST)
    found = values(table)
    old, new = BASE.completions, TUNED.completions
    p0, p1 = old[CORRECT].sum(), new[CORRECT].sum()
    assert (p0, p1) == (pytest.approx(0.3), pytest.approx(0.6))
    total = divergence(new, old)
    assert found["KL of tuned from base"] == pytest.approx(total)
    assert found["KL, summed token by token"] == pytest.approx(total)
    assert found["filtering"] == pytest.approx(divergence([p1, 1 - p1], [p0, 1 - p0]))
    assert found["mode change"] == pytest.approx(p1 * divergence(new[CORRECT] / p1, old[CORRECT] / p0))
    assert found["waste"] == pytest.approx((1 - p1) * divergence(new[~CORRECT] / (1 - p1), old[~CORRECT] / (1 - p0)))
    assert found[CHECK] == pytest.approx(0, abs=1e-12)
    assert found["filtering share of the KL"] == pytest.approx(divergence([p1, 1 - p1], [p0, 1 - p0]) / total)
    assert all(found[part] > 0.001 for part in PARTS), "no part is trivial"


def test_a_model_that_only_filters_changes_no_mode():
    base, filtered = Tree(0.5, 0.4, 0.6), Tree(1.0, 0.4, 0.6)
    correct = np.array([True, True, False, False])
    rows = [
        ("base", f"p{i}", log(base.completions[y]), log(filtered.completions[y]) if y < 2 else -500.0, 0.0, correct[y])
        for i in range(60)
        for y in (0, 0, 1, 1, 1, 2, 2, 2, 3, 3)
    ] + [
        ("tuned", f"p{i}", log(base.completions[y]), log(filtered.completions[y]), log(2), True)
        for i in range(60)
        for y in (0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    ]
    found = values(kl_split(evidence(rows), FAST))
    assert found["filtering"] == pytest.approx(log(2))
    assert found["mode change"] == pytest.approx(0, abs=1e-12)
    assert found["waste"] == 0
    assert found["filtering share of the KL"] == pytest.approx(1)


def test_a_model_that_succeeds_as_often_in_another_way_filters_nothing():
    base, tuned = Tree(0.5, 0.8, 0.6), Tree(0.5, 0.2, 0.6)
    correct = np.array([True, True, False, False])
    table = kl_split(evidence([s for i in range(12) for s in in_proportion(f"p{i}", base, tuned, correct)]), FAST)
    assert row(table, "filtering")["value"] == pytest.approx(0, abs=1e-12)
    assert row(table, "mode change")["value"] == pytest.approx(0.5 * divergence([0.2, 0.8], [0.8, 0.2]))
    assert row(table, "waste")["value"] == pytest.approx(0, abs=1e-12)
    assert "standard error" in row(table, "filtering share of the KL")["refusal"], "no gain, no share"


def test_a_problem_without_a_success_or_without_a_failure_has_no_such_part():
    for verdict, empty, full in ((False, "mode_change", "waste"), (True, "waste", "mode_change")):
        parts = split(
            evidence([("base", "p", -1.0, -2.0, 0.0, not verdict)] * 3 + [("tuned", "p", -2.0, -1.0, 1.0, verdict)] * 2)
        )
        assert getattr(parts, empty)[0] == 0
        # either model wrote one kind of sample: each tuned one counts 1 / (3 + 2 e), a base one 1 / (3 + 2 / e)
        rate = 2 / (3 + 2 * np.e)
        assert parts.total[0] == pytest.approx(1)
        if verdict:
            assert parts.filtering[0] == pytest.approx(-log(rate))
            assert getattr(parts, full)[0] == pytest.approx(1 + log(rate))
        else:
            right = 3 / (3 + 2 / np.e)
            assert parts.filtering[0] == pytest.approx(-log(1 - right))
            assert getattr(parts, full)[0] == pytest.approx(1 + log(1 - right))


logps = st.floats(-300, 0)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["base", "tuned"]), logps, logps, st.booleans()), min_size=1, max_size=10))
def test_the_parts_always_add_up_to_the_sampled_total(drawn):
    rows = [(w, "p", b, t, 0.0, s) for w, b, t, s in drawn] + [("tuned", "p", -3.0, -1.0, 0.0, True)]
    parts = split(evidence(rows))
    assert np.isfinite(parts).all()
    assert parts.filtering[0] >= -1e-9
    assert parts.filtering[0] + parts.mode_change[0] + parts.waste[0] == pytest.approx(parts.total[0], abs=1e-9)


def test_from_random_samples_the_parts_come_close_and_the_check_holds():
    table = kl_split(evidence(random_samples(np.random.default_rng(0), 60, 64)), FAST)
    found = values(table)
    total = divergence(TUNED.completions, BASE.completions)
    for quantity in ("KL of tuned from base", "KL, summed token by token"):
        assert row(table, quantity)["low"] < total < row(table, quantity)["high"]
    assert found["filtering"] == pytest.approx(divergence([0.6, 0.4], [0.3, 0.7]), rel=0.15)
    check = row(table, CHECK)
    assert check["low"] < 0 < check["high"]
    widths = {
        quantity: row(table, quantity)["high"] - row(table, quantity)["low"]
        for quantity in ("KL of tuned from base", "KL, summed token by token")
    }
    assert widths["KL, summed token by token"] < widths["KL of tuned from base"]
    share = row(table, "filtering share of the KL")
    assert share["low"] < divergence([0.6, 0.4], [0.3, 0.7]) / total < share["high"]


def test_the_check_notices_completions_scored_at_another_temperature():
    data = evidence(random_samples(np.random.default_rng(1), 60, 64))
    flattened = data.scores.with_columns(pl.col("logp_tuned") * 0.8)
    check = row(kl_split(replace(data, scores=flattened), FAST), CHECK)
    assert not check["low"] < 0 < check["high"]


def test_with_few_samples_filtering_comes_out_too_large_by_about_half_of_one_over_n():
    """As the docstring says; the base's rate is nearly known, from samples in proportion that outnumber the rest."""
    many = np.repeat(np.arange(4), [100, 100, 200, 600])
    generator = np.random.default_rng(2)
    written = generator.choice(4, size=(80, 20), p=TUNED.completions)
    rows = [s for i, some in enumerate(written) for s in samples(f"p{i:02d}", BASE, TUNED, CORRECT, many, some)]
    slope = log(0.6 / 0.3) - log(0.4 / 0.7)  # the error that averages out, taken off to see the other
    even = divergence([0.6, 0.4], [0.3, 0.7]) + slope * (CORRECT[written].mean(axis=1) - 0.6)
    excess = split(evidence(rows)).filtering - even
    assert excess.mean() == pytest.approx(1 / 40, rel=0.5)
    assert excess.std() / np.sqrt(80) < 1 / 160, "the excess is no chance"


def test_a_divergence_that_is_not_positive_has_no_shares():
    rows = [
        s
        for i in range(20)
        for s in [("base", f"p{i}", -1.0, -1.0, 0.0, False)] * 4 + [("tuned", f"p{i}", -1.0, -1.5, 0.1, True)] * 4
    ]
    found = row(kl_split(evidence(rows), FAST), "filtering share of the KL")
    assert "-0.5 nats" in found["refusal"]


def test_without_scores_every_row_says_why_not():
    data = evidence([s for i in range(4) for s in in_proportion(f"p{i}", BASE, TUNED, CORRECT)])
    whole, table = kl_split(data, FAST), kl_split(replace(data, scores=SCORES.frame([])), FAST)
    assert table["quantity"].to_list() == whole["quantity"].to_list()
    assert ESTIMATES.checked(table)["quantity"].is_unique().all()
    assert table["refusal"].str.contains("no scores").all()


def test_a_problem_without_a_scored_sample_of_the_tuned_model_is_named():
    data = evidence([s for i in range(4) for s in in_proportion(f"p{i}", BASE, TUNED, CORRECT)])
    kept = data.scores.filter((pl.col("writer") == "base") | (pl.col("problem_id") != "p2"))
    with pytest.raises(EstimateError, match="tuned model's samples on problem 'p2'"):
        kl_split(replace(data, scores=kept), FAST)
