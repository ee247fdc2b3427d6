"""Findings are hand arithmetic on tiny tables."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from elicitation.pages.study.tables import COVER, EXAMPLES, FAMILIES, GUESS, LADDER, PASS_AT_K, rungs
from elicitation.study.arms import Arm
from elicitation.study.tables import (
    TAUS,
    Answered,
    curve_tables,
    example_table,
    guess_table,
    ladder_table,
    routed_share,
)
from lab.metrics.bootstrap import resamples
from lab.sampling.trace import TRACES, VERDICTS
from lab.scoring.evidence import ARMS, Control, Role
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.source import Task
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Takeover
from steering.hybrid.routers import Never

GOLDS = {"p": "1", "q": "2", "r": "1"}
PROBLEMS = tuple(
    Problem(id=name, prompt=f"<{name}?", answer=gold, family="short" if name == "p" else "long", source="hand")
    for name, gold in GOLDS.items()
)
TASK = Task(
    name="hand",
    problems=PROBLEMS,
    judge=Judge(
        name="hand",
        verify=lambda problem, text: Verdict(
            answer_correct=text == problem.answer, process_valid=None, reason="ok", read_by="whole"
        ),
        read_answer=lambda text: text or None,
        same_answer=lambda answer, gold: answer == gold,
    ),
)
HELP, METHOD = Role.VECTOR_ALWAYS, Hybrid(Never(), Takeover())
WEIGHTS = resamples(3, 200, np.random.default_rng(0))


def answered(
    name: str,
    texts: dict[str, list[str]],
    *,
    valid: bool | None = True,
    role: Role | None = None,
    control_of: str | None = None,
    routes: list[int] | None = None,
    bits: tuple[float, ...] | None = None,
) -> Answered:
    """An arm that wrote `texts` of each problem; one that is the gold answer is right, and `valid` by its process."""
    traces, verdicts = [], []
    for problem_id, written in texts.items():
        for index, text in enumerate(written):
            key = {"arm": name, "problem_id": problem_id, "sample_index": index}
            right = text == GOLDS[problem_id]
            traces.append(
                key
                | {
                    "tokens": [3, 4],
                    "logprobs": [-0.5, -0.25],
                    "routes": routes or [0, 0],
                    "categories": [-1, -1],
                    "content_bits": [0.0, 0.0],
                    "text": text,
                    "stop": "eos",
                }
            )
            verdicts.append(
                key
                | {
                    "answer_correct": right,
                    "process_valid": valid,
                    "strict": right and valid is not False,
                    "reason": "ok" if right else "answer",
                    "read_by": "whole",
                    "outcome": "right" if right else "wrong",
                }
            )
    control = None if control_of is None else Control.RANDOM_VECTORS
    arm = Arm(
        role=role or Role(name),
        name=name,
        label=f"label of {name}",
        method=None if role is None else METHOD,
        control=control,
        control_of=control_of,
    )
    return Answered(
        arm=arm,
        family="end" if role is None else "vector",
        traces=TRACES.frame(traces),
        verdicts=VERDICTS.frame(verdicts),
        bits=np.full(len(texts), 0.0) if bits is None else np.array(bits),
        cost=1.0,
    )


BASE = answered("base", {"p": ["1", "2"], "q": ["1", "1"], "r": ["2", "2"]})
RUNG = answered("rung", {"p": ["1", "1"], "q": ["2", "1"], "r": ["2", "2"]}, role=HELP)
CONTROL = answered("control", {"p": ["2", "2"], "q": ["1", "1"], "r": ["2", "2"]}, role=HELP, control_of="rung")
SLOPPY = answered("sloppy", {"p": ["1", "1"], "q": ["2", "1"], "r": ["2", "2"]}, role=HELP, valid=False)
TUNED = answered("tuned", {"p": ["1", "1"], "q": ["2", "2"], "r": ["1", "2"]})


def test_rates_are_the_share_of_right_samples_of_each_problem_in_the_order_of_problems():
    assert BASE.n_samples == 2
    assert BASE.accepted("answer").tolist() == [[True, False], [False, False], [False, False]]
    assert BASE.rates("answer").tolist() == [0.5, 0.0, 0.0]
    assert TUNED.rates("strict").tolist() == [1.0, 1.0, 0.5]
    assert SLOPPY.rates("strict").tolist() == [0.0, 0.0, 0.0]
    assert SLOPPY.rates("answer").tolist() == [1.0, 0.5, 0.0]


def test_the_routed_share_counts_tokens_not_traces():
    def row(index: int, routes: list[int]) -> dict[str, object]:
        return {
            "arm": "a",
            "problem_id": "p",
            "sample_index": index,
            "tokens": [0] * len(routes),
            "logprobs": [0.0] * len(routes),
            "routes": routes,
            "categories": [-1] * len(routes),
            "content_bits": [0.0] * len(routes),
            "text": "",
            "stop": "eos",
        }

    assert routed_share(TRACES.frame([row(0, [1]), row(1, [0, 2, 0])])) == 0.5
    assert routed_share(TRACES.frame([row(0, [0, 0])])) == 0.0


@pytest.fixture(scope="module")
def ladder() -> pl.DataFrame:
    return ladder_table([BASE, RUNG, CONTROL, SLOPPY, TUNED], WEIGHTS)


def test_the_ladder_has_every_arm_under_both_measures_with_the_base_first_and_the_tuned_model_last(ladder):
    assert LADDER.checked(ladder).height == 10
    for measure in ("strict", "answer"):
        rows = ladder.filter(pl.col("measure") == measure)
        assert rows["arm"].to_list() == ["base", "rung", "control", "sloppy", "tuned"]
        assert rows["order"].to_list() == [0, 1, 2, 3, 4]
        assert rows["kind"].to_list() == ["end", "rung", "control", "rung", "end"]
        assert rows["control_of"].to_list() == [None, None, "rung", None, None]
        assert rows["role"].to_list() == ["base", *["vector-always"] * 3, "tuned"]
        assert rows["control"].to_list() == [None, None, "random-vectors", None, None]
        # From the base up, a control stands right under its rung.
        assert rungs(ladder, measure)["arm"].to_list() == ["base", "control", "rung", "sloppy", "tuned"]


def test_the_arms_of_a_study_are_listed_with_what_they_are_there_for(ladder):
    table = ARMS.frame([one.arm.row for one in (BASE, RUNG, CONTROL, SLOPPY, TUNED)])
    strict = ladder.filter(pl.col("measure") == "strict")
    assert table.equals(strict.select(table.columns))


@pytest.mark.parametrize(
    ("measure", "accuracies"),
    [("strict", [1 / 6, 3 / 6, 0, 0, 5 / 6]), ("answer", [1 / 6, 3 / 6, 0, 3 / 6, 5 / 6])],
)
def test_accuracies_and_gains_of_the_ladder_are_hand_arithmetic(ladder, measure, accuracies):
    rows = ladder.filter(pl.col("measure") == measure)
    assert rows["accuracy"].to_list() == pytest.approx(accuracies)
    assert rows["gain"].to_list() == pytest.approx([accuracy - 1 / 6 for accuracy in accuracies])
    assert rows["gain"][0] == rows["gain_low"][0] == rows["gain_high"][0] == 0.0
    assert (rows["low"] <= rows["accuracy"]).all()
    assert (rows["accuracy"] <= rows["high"]).all()
    assert (rows["gain_low"] <= rows["gain"]).all()
    assert (rows["gain"] <= rows["gain_high"]).all()
    assert rows["n_problems"].unique().to_list() == [3]
    assert rows["n_samples"].unique().to_list() == [2]


def test_a_rung_stands_beside_its_best_control_and_nothing_else_does(ladder):
    strict = ladder.filter(pl.col("measure") == "strict")
    assert strict["over_control"][1] == pytest.approx(3 / 6 - 0)
    assert strict["over_control_low"][1] <= 3 / 6 <= strict["over_control_high"][1]
    others = strict.filter(pl.col("arm") != "rung")
    for column in ("over_control", "over_control_low", "over_control_high"):
        assert others[column].is_nan().all()
    better = answered("better", {name: [gold] * 2 for name, gold in GOLDS.items()}, role=HELP, control_of="rung")
    both = ladder_table([BASE, RUNG, CONTROL, better, TUNED], WEIGHTS).filter(pl.col("measure") == "strict")
    assert both["over_control"][1] == pytest.approx(3 / 6 - 1)


def test_the_share_of_cut_completions_is_counted():
    cut = replace(BASE, traces=BASE.traces.with_columns(stop=pl.Series(["length", "eos", "eos", "stop", "eos", "eos"])))
    table = ladder_table([cut, RUNG, TUNED], WEIGHTS)
    assert table.filter(pl.col("measure") == "strict")["truncated"].to_list() == pytest.approx([1 / 6, 0, 0])


def test_a_gap_of_three_problems_is_refused_with_its_reason_and_without_a_number(ladder):
    between = ladder.filter(pl.col("kind") != "end")
    assert between["share"].is_nan().all()
    assert between["refusal"].str.contains("standard errors").all()


def test_shares_of_a_wide_gap_are_ratios_of_gains():
    n = 30
    names = [f"p{index}" for index in range(n)]
    GOLDS.update(dict.fromkeys(names, "1"))

    def arm(name: str, n_solved: int, role: Role | None = None, control_of: str | None = None) -> Answered:
        texts = {problem: ["1" if index < n_solved else "0"] for index, problem in enumerate(names)}
        return answered(name, texts, role=role, control_of=control_of)

    arms = [arm("base", 3), arm("rung", 18, HELP), arm("control", 0, HELP, "rung"), arm("tuned", 28)]
    rows = ladder_table(arms, resamples(n, 200, np.random.default_rng(0))).filter(pl.col("measure") == "strict")
    assert rows["share"][1] == pytest.approx(15 / 25)
    assert rows["share"][2] == pytest.approx(-3 / 25)
    assert rows["share_low"][1] < 15 / 25 < rows["share_high"][1]
    assert rows["refusal"].to_list() == [None] * 4
    # An end is no kind of help: a share of it would be 0 or 1 by definition.
    assert math.isnan(rows["share"][0])
    assert math.isnan(rows["share"][3])


def test_pass_at_k_is_that_of_counts():
    once = answered("once", role=HELP, texts={"p": ["1", "0", "0", "0"], "q": ["0"] * 4, "r": ["0"] * 4})
    table = PASS_AT_K.checked(curve_tables([once], PROBLEMS, (1, 2, 4), WEIGHTS)["pass_at_k"])
    strict = table.filter(pl.col("measure") == "strict")
    assert strict["k"].to_list() == [1, 2, 4]
    # One right of four: 1/4, 1/2 and 1 of the first problem, nothing of the two others.
    assert strict["value"].to_list() == pytest.approx([1 / 12, 1 / 6, 1 / 3])


def test_cover_counts_problems_solved_at_least_that_often():
    table = COVER.checked(curve_tables([TUNED], PROBLEMS, (), WEIGHTS)["cover"]).filter(pl.col("measure") == "strict")
    assert table["tau"].to_list() == list(TAUS)
    values = dict(zip(table["tau"], table["value"], strict=True))
    assert values[0.5] == 1.0
    assert values[0.75] == values[1.0] == pytest.approx(2 / 3)


def test_families_are_broken_down_by_their_own_problems():
    table = FAMILIES.checked(curve_tables([TUNED], PROBLEMS, (), WEIGHTS)["families"]).filter(
        pl.col("measure") == "strict"
    )
    assert table.select("family", "value", "n_problems").rows() == [("long", 0.75, 2), ("short", 1.0, 1)]


def test_the_guess_floor_pairs_answers_with_the_golds_of_other_problems():
    # p says 1 (the gold of r), q says 1 twice (the gold of p and r), r says nothing that can be read.
    guesser = answered("guesser", role=HELP, texts={"p": ["1"], "q": ["1"], "r": [""]})
    table = GUESS.checked(guess_table([guesser], TASK, WEIGHTS))
    assert table["arm"].to_list() == ["guesser"]
    # Of the six ordered pairs: (p, r), (q, p) and (q, r) match.
    assert table["value"].to_list() == pytest.approx([3 / 6])


def test_examples_are_the_first_samples_of_the_first_problems_whatever_their_outcome():
    table = EXAMPLES.checked(example_table([BASE, SLOPPY], PROBLEMS, {3: "<b>", 4: "."}.__getitem__, 2))
    assert table.select("problem_id", "arm").rows() == [("p", "base"), ("p", "sloppy"), ("q", "base"), ("q", "sloppy")]
    first = table.row(0, named=True)
    assert first["prompt"] == "<p?"
    assert (first["gold"], first["text"], first["tokens"]) == ("1", "1", ["<b>", "."])
    assert (first["answer_correct"], first["process_valid"], first["reason"]) == (True, True, "ok")
    assert first["logprobs"] == [-0.5, -0.25]
    third = table.row(2, named=True)
    assert (third["answer_correct"], third["reason"]) == (False, "answer")


def test_a_process_that_cannot_be_checked_stays_null_and_counts_as_its_answer():
    unchecked = answered("unchecked", {"p": ["1"], "q": ["0"], "r": ["1"]}, role=HELP, valid=None)
    assert unchecked.rates("strict").tolist() == unchecked.rates("answer").tolist() == [1.0, 0.0, 1.0]
    assert (
        example_table([unchecked], PROBLEMS, {3: "a", 4: "b"}.__getitem__, 3)["process_valid"].to_list() == [None] * 3
    )


def test_tables_of_no_arms_have_their_columns_and_no_rows():
    curves = curve_tables([], PROBLEMS, (1,), WEIGHTS)
    assert all(schema.checked(curves[schema.name]).is_empty() for schema in (PASS_AT_K, COVER, FAMILIES))
    assert GUESS.checked(guess_table([], TASK, WEIGHTS)).is_empty()
    assert EXAMPLES.checked(example_table([], PROBLEMS, str, 3)).is_empty()


def test_bits_a_token_are_all_bits_over_all_tokens_and_bits_a_problem_their_mean():
    asked = answered("asked", {"p": ["1", "1"], "q": ["2", "1"], "r": ["2", "2"]}, role=HELP, bits=(3.0, 0.0, 6.0))
    row = ladder_table([BASE, asked, TUNED], WEIGHTS).row(1, named=True)
    # Two tokens a completion: 9 bits over 6 tokens, and 9 over 3 problems.
    assert (row["bits_per_token"], row["bits_per_problem"]) == (1.5, 3.0)
    assert row["bits_low"] < 1.5 < row["bits_high"]
    assert row["bits_per_problem_low"] == pytest.approx(2 * row["bits_low"])
    assert row["bits_per_problem_high"] == pytest.approx(2 * row["bits_high"])


def test_what_never_asks_has_exactly_no_bits_and_the_tuned_model_has_all():
    tuned = replace(TUNED, bits=np.full(3, math.inf))
    ladder = ladder_table([BASE, RUNG, tuned], WEIGHTS)
    ends = ladder.filter(pl.col("measure") == "strict").select("bits_low", "bits_per_token", "bits_high").rows()
    assert ends == [(0.0,) * 3, (0.0,) * 3, (math.inf,) * 3]


def test_bits_alike_on_every_problem_have_no_interval():
    even = replace(RUNG, bits=np.full(3, 2.0))
    row = ladder_table([BASE, even, TUNED], WEIGHTS).row(1, named=True)
    assert row["bits_per_token"] == 1.0
    assert math.isnan(row["bits_low"])
    assert math.isnan(row["bits_high"])


def test_the_ladder_says_which_kind_of_help_an_arm_is_and_what_an_answer_costs():
    vote = replace(RUNG, family="decoding", cost=8.0)
    rows = ladder_table([BASE, vote, TUNED], WEIGHTS).head(3)
    assert rows["family"].to_list() == ["end", "decoding", "end"]
    assert rows["cost"].to_list() == [1.0, 8.0, 1.0]
