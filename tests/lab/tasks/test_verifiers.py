"""Every kind of task: its verifier takes its own gold answers and refuses near misses, and never raises."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.records.errors import TaskError
from lab.tasks import gym, math_answer
from lab.tasks.gym import GymTask, stated_answer
from lab.tasks.problem import Problem
from lab.tasks.source import open_task, task_source

GYM = (
    "basic_arithmetic",
    "chain_sum",
    "countdown",
    "fraction_simplification",
    "game_of_life_halting",
    "gcd",
    "gsm_symbolic",
    "knights_knaves",
    "letter_jumble",
    "list_functions",
    "n_queens",
    "number_sorting",
    "prime_factorization",
    "simple_integration",
    "sokoban",
    "time_intervals",
)
KINDS = ("chain", "chain:#:3-5", "chain:+-#:1-8", *(f"gym:{name}" for name in GYM), "gsm8k.jsonl", "math.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    gsm8k = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(1000, 1030)]
    golds = [r"\frac{%d}{7}", r"%d\sqrt{3}", r"x^{%d}+1", r"\{%d,1\}", r"(%d,\pi)", r"[%d,100)", r"\text{row %d}"]
    math = [
        {"problem": f"Problem {n}", "solution": rf"So \boxed{{{golds[n % len(golds)] % (n + 2)}}}."} for n in range(40)
    ]
    for name, rows in {"gsm8k": gsm8k, "math": math}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def opened(kind, folder, **arguments):
    return open_task(task_source(str(folder / kind) if kind.endswith(".jsonl") else kind), **arguments)


def stating(kind, answer):
    """The ways to state an answer to a problem of this kind."""
    if kind.startswith("chain"):
        return [f"A{answer}.", f"A{answer}"]
    if kind.startswith("gym"):
        return [f"Hm.\nAnswer: {answer}", f"Hm.\n**Answer:** {answer}.", f"So <answer>\n{answer}\n</answer> it is."]
    return [rf"First 9, so \boxed{{{answer}}}.", f"First 9.\n#### {answer}", f"First 9. The answer is ${answer}$."]


def near_misses(kind, gold, other):
    """Completions that hold the gold answer, or nearly, and do not state it."""
    if kind.startswith("chain"):
        return [
            f"A{other}.",
            f"A{gold}A{other}.",
            f"A{other}A{gold}.",
            f"A{gold}A{gold}.",
            f"{gold}.",
            f"={gold};",
            "A.",
            "",
        ]
    wrong = [f"{gold} or {other}", f"{other} or {gold}", f"{gold} {other}", f"not {gold}", ""]
    texts = [text for answer in [*wrong, other, f"{gold}{gold}", f"{gold}7", "none"] for text in stating(kind, answer)]
    return [*texts, "", "I do not know.", f"I thought of {gold} first.\n" + stating(kind, other)[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_verifier_takes_its_own_gold_answers_and_refuses_near_misses(kind, folder):
    task = opened(kind, folder, n_problems=4, seed=3)
    answers = [problem.answer for problem in task.problems]
    for problem in task.problems:
        for text in stating(kind, problem.answer):
            verdict = task.verify(problem, text)
            assert verdict.answer_correct, (problem, text, verdict)
        other = next((answer for answer in answers if answer != problem.answer), "8")
        for text in near_misses(kind, problem.answer, other):
            verdict = task.verify(problem, text)
            assert not verdict.answer_correct, (problem, text, verdict)
            assert verdict.reason != "ok"


@pytest.mark.parametrize("kind", ["chain", "gym:prime_factorization", "gym:countdown", "gsm8k.jsonl"])
def test_no_verifier_raises_on_any_text(kind, folder):
    task = opened(kind, folder, n_problems=1, seed=0)
    (problem,) = task.problems

    @settings(max_examples=40, deadline=None)
    @given(st.text(max_size=30), st.sampled_from(["{}", "Answer: {}", r"\boxed{{{}}}", "####{}", "A{}", "<answer>{}"]))
    def judge(text, template):
        assert task.verify(problem, template.format(text)).reason

    judge()
    for text in (
        "\x00",
        "\ud800",
        "9" * 10_000,
        "(" * 5_000,
        r"\boxed{" + "{" * 5_000 + "}" * 5_001,
        "Answer: " * 5_000,
    ):
        assert not task.verify(problem, text).answer_correct


@pytest.mark.parametrize("kind", ["chain", "gym:chain_sum", "gym:list_functions", "gsm8k.jsonl"])
def test_the_sides_share_no_question_whatever_the_seeds_and_draws_repeat(kind, folder):
    evaluation = opened(kind, folder, n_problems=8, seed=1)
    assert opened(kind, folder, n_problems=8, seed=1) == evaluation
    assert opened(kind, folder, n_problems=3, seed=1).problems == evaluation.problems[:3]
    assert len({problem.prompt for problem in evaluation.problems}) == 8
    assert len({problem.id for problem in evaluation.problems}) == 8
    prompts = {problem.prompt for problem in evaluation.problems}
    for seed in (0, 1, 2):
        training = opened(kind, folder, n_problems=8, seed=seed, held_out=False)
        assert prompts.isdisjoint(problem.prompt for problem in training.problems)


def math_problem(gold):
    return Problem(id="m:1", prompt="", answer=gold, family="", source="")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        ("1/2", r"\boxed{\dfrac12}"),
        ("4", r"\boxed{\color{red}{4}}"),
        ("4", r"\boxed{\text{Answer: }4}"),
        ("0.5", "#### 1/2"),
        ("1000", "It costs $1,000."),
        ("1,000", "#### 1000"),
        ("42", "The answer is 42 apples."),
        ("42", "6 * 7 = 42"),
        ("42", r"\boxed{\text{42}}"),
        ("x^2+2x+1", r"\boxed{(x+1)^2}"),
        (r"2\sqrt{2}", r"\boxed{\sqrt{8}}"),
        (r"\{1,2\}", r"\boxed{2, 1}"),
        (r"\text{Monday}", r"\boxed{Monday}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}}"),
        ("C", "The answer is (C) Paris."),
        ("C", r"\boxed{\textbf{(C)}\ 12}"),
        ("(C) Paris", "The answer is option C."),
        ("4.5e33", r"\boxed{4.5 \times 10^{33} \text{ erg/s}}"),
        (r"1.6\times 10^{-19}", r"\boxed{1.6e-19}"),
        ("3.5", r"\boxed{3 1/2}"),
        (r"\frac12", r"\boxed{½}"),
        (r"(-\infty, 2) \cup (3, \infty)", r"\boxed{(-∞, 2) ∪ (3, ∞)}"),
        (r"2\sqrt{3}\pi", r"\boxed{2√3π}"),
        (r"\emptyset", r"\boxed{\varnothing}"),
        ("1,2", r"\boxed{2,1}"),
        ("1,2", r"\boxed{1 \text{ or } 2}"),
        ("12 meters per second", r"\boxed{12}"),
    ],
)
def test_equal_mathematical_answers_are_correct(gold, text):
    verdict = math_answer.verify(math_problem(gold), text)
    assert (verdict.answer_correct, verdict.process_valid, verdict.reason) == (True, None, "ok")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("42", "#### 43"),
        ("1/2", "The answer is 0.51."),
        ("5", r"\boxed{\color{red}{4}}"),
        (r"\frac{1}{3}", r"\boxed{0.333333333}"),
        (r"\pi", r"\boxed{3.14159265}"),
        ("42", r"\boxed{43} but perhaps 42"),
        ("42", "42 was my first guess, the answer is 41"),
        ("42", r"\boxed{42 \text{ or } 43}"),
        ("42", r"\boxed{$42$ 43}"),
        ("42", r"\boxed{42 \text{ or 43}}"),
        ("42", r"\boxed{\text{42 or 43}}"),
        ("42", r"\boxed{\text{42}\text{43}}"),
        ("42", r"\boxed{42=41}"),
        ("42", r"\boxed{\pm 42}"),
        ("42", r"\boxed{42!}"),
        ("42", r"\boxed{-42}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        ("[2,3)", r"\boxed{[2,3]}"),
        ("x<3", r"\boxed{x \le 3}"),
        ("1", r"\boxed{\frac{0}{0}}"),
        ("42", r"\boxed{}"),
        *(("5", rf"\boxed{{5{tail}}}") for tail in ("k", "x", "i", "/x", "a^2", " pi", r"\mathrm{e}")),
        *(("5", rf"\boxed{{5\text{{{tail}}}}}") for tail in (" thousand", " million", " squared", " or }6\\text{")),
        *((gold, r"\boxed{2}") for gold in ("2n", "2n^2", r"2\text{ million}", "f(x)=2x")),
        *(("5", f"The answer is {said}.") for said in ("5 dozen", "minus 5", "less than 5", "5 squared", "5x", "5 x")),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{4}"),
        ("all integers greater than 3", r"\boxed{3}"),
        ("3 hours 20 minutes", r"\boxed{20}"),
        (r"1.6\times 10^{-19}", r"\boxed{1.6\times 10^{-18} \text{ C}}"),
        ("3 1/2", r"\boxed{31/2}"),
        ("silent", r"\boxed{listen}"),
        ("A", "The answer is (A) or (B)."),
        ("(a) 3; (b) 5", r"\boxed{(a) 4; (b) 5}"),
    ],
)
def test_unequal_mathematical_answers_are_wrong(gold, text):
    verdict = math_answer.verify(math_problem(gold), text)
    assert not verdict.answer_correct
    assert verdict.reason != "ok"


def test_a_hanging_comparison_is_wrong_and_the_next_one_is_judged():
    assert math_answer.difference("1", "9^{9^{9^{9}}}", timeout_s=1.5) == "timed out"
    assert math_answer.difference("x^2+1", "1+x^2") is None


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes new workers find a package that cannot be imported, and ends those of this test."""
    workers = (math_answer._WORKER, gym._WORKER)
    for worker in workers:
        worker.close()

    def shadow(module, text):
        (tmp_path / f"{module}.py").write_text(text)
        # Not syspath_prepend, which warns of namespace packages.
        monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])

    yield shadow
    for worker in workers:
        worker.close()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("math_verify", "raise ImportError('Unsupported ANTLR version 4.8')"),
        ("antlr4", ""),
        ("math_verify", "LatexExtractionConfig = lambda: 0\nparse = lambda *a, **k: a\nverify = lambda *a, **k: False"),
    ],
)
def test_a_broken_math_verify_is_a_task_error_and_no_wrong_answer(broken, module, text):
    broken(module, text)
    with pytest.raises(TaskError, match=r"math-verify cannot be used: .*; reinstall it"):
        math_answer.verify(math_problem("x^2+1"), r"\boxed{1+x^2}")


def test_a_broken_reasoning_gym_is_a_task_error_and_no_wrong_answer(broken):
    task = GymTask(dataset="countdown")
    (problem,) = task.problems(1, np.random.default_rng(0))
    gym._WORKER.close()
    broken("reasoning_gym", "raise ImportError('no such thing')")
    with pytest.raises(TaskError, match="reasoning-gym cannot be used: ImportError: no such thing; reinstall it"):
        task.verify(problem, "Answer: 1 + 1")


@pytest.mark.parametrize(
    ("dataset", "answer"),
    [
        ("number_sorting", "__import__('os').abort()"),
        ("spiral_matrix", "exec(chr(49))"),
        ("simple_integration", "exec(chr(49))"),
        ("countdown", "().__class__"),
        ("n_queens", "exit()"),
    ],
)
def test_code_in_an_answer_is_never_evaluated(dataset, answer):
    task = GymTask(dataset=dataset)
    (problem,) = task.problems(1, np.random.default_rng(0))
    assert task.verify(problem, f"Answer: {answer}").reason in ("another answer", "not a plain formula")


def test_a_hanging_scorer_makes_the_answer_wrong():
    task = GymTask(dataset="countdown")
    (problem,) = task.problems(1, np.random.default_rng(0))
    verdict = task.verify(problem, "Answer: 9**9**9**9")
    assert (verdict.answer_correct, verdict.reason) == (False, "not scored: timed out")
    assert task.verify(problem, f"Answer: {problem.answer}").answer_correct


def test_an_equal_formula_other_than_the_gold_one_is_correct():
    task = GymTask(dataset="countdown")
    for problem in task.problems(20, np.random.default_rng(0)):
        head, plus, tail = problem.answer.rpartition(" + ")
        if plus and tail.isdigit():
            assert task.verify(problem, f"Answer: {tail} + {head}").answer_correct
            return
    raise AssertionError("no gold formula ends with an addend")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (GymTask(dataset="chain_sums"), "unknown gym dataset 'chain_sums': try chain_sum"),
        (GymTask(dataset="graph_color"), "no gold answers"),
        (GymTask(dataset="puzzle24"), "cannot be used"),
        (GymTask(dataset="chain_sum", config=(("no_such_option", 1),)), "no_such_option"),
        (GymTask(dataset="coin_flip", size=3), "distinct ones: want fewer"),
    ],
)
def test_a_gym_dataset_that_cannot_serve_is_a_task_error(task, message):
    with pytest.raises(TaskError, match=message):
        task.problems(5, np.random.default_rng(0))


def test_a_gym_config_reaches_the_dataset_and_a_problem_of_another_one_is_refused():
    short = GymTask(dataset="chain_sum", config=(("min_terms", 2), ("max_terms", 2)))
    (problem,) = short.problems(1, np.random.default_rng(0))
    assert len(problem.prompt.split("?")[0].split("+")) <= 2
    with pytest.raises(TaskError, match="not one of"):
        GymTask(dataset="chain_sum", seed=9).verify(problem, "Answer: 123456")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 5\nanswer: 7\nmore", "7"),
        ("The final answer is **7**.", "7"),
        (r"\boxed{7}", "7"),
        ("<answer>6</answer> <answer> 7 </answer>", "7"),
        ("so\n7", "7"),
        ("Answer:\n7", "7"),
        ("Answer:", None),
        ("", None),
    ],
)
def test_the_stated_answer_follows_the_documented_rule(text, answer):
    found = stated_answer(text)
    assert (found and found.answer) == answer


def test_a_stated_answer_may_have_as_many_lines_as_the_gold_one():
    assert stated_answer("Answer:\n1 0\n0 1\nthat is it", n_lines=2).answer == "1 0\n0 1"
