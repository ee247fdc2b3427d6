"""run: a comparison from its configuration to its page, stage by stage, each resumable."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from elicitation.comparison.config import Comparison, ComparisonContext, prepare_comparison
from elicitation.comparison.evaluate import dose_stage, parents_of, transfer_stage
from elicitation.comparison.fits import Fitted, entries, fit_stage, training_pairs
from elicitation.comparison.tables import table_stage
from elicitation.pages.kit.document import Origin
from elicitation.pages.study.tables import LADDER
from elicitation.pages.vectors.page import VectorPage, render_vectors, vector_answer
from elicitation.pages.vectors.tables import INCOHERENT, VECTOR_DOSES, VECTOR_FITS, VECTOR_TRANSFERS, VectorTables
from elicitation.study.config import Watch, claimed
from elicitation.study.fits import DISAGREEMENTS
from elicitation.study.run import of_numbers, problem_stage, tables_at
from lab.models.device import settled_threads
from lab.records.provenance import Provenance
from lab.records.stage import Artefact
from lab.records.tables import Schema, read_table, write_text
from lab.sampling.trace import TRACES, VERDICTS
from lab.scoring.evidence import ARMS
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


TABLES: Mapping[str, tuple[str, Schema]] = {
    "ladder": ("tables", LADDER),
    "incoherent": ("tables", INCOHERENT),
    "fits": ("tables", VECTOR_FITS),
    "doses": ("doses", VECTOR_DOSES),
    "transfers": ("transfers", VECTOR_TRANSFERS),
}
"""What the page is drawn from: name -> stage and schema."""
FILES: tuple[tuple[str, Schema], ...] = (
    *((f"{stage}/{name}.parquet", schema) for name, (stage, schema) in TABLES.items()),
    *(("tables/verdicts.parquet", VERDICTS), ("tables/arms.parquet", ARMS), ("problems/*.parquet", PROBLEMS)),
    *(("traces/*/*.parquet", TRACES), ("disagreements*/*.parquet", DISAGREEMENTS)),
)
"""Where all tables of a comparison lie."""


def compare(comparison: Comparison, out: Path, *, command: str, watch: Watch = lambda *_: None) -> Compared:
    """Runs what is not yet there and writes `out/vectors.html`.

    What can be found wrong with the request is found before the first file is written. Raises a LabError for a bad
    request, and StorageError where `out` belongs to another comparison.
    """
    comparing = prepare_comparison(comparison, out, watch)
    with claimed(out, comparison, "comparison"), settled_threads(comparing.context.base.n_parameters):
        return page_stage(comparing, measure(comparing), command)


def measure(comparing: ComparisonContext) -> dict[str, Artefact]:
    """Everything but the page: the stages that it is drawn from, and the vectors."""
    taught = training_pairs(comparing, problem_stage(comparing.context))
    fits = [fit_stage(comparing, entry, taught) for entry in entries(comparing)]
    stages = {"tables": table_stage, "doses": dose_stage, "transfers": transfer_stage, "vectors": vector_stage}
    return {name: run(comparing, fits) for name, run in stages.items()}


def vector_stage(comparing: ComparisonContext, fits: Sequence[Fitted]) -> Artefact:
    """`vectors/`: a canonical file for every fit, whose effect at dose 1 was measured."""
    context, parents = comparing.context, parents_of(fits)

    def compute(work: Path, made_by: Provenance) -> None:
        for fitted in fits:
            if fitted.vector is not None:
                path = work / f"{fitted.entry.name}.safetensors"
                save_vector(path, fitted.vector, made_by, fitted_on=facts_of(context.base), measured_dose=1.0)

    return context.stage("vectors", {}, parents, compute)


def page_stage(comparing: ComparisonContext, stages: Mapping[str, Artefact], command: str) -> Compared:
    """`vectors.html`, drawn from the tables alone; written again by every run, and equal each time."""
    context, out = comparing.context, comparing.context.out
    paths = {name: stages[stage].path / f"{name}.parquet" for name, (stage, _) in TABLES.items()}
    ledger = VectorTables(**{name: read_table(paths[name], schema) for name, (_, schema) in TABLES.items()})
    parents = {name: stage.digest for name, stage in stages.items()}
    made_by = of_numbers(context.made_by("comparison", comparing.comparison, parents), paths["ladder"])
    task = f"held-out {context.task.name}"
    page = VectorPage(
        title=f"Steering vectors of {context.base.name}, towards {context.pair.tuned.name}",
        task=task,
        unrelated=None if context.old_task is None else context.old_task.name,
        tables=ledger,
        origin=Origin(made_by=made_by, command=command, files=tuple(tables_at(out, *FILES))),
    )
    write_text(out / PAGE, render_vectors(page))
    return Compared(out / PAGE, stages["vectors"].path, ledger, vector_answer(ledger, task))
