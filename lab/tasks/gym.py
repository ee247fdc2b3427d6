"""GymTask: problems of one reasoning-gym dataset, and the only door to that package, which runs in a worker.

The package makes item i + 1 of seed s equal item i of seed s + 1, so there is one dataset under one seed, and a hash of
the question splits it. Its scorers are shaped rewards, so only a score of exactly 1.0 counts, and some are not to be
trusted even then: see the tables below, made by scoring gold answers and near misses of all 106 datasets of 0.1.25.
"""

import contextlib
import copy
import difflib
import functools
import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, cast

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.math_answer import as_ratio, same_answer
from lab.tasks.problem import Judge, Problem, Verdict, is_held_out
from lab.tasks.stated_answer import Stated, before_run_on, behind_thought, first_answer, last_boxes, tidied
from lab.tasks.worker import Answered, Failed, Request, Worker

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

ITEM_TIMEOUT_S = 60.0
"""Processor time to make one item, with the dataset when the worker is new; `acre` takes three seconds."""
SCORE_TIMEOUT_S = 5.0
"""Processor time to score one answer."""

COMPARED_AS_TEXT = frozenset(
    {
        "binary_matrix",  # evaluates the answer as Python
        "game_of_life_halting",  # any text is true
        "gsm_symbolic",  # takes the first number
        "number_sorting",  # every number may be one off
        "spiral_matrix",  # evaluates the answer as Python
        "string_insertion",  # evaluates the answer as Python
    }
)
"""Datasets with one right answer whose scorer gives 1.0 to wrong ones or runs them as code: the text must be equal."""

_FORMULA = re.compile(
    r"(?:[0-9\s+\-*/().,^]|\b(?:sin|cos|tan|exp|log|sqrt|asin|acos|atan|sinh|cosh|tanh|erf|pi|[A-Za-z])\b)*"
)
ALPHABETS = {
    "countdown": re.compile(r"[0-9\s+\-*/().]*"),
    "intermediate_integration": _FORMULA,
    "n_queens": re.compile(r"[Q_\s]*"),
    "polynomial_multiplication": _FORMULA,
    "simple_integration": _FORMULA,
}
"""Datasets whose scorer evaluates the answer: only text of this form reaches it."""

REFUSED = {"puzzle24": "its scorer accepts formulas over other numbers than the question's"}

SUFFIX = '\n\nThink step by step, then give only the final answer after "Answer:".\n'
"""The instruction behind a question, where nothing else is asked for."""

_MARKER = re.compile(r"\banswer(?:\s+is)?\s*:|\banswer\s+is\b", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)

_WORKER = Worker("lab.tasks.gym:reply", package="reasoning-gym", prepare="lab.tasks.gym:prepare")


@dataclass(frozen=True, kw_only=True, slots=True)
class GymTask:
    """One dataset under one seed."""

    dataset: str
    """A name of reasoning-gym, such as `chain_sum`."""
    config: tuple[tuple[str, int | float | str | bool], ...] = ()
    """Options of the dataset, as (name, value)."""
    seed: int = 0
    size: int = 10_000
    """Items that are looked through for distinct problems."""
    suffix: str = SUFFIX
    """What every prompt has after the question."""

    @property
    def typed(self) -> str:
        """What a user would type for it; the seed and the size cannot be typed."""
        suffix = [] if self.suffix == SUFFIX else [("suffix", self.suffix)]
        options = ",".join(f"{name}={_typed(value)}" for name, value in (*self.config, *suffix))
        return f"gym:{self.dataset}" + (f":{options}" if options else "")

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` distinct problems of one side of the split, in an order drawn from `generator`.

        Raises TaskError for an unknown dataset, one whose answers cannot be checked, a config it refuses, and where it
        has too few distinct problems.
        """
        distinct: dict[str, Problem] = {}
        for index in generator.permutation(self.size):
            if len(distinct) == n_problems:
                break
            question, gold = self._item(int(index))
            if question not in distinct and is_held_out(question) == held_out:
                distinct[question] = Problem(
                    id=f"gym:{self.dataset}:{self.seed}:{index}",
                    prompt=question + self.suffix,
                    answer=gold,
                    family=self.dataset,
                    source=f"gym:{self.dataset}",
                )
        if len(distinct) < n_problems:
            side = "held-out" if held_out else "training"
            raise TaskError(
                f"gym dataset {self.dataset!r}: asked for {n_problems} {side} problems, {self.size} items have "
                f"{len(distinct)} distinct ones: want fewer, a larger size, or a config with more variety"
            )
        return tuple(distinct.values())

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Whether the answer of `completion`, by `stated_answer`, is right; the process is not checked.

        Right is the gold answer itself, white space apart, or what the dataset's scorer gives exactly 1.0; but never a
        longer text that holds the gold answer, unless both are plain numbers. Never raises on any text: a scorer that
        raises or hangs makes the answer wrong, and the reason says so. Raises TaskError for a problem of another task,
        and where reasoning-gym cannot be used.
        """
        found = stated_answer(completion, n_lines=problem.answer.count("\n") + 1)
        fault = "no answer" if found is None else self._fault(problem, found.answer)
        read_by = None if found is None else found.read_by
        return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok", read_by=read_by)

    def judge(self, problems: Sequence[Problem]) -> Judge:
        """Its verifier, with answers of as many lines as those of `problems` have."""
        of_a_line = all("\n" not in problem.answer for problem in problems)
        return Judge(
            name="gym",
            verify=self.verify,
            read_answer=answer_reader(problems),
            same_answer=same_answer,
            first_answer=first_answer if of_a_line else None,
        )

    def _fault(self, problem: Problem, answer: str) -> str | None:
        # Answers come without the dollar signs or the full stop that some gold answers have.
        gold = tidied(problem.answer) or problem.answer
        if _words(answer) in (_words(problem.answer), _words(gold)):
            return None
        if self.dataset in COMPARED_AS_TEXT:
            return "another answer"
        longer = " ".join(gold.split()) in " ".join(answer.split())
        if longer and (as_ratio(answer) is None or as_ratio(gold) is None):
            return "a longer text around the gold answer"
        if self.dataset in ALPHABETS and not ALPHABETS[self.dataset].fullmatch(answer):
            return "not a plain formula"
        head, _, index = problem.id.rpartition(":")
        if head != f"gym:{self.dataset}:{self.seed}" or self._item(int(index))[1] != problem.answer:
            raise TaskError(f"problem {problem.id!r} is not one of {self}: verify it with the task it came from")
        match self._ask(int(index), SCORE_TIMEOUT_S, answer):
            case Answered({"score": 1.0}):
                return None
            case Answered({"score": score}):
                return f"score {score}"
            case Failed(reason):
                return f"not scored: {reason}"
            case other:
                raise AssertionError(other)

    def _item(self, index: int) -> tuple[str, str]:
        if self.dataset in REFUSED:
            raise TaskError(
                f"gym dataset {self.dataset!r} cannot be used: {REFUSED[self.dataset]}; try another dataset"
            )
        match self._ask(index, ITEM_TIMEOUT_S, None):
            case Answered({"question": str(question), "answer": str(answer)}) if answer.strip():
                return question, answer
            case Answered({"known": list(known)}):
                names = [str(name) for name in known]
                close = difflib.get_close_matches(self.dataset, names, n=5, cutoff=0.5) or names[:5]
                raise TaskError(f"unknown gym dataset {self.dataset!r}: try {', '.join(close)}, or {len(names)} more")
            case Answered():
                raise TaskError(
                    f"gym dataset {self.dataset!r} has no gold answers to check against: try another dataset"
                )
            case Failed(reason):
                raise TaskError(f"gym dataset {self.dataset!r} with config {dict(self.config)} failed: {reason}")

    def _ask(self, index: int, timeout_s: float, answer: str | None) -> Answered | Failed:
        spec = json.dumps([self.dataset, self.config, self.seed, self.size])
        return _WORKER.ask({"spec": spec, "index": index, "answer": answer}, timeout_s=timeout_s)


def gym_task(text: str) -> GymTask | None:
    """The task typed as `gym:NAME[:option=value,...]`, None for another text.

    The options are the dataset's own, and `suffix`, which is written behind each question in place of an instruction.
    """
    gym = re.fullmatch(r"gym:(?P<dataset>[A-Za-z0-9_]+)(?::(?P<options>.*))?", text, re.DOTALL)
    if gym is None:
        return None
    dataset, options = gym["dataset"], gym["options"]
    pairs = [] if options is None else [option.partition("=") for option in options.split(",")]
    wrong = [name + equals + value for name, equals, value in pairs if not (name and equals)]
    if wrong:
        raise TaskError(f"option {wrong[0]!r} of gym dataset {dataset!r}: want name=value, such as max_terms=3")
    values = {name: value for name, _, value in pairs}
    suffix = values.pop("suffix", SUFFIX)
    return GymTask(
        dataset=dataset, config=tuple((name, _untyped(value)) for name, value in values.items()), suffix=suffix
    )


def _untyped(text: str) -> int | float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _typed(value: int | float | str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def stated_answer(completion: str, *, n_lines: int = 1) -> Stated | None:
    r"""The answer of a completion, or None, as where its thinking never ends; never raises.

    Behind its thinking and before it runs on, the content of the last `<answer>` element ("tag"); else of the last
    closed `\boxed{}` ("box"); else the first `n_lines` lines after the last "Answer:" or "answer is" ("stated"); else
    the last `n_lines` lines ("whole"). Emphasis, dollar signs and a full stop around it go.
    """
    part = behind_thought(completion)
    if part is None:
        return None
    part = before_run_on(part)
    if tagged := _TAGGED.findall(part):
        said, read_by = tagged[-1], "tag"
    elif boxes := last_boxes(part):
        said, read_by = ", ".join(boxes), "box"
    elif markers := [*_MARKER.finditer(part)]:
        said, read_by = "\n".join(part[markers[-1].end() :].lstrip(" \t\r\n*").split("\n")[:n_lines]), "stated"
    else:
        said, read_by = "\n".join(part.rstrip().split("\n")[-n_lines:]), "whole"
    answer = tidied(said)
    return None if answer is None else Stated(answer, read_by)


def answer_reader(problems: Sequence[Problem]) -> Callable[[str], str | None]:
    """`stated_answer` with as many lines as the longest gold answer of `problems` has.

    Where all gold answers have as many lines this reads what `GymTask.verify` reads. Where they differ, an answer that
    is shorter than the longest and is neither tagged nor boxed comes with the lines around it, if there are any.
    """
    n_lines = max((problem.answer.count("\n") + 1 for problem in problems), default=1)

    def read(completion: str) -> str | None:
        found = stated_answer(completion, n_lines=n_lines)
        return None if found is None else found.answer

    return read


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def prepare() -> None:
    """In a new worker: imports every dataset of reasoning-gym."""
    importlib.import_module("reasoning_gym.factory")


def reply(request: Request) -> Request:
    """In the worker: an item, the score of an answer to it, or the known datasets where it is of none."""
    from reasoning_gym.factory import DATASETS

    spec, index, answer = cast(tuple[str, int, str | None], itemgetter("spec", "index", "answer")(request))
    if json.loads(spec)[0] not in DATASETS:
        return {"known": sorted(DATASETS)}
    item = _item_of(spec, index)
    if answer is None:
        return {"question": item["question"], "answer": item["answer"]}
    # Scorers may write into the item they are given.
    return {"score": float(_dataset_of(spec).score_answer(answer, copy.deepcopy(item)))}


@functools.lru_cache(maxsize=8)
def _dataset_of(spec: str) -> "ProceduralDataset":
    from reasoning_gym import create_dataset

    name, config, seed, size = json.loads(spec)
    return create_dataset(name, seed=seed, size=size, **dict(config))


@functools.lru_cache(maxsize=1024)
def _item_of(spec: str, index: int) -> dict[str, object]:
    return _dataset_of(spec)[index]
