"""Sampled stages: the traces of one arm, written in shards so that a killed run goes on where it stopped.

All arms share their random numbers, so they are paired sample by sample.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from elicitation.study.arms import Arm, AskedAs
from elicitation.study.config import StudyContext
from lab.models.load import Model
from lab.records.provenance import Provenance, digest
from lab.records.seeds import child_seed
from lab.records.stage import Artefact
from lab.records.tables import Column, Schema, read_table, write_table
from lab.sampling.decoder import OpenDecoder
from lab.sampling.sample import sample
from lab.sampling.trace import TRACES, Decoding, trace_table
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import CANDIDATES
from lab.test_time.elicit import elicit
from lab.test_time.method import Elicitation
from steering.edit import Edited, open_edited
from steering.hybrid.hybrid import Hybrid, identity, open_hybrid

FOLDER, TABLE = "traces", "traces.parquet"
BATCHES_A_SHARD = 4
COSTS = Schema(
    "costs",
    (
        Column("problem_id", pl.String, "the problem that was answered"),
        Column("n_answers", pl.Int32, "its answers"),
        Column("n_tokens", pl.Int64, "tokens generated for all of them, with every text that was thrown away"),
        Column("n_fit_tokens", pl.Int64, "tokens generated once, on training problems, to choose how to answer"),
    ),
)


def read_traces(artefact: Artefact) -> pl.DataFrame:
    """The table of a sampled stage, in the order of problems and samples."""
    return read_table(artefact.path / TABLE, TRACES)


def own_traces(
    context: StudyContext, model: Model, name: str, parents: dict[str, str], *, fitting: bool = False
) -> Artefact:
    """A model's own traces: of the held-out problems, or, for fitting, of the training ones."""
    study, parents = context.study, parents | {"model": model.digest}
    problems = context.fit_task.problems if fitting else context.task.problems
    n_samples = study.n_fit_samples if fitting else study.n_curve_samples
    return trace_stage(context, name, model, problems, n_samples, parents, study.decoding)


def old_traces(context: StudyContext, model: Model, name: str, task: Task) -> Artefact:
    """A model's own traces of the task that the tuning was not about."""
    study, parents = context.study, {"problems": digest(task.problems), "model": model.digest}
    return trace_stage(context, f"old-{name}", model, task.problems, study.n_old_samples, parents, study.decoding)


def arm_traces(context: StudyContext, arm: Arm, parents: dict[str, str]) -> Artefact:
    """An arm's traces of the held-out problems."""
    study, method = context.study, arm.method
    assert not isinstance(method, AskedAs | None), "a model that is only asked has traces of its own"
    if not isinstance(method, Hybrid | Edited):
        return elicited_traces(context, arm.name, method, parents)
    is_hybrid = isinstance(method, Hybrid)
    opened = open_hybrid(context.pair, method) if is_hybrid else open_edited(context.base, method)
    # What the tuned model may write is read by its names.
    model = (
        replace(context.base, tokenizer=context.pair.tuned.tokenizer)
        if is_hybrid and method.needs_tuned
        else context.base
    )
    parents = parents | {"base": context.base.digest, "tuned": context.pair.tuned.digest, "arm": identity(method)}
    decoding = study.decoding if arm.temperature is None else replace(study.decoding, temperature=arm.temperature)
    n_samples, problems = 1 if arm.temperature == 0 else study.n_samples, context.task.problems
    return trace_stage(context, arm.name, model, problems, n_samples, parents, decoding, open_rows=opened)


def trace_stage(
    context: StudyContext,
    name: str,
    model: Model,
    problems: tuple[Problem, ...],
    n_samples: int,
    parents: dict[str, str],
    decoding: Decoding,
    *,
    open_rows: OpenDecoder | None = None,
) -> Artefact:
    """`traces/<name>/`: one `TRACES` table, written in shards of whole problems and joined at the end.

    A shard is always sampled as the same batches, whoever starts it, so a resumed run gives the same bytes. Either
    model's end tokens end a text of any arm, since in a hybrid either may write them.
    """
    batch_size, seed = context.study.batch_size, child_seed(context.study.seed, context.draws)
    config = {"n_samples": n_samples, "decoding": decoding, "seed": seed, "batch_size": batch_size}
    config |= {"device": context.device, "dtype": context.dtype, "formats": (model.prompter.format, *context.formats)}
    size = max(1, BATCHES_A_SHARD * batch_size // n_samples)

    def told(n_done: int) -> None:
        context.watch(f"traces: {name}", n_done, len(problems) * n_samples)

    def compute(work: Path, made_by: Provenance) -> None:
        shards = []
        for start in range(0, len(problems), size):
            path = work / f"shard-{start // size:05d}.parquet"
            chosen = problems[start : start + size]
            shards.append(path)
            if path.exists() or (work / TABLE).exists():
                told(len(chosen) * n_samples)
                continue
            traces = sample(
                model,
                chosen,
                n_samples,
                decoding,
                seed=seed,
                batch_size=batch_size,
                open_rows=open_rows,
                on_progress=told,
            )
            write_table(path, trace_table(name, traces), TRACES, made_by)
        if not (work / TABLE).exists():
            write_table(work / TABLE, pl.concat([read_table(path, TRACES) for path in shards]), TRACES, made_by)
        for path in shards:
            path.unlink(missing_ok=True)

    return context.stage(f"{FOLDER}/{name}", config, parents, compute)


def elicited_traces(context: StudyContext, name: str, method: Elicitation, parents: dict[str, str]) -> Artefact:
    """`traces/<name>/`: its `TRACES`, its `COSTS` and, where something was chosen, the `CANDIDATES`."""
    study, problems = context.study, context.task.problems
    config = {"method": method, "n_samples": study.n_samples, "decoding": study.decoding, "seed": study.seed}
    config |= {"formats": context.formats}
    parents = parents | {"model": context.base.digest}

    def compute(work: Path, made_by: Provenance) -> None:
        context.watch(f"traces: {name}", 0, len(problems))
        sizes = {"n_samples": study.n_samples, "batch_size": study.batch_size}
        seed = child_seed(study.seed, context.draws)
        answered = elicit(context.base, context.task, problems, method, study.decoding, seed=seed, **sizes)
        of_all = {"n_answers": len(answered.traces) // len(problems), "n_fit_tokens": answered.cost.n_fit_tokens}
        costs = [
            {"problem_id": problem.id, "n_tokens": n_tokens, **of_all}
            for problem, n_tokens in zip(problems, answered.cost.n_tokens, strict=True)
        ]
        if answered.candidates is not None:
            write_table(work / "candidates.parquet", answered.candidates, CANDIDATES, made_by)
        write_table(work / "costs.parquet", COSTS.frame(costs), COSTS, made_by)
        write_table(work / TABLE, trace_table(name, answered.traces), TRACES, made_by)
        context.watch(f"traces: {name}", len(problems), len(problems))

    return context.stage(f"{FOLDER}/{name}", config, parents, compute)
