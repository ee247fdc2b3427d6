"""run: a comparison from its configuration to its page, stage by stage, each resumable."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from elicitation.comparison.config import Comparison
from elicitation.comparison.context import Ground, survey
from elicitation.comparison.effects import effect_table, fit_table, ladder_of
from elicitation.comparison.fits import entries
from elicitation.comparison.fitted import ITSELF, Fitted, fit_stage
from elicitation.comparison.judged import dose_stage, outcome_stage, parents_of, transfer_stage
from elicitation.comparison.training_pairs import TrainingPairs, other_lessons, pair_lessons, placebo_lessons
from elicitation.report.kit.provenance_section import TableFile
from elicitation.report.study.tables import LADDER
from elicitation.report.vectors.answer import vector_answer
from elicitation.report.vectors.page import VectorPage, render_vectors
from elicitation.report.vectors.tables import (
    VECTOR_DOSES,
    VECTOR_EFFECTS,
    VECTOR_FITS,
    VECTOR_OUTCOMES,
    VECTOR_TRANSFERS,
    VectorTables,
)
from elicitation.study.context import Watch, claimed
from elicitation.study.disagreements import DISAGREEMENTS
from elicitation.study.run import problem_stage
from lab.models.device import settled_threads
from lab.records.provenance import file_digest
from lab.records.stage import Artefact, memoised
from lab.records.tables import Schema, read_provenance, read_table, write_table, write_text
from lab.sampling.trace import TRACES
from lab.tasks.problem import PROBLEMS
from steering.export.tensors import save_vector
from steering.export.vector_file import facts_of

PAGE = "vectors.html"


class Compared(NamedTuple):
    """Where the results lie."""

    page: Path
    vectors: Path
    """Directory of the vectors, as `lab export` reads them."""
    ledger: VectorTables
    answer: str
    """What was found, in a sentence."""


class Measured(NamedTuple):
    """The stages that the page is drawn from."""

    tables: Artefact
    doses: Artefact
    transfers: Artefact


def compare(comparison: Comparison, out: Path, *, command: str, watch: Watch = lambda *_: None) -> Compared:
    """Runs what is not yet there and writes `out/vectors.html`.

    What can be found wrong with the request is found before the first file is written. Raises a LabError for a bad
    request, and StorageError where `out` belongs to another comparison.
    """
    ground = survey(comparison, out, watch)
    with claimed(out, comparison, "comparison"), settled_threads(ground.context.base.n_parameters):
        measured, vectors = measure(ground)
        # Every stage has moved out of it; a kill may have left hidden parts of files.
        shutil.rmtree(out / ".work", ignore_errors=True)
        return page_stage(ground, measured, vectors, command)


def measure(ground: Ground) -> tuple[Measured, Artefact]:
    """Everything but the page."""
    problems = problem_stage(ground.context)
    taught = all_lessons(ground, problems)
    fits = [fit_stage(ground, entry, taught) for entry in entries(ground)]
    outcomes = outcome_stage(ground, fits)
    measured = Measured(table_stage(ground, fits, outcomes), dose_stage(ground, fits), transfer_stage(ground, fits))
    return measured, vector_stage(ground, fits)


def all_lessons(ground: Ground, problems: Artefact) -> dict[str, TrainingPairs]:
    """Those of the pair as `itself`, and those of other texts by their names; a policy gradient needs none."""
    if set(ground.methods) == {"policy"}:
        return {}
    own = pair_lessons(ground, problems)
    rest = {"other-task": other_lessons(ground), "placebo": placebo_lessons(ground, problems)}
    return {ITSELF: own} | {name: training_pairs for name, training_pairs in rest.items() if training_pairs is not None}


def table_stage(ground: Ground, fits: Sequence[Fitted], outcomes: Artefact) -> Artefact:
    """`tables/`: effects, fits, and the effects as a ladder for the cards of exported vectors."""
    context, comparison = ground.context, ground.comparison
    parents = parents_of(fits) | {"outcomes": outcomes.digest}
    config = {"n_boot": comparison.n_boot, "seed": comparison.seed}

    def compute(work: Path) -> None:
        made_by = context.made_by("tables", config, parents)
        labels = {"base": context.base.name, "tuned": context.pair.tuned.name}
        labels |= {fitted.entry.name: fitted.entry.label for fitted in fits}
        found = read_table(outcomes.path / "outcomes.parquet", VECTOR_OUTCOMES)
        effects = effect_table(found, labels, n_boot=comparison.n_boot, seed=comparison.seed)
        write_table(work / "effects.parquet", effects, VECTOR_EFFECTS, made_by)
        write_table(work / "fits.parquet", fit_table(fits), VECTOR_FITS, made_by)
        write_table(work / "ladder.parquet", ladder_of(effects), LADDER, made_by)

    return memoised(context.out, "tables", config, parents, compute)


def vector_stage(ground: Ground, fits: Sequence[Fitted]) -> Artefact:
    """`vectors/`: a canonical file for every fit, whose effect at dose 1 was measured."""
    context, parents = ground.context, parents_of(fits)

    def compute(work: Path) -> None:
        made_by = context.made_by("vectors", {}, parents)
        for fitted in fits:
            if fitted.vector is not None:
                path = work / f"{fitted.entry.name}.safetensors"
                save_vector(path, fitted.vector, made_by, fitted_on=facts_of(context.base), measured_dose=1.0)

    return memoised(context.out, "vectors", {}, parents, compute)


def page_stage(ground: Ground, measured: Measured, vectors: Artefact, command: str) -> Compared:
    """`vectors.html`, drawn from the tables alone; written again by every run, and equal each time."""
    context, out = ground.context, ground.context.out
    ledger = VectorTables(
        effects=read_table(measured.tables.path / "effects.parquet", VECTOR_EFFECTS),
        fits=read_table(measured.tables.path / "fits.parquet", VECTOR_FITS),
        doses=read_table(measured.doses.path / "doses.parquet", VECTOR_DOSES),
        transfers=read_table(measured.transfers.path / "transfers.parquet", VECTOR_TRANSFERS),
    )
    parents = {name: stage.digest for name, stage in measured._asdict().items()}
    # The page is drawn again by every run; the numbers are those of the commit that made the tables.
    of_tables = read_provenance(measured.tables.path / "effects.parquet")
    made_by = replace(
        context.made_by("comparison", ground.comparison, parents),
        commit=of_tables.commit,
        dirty=of_tables.dirty,
        packages=of_tables.packages,
    )
    task = f"held-out {context.task.name}"
    page = VectorPage(
        title=f"Steering vectors of {context.base.name}, towards {context.pair.tuned.name}",
        task=task,
        unrelated=None if context.old_task is None else context.old_task.name,
        ledger=ledger,
        made_by=made_by,
        command=command,
        files=tuple(table_files(out)),
    )
    write_text(out / PAGE, render_vectors(page))
    return Compared(out / PAGE, vectors.path, ledger, vector_answer(ledger, task))


def table_files(out: Path) -> Iterator[TableFile]:
    """Every table of a comparison, with its schema."""
    tables: list[tuple[Path, Schema]] = [
        (out / "tables" / "effects.parquet", VECTOR_EFFECTS),
        (out / "tables" / "fits.parquet", VECTOR_FITS),
        (out / "tables" / "ladder.parquet", LADDER),
        (out / "outcomes" / "outcomes.parquet", VECTOR_OUTCOMES),
        (out / "doses" / "doses.parquet", VECTOR_DOSES),
        (out / "transfers" / "transfers.parquet", VECTOR_TRANSFERS),
    ]
    tables += [(path, PROBLEMS) for path in sorted(out.glob("problems/*.parquet"))]
    tables += [(path, TRACES) for path in sorted(out.glob("traces/*/*.parquet"))]
    tables += [(path, DISAGREEMENTS) for path in sorted(out.glob("disagreements*/*.parquet"))]
    for path, schema in tables:
        yield TableFile(
            path=str(path.relative_to(out)),
            schema=schema,
            n_rows=read_table(path, schema).height,
            digest=file_digest(path),
        )
