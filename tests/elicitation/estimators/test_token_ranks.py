import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.estimate import Analysis, problem_weights
from elicitation.estimators.token_ranks import token_ranks
from lab.metrics.bootstrap import percentile_interval
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import RANKS
from tests.evidence import KEYS, evidence_of

ANALYSIS = Analysis(n_boot=200)
RATES = [
    "shifted tokens, in the base's texts",
    "reranked tokens, in the base's texts",
    "shifted tokens, in the tuned model's texts",
    "reranked tokens, in the tuned model's texts",
]
ENTROPY = "entropy where reranked minus elsewhere, in the tuned model's texts"
SHARE = "reranked tokens replaced"
CONTROLS = ["base's second choice at those tokens", "random likely token, at random tokens"]
N = 20
SOLVED = {
    "base": [0] * 10 + [1] * 10,
    "tuned": [4] * 10 + [3] * 10,
    "base greedy": [0] * 16 + [1] * 4,
    "tuned greedy": [1] * 20,
    "reranked greedy": [0] * 8 + [1] * 12,
    "second greedy": [0] * 17 + [1] * 3,
    "scattered greedy": [0] * 20,
}


def verdicts(solved):
    """`VERDICTS` of arms given as counts of strict samples on each problem."""
    rows = [
        {
            "arm": arm,
            "problem_id": f"p{problem:02}",
            "sample_index": sample,
            "answer_correct": True,
            "process_valid": sample < count,
            "strict": sample < count,
            "reason": "ok",
            "read_by": "box",
            "outcome": "right",
        }
        for arm, counts in solved.items()
        for problem, count in enumerate(counts)
        for sample in range(1 if arm.endswith("greedy") else 4)
    ]
    return VERDICTS.frame(rows)


def ranks(texts):
    """`RANKS` of completions given as (writer, problem, [(rank, entropy), ...])."""
    return RANKS.frame(
        [
            {
                "writer": writer,
                "problem_id": f"p{problem:02}",
                "sample_index": sample,
                "position": position,
                "rank": rank,
                "entropy": float(entropy),
            }
            for sample, (writer, problem, tokens) in enumerate(texts)
            for position, (rank, entropy) in enumerate(tokens)
        ]
    )


def evidence(texts, solved=SOLVED):
    table = texts if isinstance(texts, pl.DataFrame) else ranks(texts)
    return evidence_of(
        solved if isinstance(solved, pl.DataFrame) else verdicts(solved),
        ranks=table,
    )


def rows(measured, analysis=ANALYSIS):
    return {row["quantity"]: row for row in token_ranks(measured, analysis).to_dicts()}


TEXTS = [
    ("base", 0, [(1, 0.1), (1, 0.1), (5, 0.1), (1, 0.1), (1, 0.1), (1, 0.1)]),
    ("base", 1, [(6, 0.1), (1, 0.1)]),
    ("tuned", 0, [(1, 0.2), (2, 1.0), (7, 0.4)]),
    ("tuned", 0, [(1, 0.0)]),
    ("tuned", 3, [(4, 2.0), (5, 3.0), (1, 0.2), (1, 0.2), (1, 0.2), (900, 0.8)]),
]


def test_rates_are_ratios_of_sums_over_tokens_of_one_writer():
    found = rows(evidence(TEXTS))
    wanted = [1 / 8, 1 / 8, 2 / 10, 3 / 10]  # a mean of rates would give (0 + 1/2) / 2 for the first
    assert [found[quantity]["value"] for quantity in RATES] == pytest.approx(wanted)
    assert {found[quantity]["unit"] for quantity in RATES} == {"tokens"}


def test_entropy_compares_reranked_tokens_with_all_others():
    found = rows(evidence(TEXTS))
    elsewhere = [0.2, 0.4, 0.0, 0.2, 0.2, 0.2, 0.8]
    assert found[ENTROPY]["value"] == pytest.approx((1 + 2 + 3) / 3 - sum(elsewhere) / 7)
    assert found[ENTROPY]["unit"] == "nats"


def test_the_edge_between_reranked_and_shifted_is_the_analysis_top():
    found = rows(evidence(TEXTS), Analysis(n_boot=200, top=4))
    assert [found[quantity]["value"] for quantity in RATES] == pytest.approx([2 / 8, 0, 3 / 10, 2 / 10])


def test_replacement_is_a_share_of_the_greedy_gap_and_its_controls_are_points():
    found = rows(evidence(TEXTS))
    assert found[SHARE]["value"] == pytest.approx((12 - 4) / (20 - 4))
    assert found[SHARE]["unit"] == "share"
    assert [found[quantity]["value"] for quantity in CONTROLS] == pytest.approx([-1 / 20, -4 / 20])
    assert {found[quantity]["unit"] for quantity in CONTROLS} == {"points"}


def test_these_are_all_the_rows_and_e4_is_their_estimator():
    for texts in (TEXTS, []):
        frame = token_ranks(evidence(texts), ANALYSIS)
        assert frame["quantity"].to_list() == [*RATES, ENTROPY, SHARE, *CONTROLS]
        assert frame["estimator"].unique().to_list() == ["E4"]


def test_a_problem_is_drawn_with_all_of_its_tokens():
    def width(texts):
        row = rows(evidence(texts), Analysis(n_boot=1000))[RATES[3]]
        return row["high"] - row["low"]

    apart = [("tuned", problem, [(2, 1.0)] * 5 + [(1, 1.0)] * 5) for problem in range(N)]
    clustered = [("tuned", problem, [(2 if problem % 2 else 1, 1.0)] * 10) for problem in range(N)]
    # the same 100 of 200 tokens; by the binomial of 20 problems the width is about 2 * 2.09 * sqrt(0.25 / 19) = 0.48
    assert width(clustered) == pytest.approx(0.48, abs=0.08)
    mixed = [(writer, problem, tokens[: 6 + problem % 3]) for writer, problem, tokens in apart]
    assert width(mixed) < 0.1


def test_no_shifted_token_on_n_problems_is_bounded_as_by_clopper_and_pearson():
    found = rows(evidence([("base", problem, [(1, 0.5)] * 7) for problem in range(N)]))
    row = found[RATES[0]]
    assert (row["value"], row["low"]) == (0, 0)
    assert row["high"] == pytest.approx(1 - 0.025 ** (1 / N))


def test_shifted_tokens_of_one_problem_do_not_pass_for_certainty():
    texts = [("base", problem, [(1, 0.5)] * 99 + [(9 if problem == 4 else 1, 0.5)]) for problem in range(N)]
    row = rows(evidence(texts))[RATES[0]]
    assert row["value"] == pytest.approx(1 / 2000)
    unlike = 1 - 0.025 ** (1 / N)
    assert row["high"] == pytest.approx(1 / 2000 + unlike * (1 - 1 / 2000))


def test_one_problem_gives_a_value_without_an_interval():
    found = rows(evidence(TEXTS[:1]))
    assert [found[quantity]["value"] for quantity in RATES[:2]] == pytest.approx([0, 1 / 6])
    assert np.isnan([found[quantity][end] for quantity in RATES[:2] for end in ("low", "high")]).all()


def test_intervals_come_from_the_shared_resamples_of_the_problems_that_were_read():
    tokens = [(1, 0.0), (2, 1.0), (1, 0.5)]
    texts = [("tuned", 8 + index, [*tokens, *[(index % 3 + 1, index / 10)] * index]) for index in range(12)]
    weights = problem_weights(evidence(texts), ANALYSIS)[:, 8:]
    n_tokens = np.array([3.0 + index for index in range(12)])
    here = np.array([1.0 + index * (index % 3 > 0) for index in range(12)])
    nats_here = np.array([1.0 + index**2 / 10 * (index % 3 > 0) for index in range(12)])
    nats_else = np.array([0.5 + index**2 / 10 * (index % 3 == 0) for index in range(12)])
    drawn = {
        RATES[3]: (weights @ here) / (weights @ n_tokens),
        ENTROPY: (weights @ nats_here) / (weights @ here) - (weights @ nats_else) / (weights @ (n_tokens - here)),
    }
    found = rows(evidence(texts))
    for quantity, replicates in drawn.items():
        row = found[quantity]
        wanted = percentile_interval(row["value"], replicates, 12)
        assert (row["low"], row["high"]) == pytest.approx((wanted.low, wanted.high))
        assert row["low"] < row["value"] < row["high"]


def test_texts_that_were_not_read_refuse_their_rows_alone():
    found = rows(evidence(TEXTS[:2]))
    refused = [*RATES[2:], ENTROPY]
    assert [quantity for quantity in found if found[quantity]["refusal"]] == refused
    assert all("in the tuned model's texts" in found[quantity]["refusal"] for quantity in refused)
    assert np.isnan([found[quantity]["value"] for quantity in refused]).all()


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_entropy_is_refused_where_all_tokens_or_none_are_reranked(rank):
    found = rows(evidence([("tuned", problem, [(rank, 1.0)] * 3) for problem in range(N)]))
    assert f"{60 if rank == 2 else 0} of 60 tokens are reranked" in found[ENTROPY]["refusal"]
    assert np.isnan(found[ENTROPY]["value"])


def test_entropy_seen_in_few_problems_has_no_bounded_interval():
    texts = [("tuned", problem, [(2 if problem == 0 else 1, 1.0), (1, 0.5)]) for problem in range(N)]
    row = rows(evidence(texts))[ENTROPY]
    assert np.isfinite(row["value"])
    assert (row["low"], row["high"]) == (-np.inf, np.inf)


def test_the_share_passes_the_sampled_gate_and_its_own():
    sampled = rows(evidence(TEXTS, SOLVED | {"tuned": [1] * 10 + [0] * 9 + [1]}))
    assert "the gap between tuned and base" in sampled[SHARE]["refusal"]
    assert "greedy" not in sampled[SHARE]["refusal"]
    greedy = rows(evidence(TEXTS, SOLVED | {"tuned greedy": [0] * 15 + [1] * 5}))
    assert "'tuned greedy' and 'base greedy'" in greedy[SHARE]["refusal"]
    for found in (sampled, greedy):
        assert np.isnan([found[SHARE][end] for end in ("value", "low", "high")]).all()
        assert all(found[quantity]["refusal"] is None for quantity in CONTROLS)


@pytest.mark.parametrize(
    ("arm", "refused"),
    [
        ("reranked greedy", [SHARE]),
        ("second greedy", CONTROLS[:1]),
        ("scattered greedy", CONTROLS[1:]),
        ("base greedy", [SHARE, *CONTROLS]),
        ("tuned", [SHARE]),
    ],
)
def test_a_missing_arm_refuses_what_needs_it_by_name(arm, refused):
    found = rows(evidence(TEXTS, {name: counts for name, counts in SOLVED.items() if name != arm}))
    assert [quantity for quantity in found if found[quantity]["refusal"]] == refused
    assert all(f"'{KEYS[arm]}'" in found[quantity]["refusal"] for quantity in refused)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_the_names_of_problems_matter(seed):
    generator = np.random.default_rng(seed)
    texts = [
        (writer, problem, [(int(rank), entropy) for rank, entropy in zip(*drawn, strict=True)])
        for writer in ("base", "tuned")
        for problem in generator.permutation(N)[:15].tolist()
        for n in [int(generator.integers(1, 9))]
        for drawn in [(generator.geometric(0.4, size=n), generator.exponential(size=n))]
    ]
    read, table = ranks(texts), verdicts(SOLVED)
    found = token_ranks(evidence(read, table), ANALYSIS)
    mixed = evidence(read[generator.permutation(len(read))], table[generator.permutation(len(table))])
    for column in ("value", "low", "high"):
        again = token_ranks(mixed, ANALYSIS)[column].to_list()
        assert again == pytest.approx(found[column].to_list(), nan_ok=True)
    names = dict(zip((f"p{i:02}" for i in range(N)), (f"q{i:02}" for i in generator.permutation(N)), strict=True))
    renamed = evidence(*(frame.with_columns(pl.col("problem_id").replace(names)) for frame in (read, table)))
    values = token_ranks(renamed, ANALYSIS)["value"].to_list()
    assert values == pytest.approx(found["value"].to_list(), nan_ok=True)
