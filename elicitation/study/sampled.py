"""Sampled stages: the traces of one arm, written in shards so that a killed run goes on where it stopped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import polars as pl

from elicitation.study.arms import Arm
from elicitation.study.context import StudyContext
from lab.models.load import Model
from lab.records.provenance import digest, provenance
from lab.records.seeds import child_seed
from lab.records.stage import Artefact, memoised
from lab.records.tables import Column, Schema, read_table, write_table
from lab.sampling.decoder import OpenDecoder
from lab.sampling.decoding import Decoding
from lab.sampling.sample import end_tokens, sample
from lab.sampling.trace import TRACES, trace_table
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import CANDIDATES
from lab.test_time.elicit import elicit
from lab.test_time.method import Elicitation
from steering.edited import Edited, open_edited
from steering.hybrid.hybrid import Hybrid, identity
from steering.hybrid.open_hybrid import open_hybrid

BATCHES_A_SHARD = 4
TABLE = "traces.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The configuration of a sampled stage."""

    arm: str
    n_samples: int
    decoding: Decoding
    seed: int
    batch_size: int
    device: str
    dtype: str

    @property
    def shard_size(self) -> int:
        """Problems a shard."""
        return max(1, BATCHES_A_SHARD * self.batch_size // self.n_samples)


def sampled(
    out: Path,
    config: Sampling,
    model: Model,
    problems: Sequence[Problem],
    parents: Mapping[str, str],
    *,
    open_rows: OpenDecoder | None = None,
    also_ends: frozenset[int],
    on_progress: Callable[[int], None],
) -> Artefact:
    """The stage `traces/<arm>`: one `TRACES` table, written in shards of whole problems and joined at the end.

    A shard is always sampled as the same batches, whoever starts it, so a resumed run gives the same bytes.
    """

    def compute(work: Path) -> None:
        made_by = provenance(
            f"traces/{config.arm}", config, parents, device=config.device, dtype=config.dtype, seed=config.seed
        )
        shards = []
        for start in range(0, len(problems), config.shard_size):
            path = work / f"shard-{start // config.shard_size:05d}.parquet"
            chosen = problems[start : start + config.shard_size]
            shards.append(path)
            if path.exists() or (work / TABLE).exists():
                on_progress(len(chosen) * config.n_samples)
                continue
            traces = sample(
                model,
                chosen,
                config.n_samples,
                config.decoding,
                seed=config.seed,
                batch_size=config.batch_size,
                open_rows=open_rows,
                also_ends=also_ends,
                on_progress=on_progress,
            )
            write_table(path, trace_table(config.arm, traces), TRACES, made_by)
        if not (work / TABLE).exists():
            write_table(work / TABLE, pl.concat([read_table(path, TRACES) for path in shards]), TRACES, made_by)
        for path in shards:
            path.unlink(missing_ok=True)

    return memoised(out / "traces", config.arm, config, parents, compute)


def read_traces(artefact: Artefact) -> pl.DataFrame:
    """The table of a sampled stage, in the order of problems and samples."""
    return read_table(artefact.path / TABLE, TRACES)


def own_traces(
    context: StudyContext, model: Model, arm: str, parents: dict[str, str], *, fitting: bool = False
) -> Artefact:
    """A model's own traces: of the held-out problems, or, for fitting, of the training ones."""
    study = context.study
    problems = context.fit_task.problems if fitting else context.task.problems
    n_samples = study.n_fit_samples if fitting else study.n_curve_samples
    return trace_stage(
        context, arm, model, problems, n_samples, parents | {"model": model.digest}, decoding=study.decoding
    )


def old_traces(context: StudyContext, model: Model, arm: str, task: Task) -> Artefact:
    """A model's own traces of the task that the tuning was not about."""
    parents = {"problems": digest(task.problems), "model": model.digest}
    n_samples = context.study.n_old_samples
    return trace_stage(context, f"old-{arm}", model, task.problems, n_samples, parents, decoding=context.study.decoding)


def steered_traces(context: StudyContext, arm: Arm, method: Hybrid | Edited, parents: dict[str, str]) -> Artefact:
    """The traces of the held-out problems of an arm that changes what the base model writes."""
    study = context.study
    digests = {"base": context.base.digest, "tuned": context.pair.tuned.digest, "arm": identity(method)}
    return trace_stage(
        context,
        arm.name,
        context.base,
        context.task.problems,
        1 if arm.temperature == 0 else study.n_samples,
        parents | digests,
        decoding=study.decoding if arm.temperature is None else replace(study.decoding, temperature=arm.temperature),
        open_rows=opened(context, method),
    )


def opened(context: StudyContext, method: Hybrid | Edited) -> OpenDecoder:
    """The method as a decoder."""
    match method:
        case Hybrid():
            return open_hybrid(context.pair, method)
        case Edited():
            return open_edited(context.base, method)
        case _:
            assert_never(method)


def trace_stage(
    context: StudyContext,
    arm: str,
    model: Model,
    problems: tuple[Problem, ...],
    n_samples: int,
    parents: dict[str, str],
    *,
    decoding: Decoding,
    open_rows: OpenDecoder | None = None,
) -> Artefact:
    """One sampled stage. All arms share their random numbers, so they are paired sample by sample.

    Either model's end tokens end a text of any arm, since in a hybrid either may write them.
    """
    config = Sampling(
        arm=arm,
        n_samples=n_samples,
        decoding=decoding,
        seed=child_seed(context.study.seed, context.draws),
        batch_size=context.study.batch_size,
        device=context.device,
        dtype=context.dtype,
    )
    total = len(problems) * n_samples
    return sampled(
        context.out,
        config,
        model,
        problems,
        parents,
        open_rows=open_rows,
        also_ends=end_tokens(context.base) | end_tokens(context.pair.tuned),
        on_progress=lambda n: context.watch(f"traces: {arm}", n, total),
    )


COSTS = Schema(
    "costs",
    (
        Column("problem_id", pl.String, "the problem that was answered"),
        Column("n_answers", pl.Int32, "its answers"),
        Column("n_tokens", pl.Int64, "tokens generated for all of them, with every text that was thrown away"),
        Column("n_fit_tokens", pl.Int64, "tokens generated once, on training problems, to choose how to answer"),
    ),
)


def elicited_traces(context: StudyContext, arm: str, method: Elicitation, parents: dict[str, str]) -> Artefact:
    """`traces/<arm>/`: its `TRACES`, its `COSTS` and, where something was chosen, the `CANDIDATES`."""
    study, problems = context.study, context.task.problems
    config = {"method": method, "n_samples": study.n_samples, "decoding": study.decoding, "seed": study.seed}
    parents = parents | {"model": context.base.digest}

    def compute(work: Path) -> None:
        context.watch(f"traces: {arm}", 0, len(problems))
        answered = elicit(
            context.base,
            context.task,
            problems,
            method,
            study.decoding,
            n_samples=study.n_samples,
            # As every other arm, so that what is sampled alike is paired sample by sample.
            seed=child_seed(study.seed, context.draws),
            batch_size=study.batch_size,
        )
        made_by = context.made_by(f"traces/{arm}", config, parents)
        n_answers = len(answered.traces) // len(problems)
        costs = [
            {
                "problem_id": problem.id,
                "n_answers": n_answers,
                "n_tokens": n_tokens,
                "n_fit_tokens": answered.cost.n_fit_tokens,
            }
            for problem, n_tokens in zip(problems, answered.cost.n_tokens, strict=True)
        ]
        if answered.candidates is not None:
            write_table(work / "candidates.parquet", answered.candidates, CANDIDATES, made_by)
        write_table(work / "costs.parquet", COSTS.frame(costs), COSTS, made_by)
        write_table(work / TABLE, trace_table(arm, answered.traces), TRACES, made_by)
        context.watch(f"traces: {arm}", len(problems), len(problems))

    return memoised(context.out / "traces", arm, config, parents, compute)


def tokens_per_answer(artefact: Artefact) -> float:
    """Tokens generated for one answer, mean over problems."""
    costs = read_table(artefact.path / "costs.parquet", COSTS)
    return int(costs["n_tokens"].sum()) / int(costs["n_answers"].sum())
