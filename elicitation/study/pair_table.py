"""The pair before anything runs: its check, with what becomes of a study's arms, by names or as a study's stage."""

from collections.abc import Iterator, Sequence

from elicitation.study.config import Study, StudyContext, Tables
from lab.models.device import resolve_device, resolve_dtype
from lab.models.pair_check import EXAMPLE, PAIR, Checkpoint, Fact, Machine, PairCheck, check, read_checkpoint
from lab.models.source import model_source
from lab.records.provenance import digest
from lab.records.stage import Artefact
from lab.tasks.problem import Problem
from lab.tasks.source import N_PROBLEMS, Task, open_sides

N_ARMS = 40
"""Rungs and controls of a whole ladder, about."""


def pair_stage(context: StudyContext) -> Artefact:
    """`pair/`: the check of the loaded models, without memory and time, which would be this machine's."""
    study, pair = context.study, context.pair
    config = {"max_new_tokens": study.decoding.max_new_tokens, "arms": [*arm_facts(study, context.task)]}
    parents = {"problems": digest(context.task.problems), "base": pair.base.digest, "tuned": pair.tuned.digest}
    asked = {"base": str(pair.base.prompter.format), "tuned": str(pair.tuned.prompter.format)}

    def compute() -> Tables:
        both = Checkpoint.of(pair.base), Checkpoint.of(pair.tuned)
        return {"pair": (PAIR, checked(study, *both, context.task).table)}

    return context.tables("pair", {**config, "asked": asked}, parents, compute)


def checked_pair(study: Study, task: str | None, *, costs: bool = True) -> PairCheck:
    """The check of a pair by its names, with what a study would cost here, if asked; `task` is the study's, if any.

    Raises ModelError for a name that is none, and TaskError for a task that cannot be read.
    """
    sources = model_source(study.base), model_source(study.tuned)
    opened = machine = None
    if costs:
        device = resolve_device(study.device)
        machine = Machine(device, resolve_dtype(study.dtype, device), study.batch_size, n_completions(study))
    if task is not None:
        fit_source = None if study.fit_task is None else study.source(study.fit_task)
        numbers = study.n_problems, study.n_fit_problems
        opened = open_sides(study.source(task), fit_source, *numbers, seed=study.seed).task
    base, tuned = map(read_checkpoint, sources)
    return checked(study, base, tuned, opened, machine)


def checked(
    study: Study, base: Checkpoint, tuned: Checkpoint, task: Task | None, machine: Machine | None = None
) -> PairCheck:
    """What `check` finds on the problems of `task`, and the arms that will run where nothing is refused."""
    problems: Sequence[Problem] = () if task is None else task.problems
    questions = [(problem.prompt, problem.opening) for problem in problems] or [EXAMPLE]
    max_new_tokens = study.decoding.max_new_tokens
    found = check(base, tuned, questions=questions, max_new_tokens=max_new_tokens, machine=machine)
    return found if found.refusals else PairCheck((*found.facts, *arm_facts(study, task)))


def arm_facts(study: Study, task: Task | None) -> Iterator[Fact]:
    """Every group of arms: what either model does in it, or why it is left out."""

    def arms(group: str, base: str, tuned: str, *, missing: str = "") -> Fact:
        out = "left out"
        return Fact(f"arms: {group}", out if missing else base, out if missing else tuned, "ok", missing)

    alone, silent = "writes alone", "says nothing"
    steps = "worked steps" if task is not None and task.steps is not None else "sentences"
    yield arms("the models", alone, alone)
    yield arms("prompt, decoding", alone, silent, missing="" if study.own_help else "not asked for")
    yield arms("vectors", "writes, steered", "only teaches the vector")
    missing = "" if study.routing else "not asked for"
    yield arms(
        "routers, categories", f"writes, steered by its own {steps}", "teaches; in some says when", missing=missing
    )
    yield arms("in step", "writes", "reads the same ids, and says when or what")
    missing = "" if study.published_hybrids else "give --published-hybrids"
    yield arms("published hybrids", "writes, steered", "reads every token", missing=missing)
    yield arms("forgetting", alone, alone, missing="" if study.old_task else "give --old-task")
    yield arms("features", "is read", silent, missing="" if study.features.layers else "give --features.layers")


def n_completions(study: Study) -> int:
    """About how many a study asks for: of the models themselves, of all arms, and of votes."""
    votes = study.own_help.n_votes if study.own_help else 0
    arms = (len(study.arms) or N_ARMS) + votes
    n_problems, n_fit_problems = study.n_problems or N_PROBLEMS, study.n_fit_problems or N_PROBLEMS
    fitted = n_fit_problems * study.n_fit_samples * (2 + (8 if study.own_help else 0))
    return n_problems * (2 * study.n_curve_samples + arms * study.n_samples) + fitted
