"""run: a comparison from its configuration to its page, stage by stage, each resumable.

Its fits are arms of a study; at each decoding they stand on a ladder between the two models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from elicitation.comparison.config import Comparison, ComparisonContext, prepare_comparison
from elicitation.comparison.evaluate import DRAWS, dose_stage, is_coherent, parents_of, transfer_stage
from elicitation.comparison.fits import ITSELF, Fitted, entries, fit_stage, training_pairs
from elicitation.pages.kit.document import Origin
from elicitation.pages.study.tables import LADDER
from elicitation.pages.vectors.page import VectorPage, render_vectors, vector_answer
from elicitation.pages.vectors.tables import (
    CONTROLS,
    DECODINGS,
    INCOHERENT,
    VECTOR_DOSES,
    VECTOR_FITS,
    VECTOR_TRANSFERS,
    VectorTables,
)
from elicitation.study.arms import Arm, Instead, rung
from elicitation.study.config import StudyContext, Tables, Watch
from elicitation.study.fits import DISAGREEMENTS
from elicitation.study.run import of_numbers, problem_stage, tables_at
from elicitation.study.sampled import arm_traces
from elicitation.study.tables import Answered, Weights, answered, ladder_table
from lab.metrics.bootstrap import interval_columns, mean_interval, resamples
from lab.models.device import settled_threads
from lab.records.provenance import Provenance, digest
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact, claimed
from lab.records.tables import Schema, read_table, write_text
from lab.sampling.trace import TRACES, VERDICTS
from lab.scoring.evidence import ARMS, Control, DecodingName, Role
from lab.tasks.problem import PROBLEMS
from lab.tasks.source import Task
from steering.edit import Add, Edited
from steering.export.tensors import save_vector
from steering.export.vector_file import facts_of
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Takeover
from steering.hybrid.routers import Always, Never
from steering.vector import SteeringVector

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


ENDS = (Role.BASE, Role.TUNED)


def arms(context: StudyContext, fits: Sequence[Fitted], decoding: DecodingName) -> Iterator[Arm]:
    """The base, every fit that has a vector before its controls, and the tuned model, all decoded alike.

    Greedy arms are greedy versions of the sampled ones, and stand beside the models decoded greedily.
    """
    suffix, words, temperature = ("-greedy", ", greedy decoding", 0.0) if decoding == "greedy" else ("", "", None)

    def alone(role: Role, label: str, method: Hybrid) -> Arm:
        return Arm(role=role, name=f"{role}{suffix}", label=f"{label}{words}", method=method, temperature=temperature)

    yield alone(Role.BASE, context.base.name, Hybrid(Never(), Takeover()))
    for fitted in fits:
        if fitted.vector is None:
            continue
        name, label = fitted.entry.name, f"{fitted.entry.label}{words}"
        controls = {Control.RANDOM_VECTORS: fitted.random(context.study.seed), **fitted.controls}
        instead = [
            Instead(control, f"{name}.{control}{suffix}", f"{CONTROLS[control]}, for {label}", added(fitted, *vectors))
            for control, vectors in controls.items()
        ]
        method = added(fitted, fitted.vector)
        yield from rung(Role.VECTOR, f"{name}{suffix}", label, method, *instead, temperature=temperature)
    yield alone(Role.TUNED, context.pair.tuned.name, Hybrid(Always(), Takeover()))


def added(fitted: Fitted, *vectors: SteeringVector) -> Edited:
    """One of `vectors`, where the fit acts."""
    return Edited(tuple(Add(vector, where=fitted.entry.where) for vector in vectors))


def table_stage(comparing: ComparisonContext, fits: Sequence[Fitted]) -> Artefact:
    """`traces/ARM/` of every arm, which all draw the same random numbers, and `tables/`."""
    context = replace(comparing.context, draws=DRAWS)
    study, problems = context.study, context.task.problems
    of_arms = {"problems": digest(problems)}
    found = {
        name: [(arm, arm_traces(context, arm, of_arms)) for arm in arms(context, fits, name)] for name in DECODINGS
    }
    sampled = [arm for rungs in found.values() for arm in rungs]
    parents = parents_of(fits) | {f"traces of {arm.name}": traces.digest for arm, traces in sampled}
    config = {"n_boot": study.n_boot, "seed": study.seed}

    def compute() -> Tables:
        weights = resamples(len(problems), study.n_boot, numpy_generator(study.seed, "bootstrap"))
        rungs = {name: [judged(context, *arm) for arm in found[name]] for name in DECODINGS}
        everyone = [one for name in DECODINGS for one in rungs[name]]
        return {
            "ladder": (LADDER, pl.concat([ladder_table(rungs[name], weights) for name in DECODINGS])),
            "incoherent": (INCOHERENT, incoherent_table(everyone, context.task, weights)),
            "arms": (ARMS, ARMS.frame([one.arm.row for one in everyone])),
            "verdicts": (VERDICTS, pl.concat([one.verdicts for one in everyone])),
            "fits": (VECTOR_FITS, fit_table(fits)),
        }

    return context.tables("tables", config, parents, compute)


def judged(context: StudyContext, arm: Arm, traces: Artefact) -> Answered:
    """An arm with its verdicts; the first and the last are the two models."""
    if arm.role in ENDS:
        return answered(context, replace(arm, method=None), traces, "end")
    return answered(context, arm, traces, "vector")


def incoherent_table(arms: Sequence[Answered], task: Task, weights: Weights) -> pl.DataFrame:
    """`INCOHERENT` of every arm."""
    of = {problem.id: problem for problem in task.problems}
    rows: list[dict[str, object]] = []
    for arm in arms:
        texts = arm.traces.select("problem_id", "text", "stop").iter_rows()
        broken = [not is_coherent(task, of[problem], text, stop) for problem, text, stop in texts]
        found = mean_interval(np.reshape(broken, (len(of), -1)).mean(axis=1), weights)
        rows.append(arm.arm.named | interval_columns(found))
    return INCOHERENT.frame(rows)


def fit_table(fits: Sequence[Fitted]) -> pl.DataFrame:
    """`VECTOR_FITS`: what was found where, and why what was not."""
    rows: list[dict[str, object]] = []
    for fitted in fits:
        entry = fitted.entry
        common: dict[str, object] = {"fit": entry.name, "label": entry.label, "tokens": entry.tokens}
        vectors = {} if fitted.vector is None else {ITSELF: fitted.vector}
        # All vectors of a control have the same norms.
        vectors |= {name: several[0] for name, several in fitted.controls.items()}
        for name, vector in vectors.items():
            for site, norm in vector.norms.items():
                stream = vector.residual_norms[site]
                there = {"site": str(site), "norm": norm, "residual_norm": stream, "description": vector.description}
                dose = norm / stream if stream > 0 else nan
                rows.append(common | there | {"control": name, "relative_dose": dose, "reason": None})
        missing = {"site": None, "description": None} | dict.fromkeys(("norm", "residual_norm", "relative_dose"), nan)
        rows += [common | missing | {"control": name, "reason": reason} for name, reason in fitted.reasons.items()]
    for row in rows:
        row["control"] = None if row["control"] == ITSELF else row["control"]
    return VECTOR_FITS.frame(rows)


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
        origin=Origin(made_by=made_by, command=command, files=tuple(tables_at(out, *FILES)), told=context.told),
    )
    write_text(out / PAGE, render_vectors(page))
    return Compared(out / PAGE, stages["vectors"].path, ledger, vector_answer(ledger, task))
