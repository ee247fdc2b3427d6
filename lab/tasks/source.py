"""Where problems come from: what a user types, and the task it names."""

import contextlib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.chain_verifier import CHAIN_STEPS, chain_answer
from lab.tasks.chain_verifier import verify as verify_chain
from lab.tasks.chain_world import ChainMix, ChainPart, ChainTask
from lab.tasks.final_answer import final_answer, same_answer
from lab.tasks.gym import SUFFIX, GymTask, answer_reader
from lab.tasks.hub_dataset import HubTask
from lab.tasks.math_answer import verify as verify_math
from lab.tasks.problem import Problem, Verifier
from lab.tasks.question_rows import JsonlTask
from lab.tasks.step_grammar import StepGrammar

TaskSource: TypeAlias = ChainTask | ChainMix | GymTask | HubTask | JsonlTask
"""A source of problems that one verifier can judge."""

FORMS = (
    "'chain', 'chain:+-#', 'chain:+-:3-8', '25%chain:#:3-5,75%chain:*:3-5', 'gym:chain_sum', "
    "'gym:chain_sum:max_terms=3', 'hub:openai/gsm8k:main:test' or 'path/to/file.jsonl'"
)
# As typed: an empty place between two colons is a configuration that is not named.
HUB = re.compile(
    r"hub:(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?"
    r"(:(?P<config>[\w.-]*)(:(?P<split>[\w.-]+))?)?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Problems and the verifier that judges completions of them."""

    name: str
    """As a user would type the source."""
    problems: tuple[Problem, ...]
    verify: Verifier = field(compare=False)
    read_answer: Callable[[str], str | None] = field(compare=False)
    """The answer that a completion states, if any: what the guess floor shuffles among problems."""
    same_answer: Callable[[str, str], bool] = field(compare=False)
    """Whether a stated answer equals another problem's gold answer, for the guess floor.

    For the chain world, equal strings; else `lab.tasks.final_answer.same_answer`, which is cheaper than `verify` and
    says there what it leaves out, so that the floor may come out a little low.
    """
    steps: StepGrammar | None = field(default=None, compare=False)
    """How worked answers fall into steps; None where that cannot be told."""


def task_source(text: str) -> TaskSource:
    """The source that a user names: `chain[:operators[:fewest-most]]`, several of these as `25%...,75%...`,
    `gym:NAME[:option=value,...]`, `hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]]` or a path that ends with `.jsonl`.

    The options are the gym dataset's own, and `suffix`, which is written behind each question in place of an
    instruction.

    Raises TaskError for anything else; that a dataset or file exists is found out by `open_task`.
    """
    parts = [re.fullmatch(r"(?P<percent>[0-9]+(?:\.[0-9]+)?)%(?P<task>.+)", part) for part in text.split(",")]
    if found := [part for part in parts if part is not None]:
        tasks = [task_source(part["task"]) for part in found]
        chains = [task for task in tasks if isinstance(task, ChainTask)]
        if len(chains) < len(parts):
            raise TaskError(f"task {text!r}: want a mix of chain tasks only, each with its percentage")
        return ChainMix(
            tuple(ChainPart(float(part["percent"]), task) for part, task in zip(found, chains, strict=True))
        )
    if chain := re.fullmatch(r"chain(?::(?P<operators>[^:]+)(?::(?P<low>[0-9]{1,4})-(?P<high>[0-9]{1,4}))?)?", text):
        if chain["low"]:
            return ChainTask(operators=chain["operators"], lengths=(int(chain["low"]), int(chain["high"])))
        return ChainTask(operators=chain["operators"]) if chain["operators"] else ChainTask()
    if gym := re.fullmatch(r"gym:(?P<dataset>[A-Za-z0-9_]+)(?::(?P<options>.*))?", text, re.DOTALL):
        return _gym_task(gym["dataset"], gym["options"])
    if hub := HUB.fullmatch(text):
        return HubTask(
            name=hub["name"], revision=hub["revision"], config=hub["config"] or None, split=hub["split"] or "test"
        )
    if text.endswith(".jsonl") and not text.startswith(("chain:", "gym:", "hub:")):
        return JsonlTask(path=Path(text))
    raise TaskError(f"task {text!r} is not one of {FORMS}")


def source_name(source: TaskSource) -> str:
    """What a user would type for `source`, options that cannot be typed left out."""
    match source:
        case ChainTask():
            low, high = source.lengths
            return f"chain:{source.operators}:{low}-{high}"
        case ChainMix(parts=parts):
            # Every digit and no exponent, so that the name can be typed and is this mix again.
            percents = [np.format_float_positional(part.percent, trim="-") for part in parts]
            return ",".join(
                f"{percent}%{source_name(part.task)}" for percent, part in zip(percents, parts, strict=True)
            )
        case GymTask():
            suffix = [] if source.suffix == SUFFIX else [("suffix", source.suffix)]
            options = ",".join(f"{name}={_typed(value)}" for name, value in (*source.config, *suffix))
            return f"gym:{source.dataset}" + (f":{options}" if options else "")
        case HubTask():
            return source.typed
        case JsonlTask():
            return str(source.path)


def _gym_task(dataset: str, options: str | None) -> GymTask:
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


def open_task(source: TaskSource, *, n_problems: int, seed: int, held_out: bool = True) -> Task:
    """The task of `n_problems` distinct problems of `source`, on its held-out side or, for fitting, its training side.

    The sides share no question, whatever the seeds. The same arguments give the same problems, and fewer problems are
    the first ones of more. Raises TaskError where `n_problems` is below 1 or beyond what there is, and for every fault
    of the source.
    """
    # The import is here because it brings torch, and the command line names sources without it.
    from lab.records.seeds import numpy_generator

    if n_problems < 1:
        raise TaskError(f"task {source_name(source)!r}: asked for {n_problems} problems, want at least 1")
    generator = numpy_generator(seed, "problems", "held out" if held_out else "training")
    problems = source.problems(n_problems, generator, held_out=held_out)
    same: Callable[[str, str], bool] = same_answer
    steps: StepGrammar | None = None
    match source:
        case ChainTask() | ChainMix():
            verify: Verifier = verify_chain
            read_answer: Callable[[str], str | None] = chain_answer
            same, steps = operator.eq, CHAIN_STEPS
        case GymTask():
            verify, read_answer = source.verify, answer_reader(problems)
        case HubTask() | JsonlTask():
            verify, read_answer = verify_math, final_answer
    return Task(
        name=source_name(source),
        problems=problems,
        verify=verify,
        read_answer=read_answer,
        same_answer=same,
        steps=steps,
    )
