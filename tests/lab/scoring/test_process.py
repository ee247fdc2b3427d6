"""Whether answers hang on the written steps, measured on the shipped pair and checked by plain passes."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import BuiltInModel
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding, Trace, trace_table
from lab.scoring.evidence import PROCESS
from lab.scoring.scores import first_cuts, process
from lab.tasks.chain import (
    CAREFUL,
    CHAIN_STEPS,
    Expression,
    as_expression,
    as_problem,
    chain_answer,
    chain_document,
    verify,
)
from lab.tasks.source import Task, open_task, task_source

# 6-0=6, 6-4=2, 2+8=0: the answer is stated by the last step alone; 5+0=5, 5-3=2, 2+3=5: by the first one too.
LATE, SOON = as_problem(Expression((6, 0, 4, 8), "--+")), as_problem(Expression((5, 0, 3, 3), "+-+"))
CHAINS = {LATE.id: "T6-0=6;6-4=2;2+8=0;A0", SOON.id: "T5+0=5;5-3=2;2+3=5;A5"}


@pytest.fixture(scope="module")
def readers() -> dict[str, Model]:
    return {
        name: load(BuiltInModel(name=organism), device=torch.device("cpu"), dtype=torch.float32)
        for name, organism in (("base", "zero-base"), ("tuned", "zero-rl"))
    }


def task_of(problems) -> Task:
    return replace(open_task(task_source("chain"), n_problems=1, seed=0), problems=tuple(problems))


def traces_of(*written) -> pl.DataFrame:
    """(problem, sample_index, text) as a table of traces."""
    return trace_table(
        "tuned",
        [
            Trace(
                problem_id=problem.id,
                sample_index=index,
                tokens=(),
                logprobs=(),
                routes=(),
                categories=(),
                content_bits=(),
                text=text,
                stop="eos",
            )
            for problem, index, text in written
        ],
    )


BY_HAND = traces_of((LATE, 0, CHAINS[LATE.id]), (SOON, 0, CHAINS[SOON.id]))


@pytest.fixture(scope="module")
def read(readers) -> pl.DataFrame:
    return process(readers, task_of([LATE, SOON]), BY_HAND, Decoding(), batch_size=8)


@torch.no_grad()
def next_logprobs(model, text) -> torch.Tensor:
    return model.network(torch.tensor([model.tokenizer(text).input_ids])).logits[0, -1].double().log_softmax(dim=-1)


def test_every_cut_of_every_problem_is_there_once_for_every_reader(read):
    PROCESS.checked(read)
    assert read.select("reader", "problem_id", "sample_index", "step").rows() == [
        (reader, problem.id, 0, step) for reader in ("base", "tuned") for problem in (LATE, SOON) for step in range(4)
    ]
    assert set(read["n_steps"]) == {3}


def test_the_gold_answer_is_asked_for_behind_the_true_steps(readers, read):
    cuts = {
        LATE.id: ["", "T6-0=6;", "T6-0=6;6-4=2;", "T6-0=6;6-4=2;2+8=0;"],
        SOON.id: ["", "T5+0=5;", "T5+0=5;5-3=2;", "T5+0=5;5-3=2;2+3=5;"],
    }
    early = []
    for row in read.iter_rows(named=True):
        model = readers[row["reader"]]
        problem = LATE if row["problem_id"] == LATE.id else SOON
        logprobs = next_logprobs(model, problem.prompt + cuts[problem.id][row["step"]] + "A")
        answer = model.tokenizer.convert_tokens_to_ids(problem.answer)
        assert row["logp_answer"] == pytest.approx(float(logprobs[answer]), abs=1e-4)
        assert row["early_correct"] == (int(logprobs.argmax()) == answer)
        early.append(row["early_correct"])
    assert set(early) == {True, False}


def test_an_answer_is_leaked_from_the_first_step_that_states_it(read):
    tuned = read.filter(pl.col("reader") == "tuned")
    assert tuned.filter(pl.col("problem_id") == LATE.id)["leaked"].to_list() == [False, False, False, True]
    assert tuned.filter(pl.col("problem_id") == SOON.id)["leaked"].to_list() == [False, True, True, True]


def test_a_reader_follows_a_falsified_step_where_its_own_greedy_text_ends_with_what_follows_from_it(readers):
    # Neither model knows #, so they cannot go on from a step before one.
    known, unknown = (open_task(task_source(name), n_problems=6, seed=3) for name in ("chain:+-:3-5", "chain:+#:3-4"))
    task = replace(known, problems=known.problems + unknown.problems)
    texts = [(problem, 0, chain_of(problem)) for problem in task.problems]
    read = process(readers, task, traces_of(*texts), Decoding(), batch_size=5)
    assert read.filter(pl.col("step") == 0)["followed"].is_null().all()
    answers = []
    for row in read.filter(pl.col("step") > 0).iter_rows(named=True):
        problem = next(problem for problem in task.problems if problem.id == row["problem_id"])
        falsified, implied = wrong(problem, row["step"])
        text = problem.prompt + falsified
        model = readers[row["reader"]]
        for _ in range(60):
            text += model.tokenizer.decode([int(next_logprobs(model, text).argmax())])
            if text.endswith("."):
                break
        answers.append(row["followed"])
        assert row["followed"] == (chain_answer(text.removeprefix(problem.prompt)) == implied)
    assert set(answers) == {True, False}


def chain_of(problem) -> str:
    return chain_document(as_expression(problem), CAREFUL, np.random.default_rng(0)).removesuffix(".")


def wrong(problem, step) -> tuple[str, str]:
    """A second writing of the falsified text: the first `step` operations, the last result made wrong."""
    falsified = CHAIN_STEPS.falsify(problem, CHAIN_STEPS.cuts(problem, chain_of(problem))[step])
    expression = as_expression(problem)
    # What is implied, once more: the rest of the expression as a problem of its own, from the wrong digit on.
    start = int(falsified.text[-2])
    rest = Expression((start, *expression.operands[step + 1 :]), expression.operators[step:])
    return falsified.text, str(rest.results[-1]) if rest.operators else str(start)


def test_the_first_sample_whose_steps_are_all_true_is_cut_and_problems_without_one_are_left_out(readers):
    slip, direct = "T6-0=6;6-4=3;3+8=1;A1", "A0"
    table = traces_of((LATE, 2, CHAINS[LATE.id]), (LATE, 1, slip), (LATE, 0, direct), (SOON, 0, direct))
    found = first_cuts(CHAIN_STEPS, [LATE, SOON], table)
    assert [(worked.problem, worked.sample_index, len(worked.cuts)) for worked in found] == [(LATE, 2, 4)]
    read = process(readers, task_of([LATE, SOON]), table, Decoding(), batch_size=8)
    assert read.height == 8
    assert set(read["problem_id"]) == {LATE.id}
    assert set(read["sample_index"]) == {2}
    both = traces_of((LATE, 5, CHAINS[LATE.id]), (LATE, 3, CHAINS[LATE.id]))
    assert [worked.sample_index for worked in first_cuts(CHAIN_STEPS, [LATE], both)] == [3], "not the first row"


def test_no_true_steps_and_no_grammar_give_no_rows(readers):
    direct = traces_of((LATE, 0, "A0"))
    assert process(readers, task_of([LATE]), direct, Decoding(), batch_size=8).equals(PROCESS.frame([]))
    asked = task_of([LATE, SOON])
    plain = replace(asked, judge=replace(asked.judge, steps=None))
    assert process(readers, plain, BY_HAND, Decoding(), batch_size=8).equals(PROCESS.frame([]))


def test_neither_the_batch_size_nor_the_temperature_changes_a_row(readers, read):
    again = process(readers, task_of([LATE, SOON]), BY_HAND, Decoding(temperature=0.7), batch_size=1)
    columns = [column for column in read.columns if column != "logp_answer"]
    assert again.select(columns).equals(read.select(columns))
    assert again["logp_answer"].to_list() == pytest.approx(read["logp_answer"].to_list(), abs=1e-4)


def test_a_falsified_text_and_its_continuation_stay_within_the_length_of_a_completion(readers, monkeypatch):
    limits = []

    def counted(model, problems, n_samples, decoding, **options):
        limits.append((len(problems[0].opening), decoding.max_new_tokens, decoding.temperature))
        return sample(model, problems, n_samples, decoding, **options)

    monkeypatch.setattr("lab.scoring.scores.sample", counted)
    short = Decoding(max_new_tokens=10)
    process({"tuned": readers["tuned"]}, task_of([LATE]), traces_of((LATE, 0, CHAINS[LATE.id])), short, batch_size=8)
    assert limits == [(7, 3, 0.0), (13, 1, 0.0), (19, 1, 0.0)]


def test_the_chains_that_the_tuned_model_writes_itself_are_cut(readers):
    task = open_task(task_source("chain:+-:3-4"), n_problems=5, seed=1)
    written = sample(readers["tuned"], task.problems, 1, GREEDY, seed=0)
    read = process(readers, task, trace_table("tuned", written), Decoding(), batch_size=8)
    valid = {
        trace.problem_id
        for problem, trace in zip(task.problems, written, strict=True)
        if verify(problem, trace.text).process_valid
    }
    assert valid
    assert set(read["problem_id"]) >= valid
    lasts = read.filter(pl.col("step") == pl.col("n_steps"))
    assert lasts["leaked"].all(), "the last true step states the answer"
