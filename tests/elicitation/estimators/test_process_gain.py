from itertools import chain

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.estimate import Analysis, problem_weights
from elicitation.estimators.process_gain import process_gain
from lab.metrics.bootstrap import mean_interval
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import PROCESS
from tests.evidence import evidence_of

ANALYSIS = Analysis(n_boot=200)
KINDS = {
    "preleak": ("information gain before leakage", "nats"),
    "whole": ("information gain, whole chain", "nats"),
    "followed": ("counterfactual-follow rate", "probability"),
    "start": ("early answers right at the start", "probability"),
    "halfway": ("early answers right halfway", "probability"),
    "end": ("early answers right at the end", "probability"),
}


def trace(problem, logps, *, leak=None, right=None, followed=None, reader="tuned", sample=0):
    """Rows of one completion: log-probabilities after 0, 1, ... steps, and the first step that states the answer."""
    n = len(logps)
    right, followed = right or [False] * n, followed or [None] * n
    return [
        {
            "reader": reader,
            "problem_id": problem,
            "sample_index": sample,
            "step": step,
            "n_steps": n - 1,
            "logp_answer": float(logps[step]),
            "leaked": leak is not None and step >= leak,
            "early_correct": right[step],
            "followed": followed[step],
        }
        for step in range(n)
    ]


def evidence(process, problems=("a", "b", "c", "d")):
    verdicts = [
        {
            "arm": arm,
            "problem_id": problem,
            "sample_index": 0,
            "answer_correct": True,
            "process_valid": True,
            "strict": True,
            "reason": "ok",
            "read_by": "box",
            "outcome": "right",
        }
        for arm in ("base", "tuned")
        for problem in problems
    ]
    return evidence_of(
        VERDICTS.frame(verdicts),
        process=process if isinstance(process, pl.DataFrame) else PROCESS.frame([*chain(*process)]),
    )


def rows(measured, reader="tuned"):
    found = {row["quantity"]: row for row in process_gain(measured, ANALYSIS).to_dicts()}
    return {kind: found[f"{what}, read by {reader}"] for kind, (what, _) in KINDS.items()}


TRACES = [
    trace("a", [-4, -3, -2, -0.5], leak=3, right=[False, True, False, True], followed=[None, True, False, None]),
    trace("a", [-4, -1], leak=1, right=[False, True], followed=[None, True], sample=1),
    trace("c", [-5, -3, -1], right=[True, False, False], followed=[None, None, False]),
]


def test_gain_before_leakage_stops_before_the_step_that_states_the_answer():
    # a: -2 + 4, and 0 where the first step leaks; c never leaks: -1 + 5
    assert rows(evidence(TRACES))["preleak"]["value"] == pytest.approx(((2 + 0) / 2 + 4) / 2)


def test_gain_of_the_whole_chain_goes_to_its_last_step():
    assert rows(evidence(TRACES))["whole"]["value"] == pytest.approx(((3.5 + 3) / 2 + 4) / 2)


def test_leakage_lasts_even_if_a_later_step_is_not_marked():
    process = PROCESS.frame([*chain(*TRACES)]).with_columns(leaked=pl.col("leaked") | (pl.col("step") == 1))
    # a: no clean step but 0; c: the same, though its step 2 is unmarked
    assert rows(evidence(process))["preleak"]["value"] == pytest.approx(0)


def test_the_follow_rate_averages_falsified_steps_then_traces_then_problems():
    # a: (1/2 + 1) / 2 and not 2/3; c: 0
    assert rows(evidence(TRACES))["followed"]["value"] == pytest.approx((3 / 4 + 0) / 2)


def test_early_answers_are_read_at_the_start_halfway_and_at_the_end():
    found = rows(evidence(TRACES))
    assert found["start"]["value"] == pytest.approx((0 + 1) / 2)
    assert found["halfway"]["value"] == pytest.approx(((1 + 0) / 2 + 0) / 2)  # steps 3 // 2, 1 // 2 and 2 // 2
    assert found["end"]["value"] == pytest.approx((1 + 0) / 2)


def test_readers_are_never_mixed_and_every_row_is_there():
    both = [*TRACES, trace("b", [-2, -1], reader="base")]
    assert rows(evidence(both))["whole"]["value"] == rows(evidence(TRACES))["whole"]["value"]
    assert rows(evidence(both), "base")["whole"]["value"] == pytest.approx(1)
    for process in (both, []):
        frame = process_gain(evidence(process), ANALYSIS)
        assert frame.select("quantity", "unit").rows() == [
            (f"{what}, read by {reader}", unit) for reader in ("base", "tuned") for what, unit in KINDS.values()
        ]
        assert frame["estimator"].unique().to_list() == ["E8"]


def test_the_number_of_problems_with_traces_varies_between_resamples():
    names = [f"p{index}" for index in range(6)]
    traces = [trace(name, [0, gain]) for name, gain in zip(names, range(6), strict=True)]
    alone = rows(evidence(traces, names))["whole"]
    many = evidence(traces, [*(f"a{index:02}" for index in range(60)), *names])
    among = rows(many)["whole"]
    assert among["value"] == alone["value"] == pytest.approx(2.5)
    assert among["high"] - among["low"] > alone["high"] - alone["low"]
    weights = problem_weights(many, ANALYSIS)[:, 60:]
    wanted = mean_interval(np.arange(6.0), weights, bounds=(-np.inf, np.inf))
    assert (among["low"], among["high"]) == pytest.approx((wanted.low, wanted.high))


def test_intervals_hold_the_value_and_rates_stay_in_their_range():
    names = [f"p{index:02}" for index in range(12)]
    traces = [trace(name, [-5, -4 + index / 7], right=[False, index % 3 > 0]) for index, name in enumerate(names)]
    found = rows(evidence(traces, names))
    for kind in ("preleak", "whole", "end"):
        assert found[kind]["low"] < found[kind]["value"] < found[kind]["high"]
    assert found["start"]["value"] == found["start"]["low"] == 0
    assert found["start"]["high"] == pytest.approx(1 - 0.025 ** (1 / 12))


def test_a_reader_without_rows_is_refused_alone():
    assert all(row["refusal"] is None for row in rows(evidence(TRACES)).values())
    for row in rows(evidence(TRACES), "base").values():
        assert "nothing was read by base" in row["refusal"]
        assert np.isnan([row["value"], row["low"], row["high"]]).all()


def test_without_a_falsified_step_only_the_follow_rate_is_refused():
    found = rows(evidence([trace("a", [-2, -1]), trace("b", [-2, -1.5])]))
    assert [kind for kind in found if found[kind]["refusal"]] == ["followed"]
    assert "falsified" in found["followed"]["refusal"]
    assert np.isnan(found["followed"]["value"])


def test_a_problem_without_a_falsified_step_does_not_dilute_the_follow_rate():
    traces = [trace("a", [-2, -1], followed=[None, True]), trace("b", [-2, -1.5])]
    assert rows(evidence(traces))["followed"]["value"] == 1


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_trace_with_an_unread_step_is_refused(step):
    process = PROCESS.frame([*chain(*TRACES)])
    broken = process.filter((pl.col("problem_id") != "a") | (pl.col("sample_index") != 0) | (pl.col("step") != step))
    for row in rows(evidence(broken)).values():
        assert "1 of 3 completions" in row["refusal"]
        assert np.isnan(row["value"])


@pytest.mark.parametrize("kept", [TRACES[2], TRACES[2][::2]])
def test_a_step_read_twice_is_refused_also_in_place_of_another(kept):
    process = PROCESS.frame([*chain(*TRACES[:2], kept, TRACES[2][2:])])
    assert all("1 of 3 completions" in row["refusal"] for row in rows(evidence(process)).values())


def test_a_question_that_states_the_answer_leaves_nothing_to_gain_before_leakage():
    process = [*TRACES[:2], trace("c", [-5, -1], leak=0)]
    assert rows(evidence(process))["preleak"]["value"] == pytest.approx(((2 + 0) / 2 + 0) / 2)


def test_a_completion_without_steps_gains_nothing():
    found = rows(evidence([trace("a", [-2], right=[True]), trace("b", [-3])]))
    assert found["preleak"]["value"] == found["whole"]["value"] == 0
    assert found["start"]["value"] == found["halfway"]["value"] == found["end"]["value"] == 0.5


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_the_names_of_problems_matter(seed):
    generator = np.random.default_rng(seed)
    names = [f"p{index:02}" for index in range(12)]

    def drawn(name, reader, sample):
        n = int(generator.integers(1, 6))
        return trace(
            name,
            (-generator.exponential(size=n)).tolist(),
            leak=int(generator.integers(1, 6)),
            right=(generator.random(n) < 0.5).tolist(),
            followed=[None, *(generator.choice([True, False, None], size=n - 1).tolist())],
            reader=reader,
            sample=sample,
        )

    traces = [drawn(name, reader, sample) for reader in ("base", "tuned") for name in names[:8] for sample in range(2)]
    process = PROCESS.frame([*chain(*traces)])
    found = process_gain(evidence(process, names), ANALYSIS)
    again = process_gain(evidence(process[generator.permutation(len(process))], names), ANALYSIS)
    for column in ("value", "low", "high"):
        assert again[column].to_list() == pytest.approx(found[column].to_list(), nan_ok=True)
    renames = dict(zip(names, (f"q{index:02}" for index in generator.permutation(12)), strict=True))
    renamed = evidence(process.with_columns(pl.col("problem_id").replace(renames)), list(renames.values()))
    values = process_gain(renamed, ANALYSIS)["value"].to_list()
    assert values == pytest.approx(found["value"].to_list(), nan_ok=True)
