"""Judged: vectors and their controls -> how well the base model does under them on held-out problems."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from elicitation.comparison.context import Ground
from elicitation.comparison.dose import dose_sweep
from elicitation.comparison.evaluate import EvalResult, EvalSpec, evaluate, evaluate_by_prompt
from elicitation.comparison.fitted import Fitted
from elicitation.comparison.transfer import Check, other_base, other_skill, removal, transfer
from elicitation.report.vectors.tables import VECTOR_DOSES, VECTOR_OUTCOMES, VECTOR_TRANSFERS
from lab.models.load import Model
from lab.records.seeds import child_seed
from lab.records.stage import Artefact, memoised
from lab.records.tables import Schema, read_table, write_table
from lab.sampling.decoding import Decoding
from lab.tasks.source import Task
from steering.edit import Add

DecodingName: TypeAlias = Literal["sampled", "greedy"]
N_TRANSFER_CONTROLS = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arm:
    """A model as it is judged."""

    fit: str
    control: str | None
    model: Model
    edits: tuple[Add, ...]
    """None, or one for each prompt out of these."""

    @property
    def name(self) -> str:
        """Unique, and fit for a file."""
        return f"{self.fit}.{self.control or 'itself'}"


def arms(ground: Ground, fits: Sequence[Fitted]) -> Iterator[Arm]:
    """Both models as they are, then every fit with its controls."""
    base = ground.context.base
    yield Arm(fit="base", control=None, model=base, edits=())
    yield Arm(fit="tuned", control=None, model=ground.context.pair.tuned, edits=())
    for fitted in fits:
        if fitted.vector is None:
            continue
        name, where = fitted.entry.name, fitted.entry.where
        yield Arm(fit=name, control=None, model=base, edits=(Add(fitted.vector, where=where),))
        drawn = tuple(Add(vector, where=where) for vector in fitted.random(ground.comparison.seed))
        yield Arm(fit=name, control="random", model=base, edits=drawn)
        for control, vectors in fitted.controls.items():
            edits = tuple(Add(vector, where=where) for vector in vectors)
            yield Arm(fit=name, control=control, model=base, edits=edits)


def eval_spec(ground: Ground, task: Task, decoding: DecodingName = "sampled") -> EvalSpec:
    """What is asked; all arms draw the same random numbers."""
    comparison = ground.comparison
    greedy = decoding == "greedy"
    return EvalSpec(
        task=task,
        n_samples=1 if greedy else comparison.n_samples,
        decoding=Decoding(temperature=0.0 if greedy else 1.0, max_new_tokens=comparison.max_new_tokens),
        seed=child_seed(comparison.seed, "exam"),
        batch_size=comparison.batch_size,
    )


def outcome_stage(ground: Ground, fits: Sequence[Fitted]) -> Artefact:
    """`outcomes/`: `VECTOR_OUTCOMES` of every arm at temperature 1 and greedily."""
    context = ground.context
    asked: dict[DecodingName, EvalSpec] = {
        "sampled": eval_spec(ground, context.task),
        "greedy": eval_spec(ground, context.task, "greedy"),
    }
    config = {name: replaced(one) for name, one in asked.items()}
    parents = {"base": context.base.digest, "tuned": context.pair.tuned.digest} | parents_of(fits)
    pieces = [
        (f"{arm.name}.{name}", partial(outcome_rows, arm, one, name))
        for arm in arms(ground, fits)
        for name, one in asked.items()
    ]
    return pieced_stage(ground, "outcomes", VECTOR_OUTCOMES, config, parents, pieces)


def outcome_rows(arm: Arm, asked: EvalSpec, decoding: DecodingName) -> pl.DataFrame:
    """`VECTOR_OUTCOMES` of one arm."""
    judge = evaluate_by_prompt if len(arm.edits) > 1 else evaluate
    found: EvalResult = judge(arm.model, arm.edits, asked)
    return VECTOR_OUTCOMES.frame(
        [
            {
                "fit": arm.fit,
                "control": arm.control,
                "decoding": decoding,
                "problem_id": problem.id,
                "n_samples": asked.n_samples,
                "strict": float(found.strict[index]),
                "answer": float(found.answer[index]),
                "incoherent": float(found.incoherent[index]),
            }
            for index, problem in enumerate(asked.task.problems)
        ]
    )


def dose_stage(ground: Ground, fits: Sequence[Fitted]) -> Artefact:
    """`doses/`: `VECTOR_DOSES` at temperature 1; damage is measured on the other task's texts, else on the task's."""
    context, comparison = ground.context, ground.comparison
    asked = eval_spec(ground, context.task)
    unrelated = replace(eval_spec(ground, context.old_task or context.task), n_samples=1)
    config = {"doses": comparison.doses, "exam": replaced(asked), "unrelated": replaced(unrelated)}

    def swept(fitted: Fitted) -> pl.DataFrame:
        assert fitted.vector is not None, "only fits with a vector are swept"
        table = dose_sweep(
            context.base,
            fitted.vector,
            comparison.doses,
            asked,
            unrelated,
            where=fitted.entry.where,
            n_boot=comparison.n_boot,
        )
        return of_fit(fitted, table)

    pieces = pieces_of(fits, swept) if comparison.doses else []
    return pieced_stage(ground, "doses", VECTOR_DOSES, config, parents_of(fits) | {"base": context.base.digest}, pieces)


def transfer_stage(ground: Ground, fits: Sequence[Fitted]) -> Artefact:
    """`transfers/`: `VECTOR_TRANSFERS`: -v on the tuned model, and v on the other models that were named."""
    context, comparison = ground.context, ground.comparison
    asked = eval_spec(ground, context.task)
    checks: list[Check] = [removal(context.pair, asked)]
    if ground.other_base is not None:
        checks.append(other_base(ground.other_base, asked))
    if ground.other_skill is not None:
        model, task = ground.other_skill
        checks.append(other_skill(model, eval_spec(ground, task)))
    config = {check.name: {"model": check.model.digest, "exam": replaced(check.eval_spec)} for check in checks}

    def tried(fitted: Fitted) -> pl.DataFrame:
        assert fitted.vector is not None, "only fits with a vector are tried elsewhere"
        controls = fitted.random(comparison.seed, N_TRANSFER_CONTROLS)
        table = transfer(checks, fitted.vector, controls, where=fitted.entry.where, n_boot=comparison.n_boot)
        return of_fit(fitted, table)

    return pieced_stage(ground, "transfers", VECTOR_TRANSFERS, config, parents_of(fits), pieces_of(fits, tried))


Piece: TypeAlias = tuple[str, Callable[[], pl.DataFrame]]
"""(name, how to make it) of a part of a table."""


def pieces_of(fits: Sequence[Fitted], make: Callable[[Fitted], pl.DataFrame]) -> list[Piece]:
    """A piece for every fit that has a vector."""
    return [(fitted.entry.name, partial(make, fitted)) for fitted in fits if fitted.vector is not None]


def pieced_stage(
    ground: Ground, name: str, schema: Schema, config: object, parents: dict[str, str], pieces: Sequence[Piece]
) -> Artefact:
    """The stage `name/`, one table that is made piece by piece; whole pieces survive a kill."""

    def compute(work: Path) -> None:
        made_by = ground.context.made_by(name, config, parents)
        table, parts = work / f"{name}.parquet", work / "parts"
        if not table.exists():
            ground.context.watch(name, 0, len(pieces))
            for piece, make in pieces:
                path = parts / f"{piece}.parquet"
                if not path.exists():
                    write_table(path, make(), schema, made_by)
                ground.context.watch(name, 1, len(pieces))
            frames = [read_table(parts / f"{piece}.parquet", schema) for piece, _ in pieces]
            write_table(table, pl.concat([schema.frame([]), *frames]), schema, made_by)
        for path in parts.glob("*"):
            path.unlink()
        if parts.exists():
            parts.rmdir()

    return memoised(ground.context.out, name, config, parents, compute)


def parents_of(fits: Sequence[Fitted]) -> dict[str, str]:
    """The digests of the fits."""
    return {fitted.entry.name: fitted.digest for fitted in fits}


def replaced(asked: EvalSpec) -> dict[str, object]:
    """An exam without its functions, which have no canonical form."""
    return {
        "task": asked.task.name,
        "problems": [problem.id for problem in asked.task.problems],
        "n_samples": asked.n_samples,
        "decoding": asked.decoding,
        "seed": asked.seed,
    }


def of_fit(fitted: Fitted, table: pl.DataFrame) -> pl.DataFrame:
    """A table with the fit's name in front."""
    return table.select(pl.lit(fitted.entry.name).alias("fit"), pl.all())
