"""run: a study from its configuration to its report, stage by stage, each resumable but the report."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from elicitation.calibration.record import LEAKS, RECORDS, SHIPPED, shipped_leaks, shipped_records
from elicitation.estimators.estimate import ESTIMATES
from elicitation.pages.features.page import FeaturePage, feature_section, render_features
from elicitation.pages.features.tables import TABLES as FEATURE_TABLES
from elicitation.pages.features.tables import FeatureNames, FeatureTables
from elicitation.pages.kit.document import Origin, TableFile
from elicitation.pages.study.asking import Asking
from elicitation.pages.study.contamination import CONTAMINATION, memory_sentence
from elicitation.pages.study.ladder import answer_sentence, best_estimate
from elicitation.pages.study.page import Page, render
from elicitation.pages.study.tables import COMPARISONS, FORMATS, SCHEMAS, ReportTables
from elicitation.study.arms import Arm, arms_of_published, ladder, own_help_arms, routing_arms, scattered
from elicitation.study.config import PARTS, Study, StudyContext, Tables, Watch, prepare
from elicitation.study.fits import (
    ACTIVATIONS,
    DISAGREEMENTS,
    Fitting,
    fitting_stage,
    published_stage,
    read_vectors,
    routing_stage,
    vector_stage,
)
from elicitation.study.formats import asked_arms, asked_traces, comparison_stage, format_stage
from elicitation.study.interventions import behaviour
from elicitation.study.pair_table import pair_stage
from elicitation.study.sampled import COSTS, FOLDER, arm_traces, own_traces, read_traces
from elicitation.study.tables import estimate_stage, evidence_stage, read_estimates, routed_share, table_stage
from lab.models.device import settled_threads
from lab.models.pair_check import PAIR
from lab.records.provenance import Provenance, canonical_json, digest, file_digest
from lab.records.stage import Artefact, claimed, write_readme
from lab.records.tables import Schema, read_provenance, read_table, write_text
from lab.sampling.trace import TRACES, VERDICTS
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES, Role
from lab.tasks.problem import PROBLEMS, problem_table
from lab.test_time.choice import CANDIDATES
from probes.sae.architecture import QUALITY_FILE
from probes.tables import SAE_QUALITY
from steering.routing.routing import load_routing


class Finished(NamedTuple):
    """Where a study's results lie."""

    report: Path
    ledger: ReportTables
    answer: str
    """What the study found, in a sentence."""
    best_estimate: str
    """The share by the estimator with the best calibration record, in a sentence; empty where there is none."""
    memory: str
    """Whether it can be memory, in a sentence; empty where that was not checked."""


class Measured(NamedTuple):
    """A study's stages up to its estimates."""

    tables: Artefact
    evidence: Artefact
    estimates: Artefact
    features: Artefact | None
    """None where the study looks for none."""
    comparisons: Artefact | None = None
    """None where there is one way of asking."""
    contamination: Artefact | None = None
    """None where it was not asked for."""


def run(
    study: Study,
    out: Path | str,
    *,
    command: str = "elicitation.run",
    watch: Watch = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Finished:
    """Runs what is not yet there and writes `out/report.html`.

    Everything that can be found wrong with the request is found before the first file is written; then `say` is told
    how the rows of its tasks were read and parted. Raises a LabError for a bad request, and StorageError where `out`
    belongs to another study.

    >>> el.run(el.Study(base="zero-base", tuned="none"), "runs/none")
    Traceback (most recent call last):
    lab.records.errors.ModelError: no model 'none'; accepted: ...
    """
    context = prepare(study, Path(out), watch)
    if study.contamination.asked:
        # Here, since few studies ask for it.
        from elicitation.study.contamination import require_checks

        require_checks(context)
    for line in context.told:
        say(line)
    with claimed(context.out, study), settled_threads(context.base.n_parameters):
        return report_stage(context, measure(context), command)


def measure(context: StudyContext) -> Measured:
    """Everything but the report."""
    pair_stage(context)
    problems = problem_stage(context)
    parents = {"problems": problems.digest}
    models = [(Role.BASE, "base", context.base), (Role.TUNED, "tuned", context.pair.tuned)]
    models += [(Role.COMPANION, f"companion-{index}", model) for index, model in enumerate(context.companions)]
    alone = [
        (Arm(role=role, name=name, label=model.name), own_traces(context, model, name, parents))
        for role, name, model in models
    ]
    (_, base), (_, tuned), *_ = alone
    compared, asked = None, ()
    if (formats := format_stage(context, parents)) is not None:
        by_way = asked_traces(context, formats, {"base": base, "tuned": tuned}, parents)
        compared, asked = comparison_stage(context, formats, by_way), asked_arms(formats, by_way)
    fitting = fitting_stage(context, problems)
    tables = table_stage(context, alone, [*asked, *between(context, fitting, parents)])
    evidence = evidence_stage(context, base, tuned, tables)
    estimates, features = estimate_stage(context, evidence, tables), None
    if context.study.features.layers:
        # It brings sae_lens, which is slow to import.
        from elicitation.study.features import feature_stage

        features = feature_stage(context, context.study.features, fitting)
    checked = None
    if context.study.contamination.asked:
        from elicitation.study.contamination import contamination_stage

        checked = contamination_stage(context, tables)
    return Measured(tables, evidence, estimates, features, compared, checked)


def between(context: StudyContext, fitting: Fitting, parents: dict[str, str]) -> Iterator[tuple[Arm, Artefact]]:
    """Every rung and control that the study asks for, in the order of the ladder's kinds of help.

    Some controls act as often as their rung did when it ran, so they can be told only then.
    """
    for arm, more in listed(context, fitting):
        if context.study.arms and arm.key not in context.study.arms:
            continue
        traces = arm_traces(context, arm, parents | more)
        yield arm, traces
        if control := scattered(arm, round(routed_share(read_traces(traces)), 4), context.study.top):
            yield control, arm_traces(context, control, parents | more | {"rung": traces.digest})


def listed(context: StudyContext, fitting: Fitting) -> Iterator[tuple[Arm, dict[str, str]]]:
    """Arms that can be told before any of them has run, with what else they come from."""
    study = context.study
    if study.own_help is not None:
        fit_problems = {"fit-problems": digest(context.fit_task.problems)}
        for arm in own_help_arms(study.own_help, context.task, context.fit_task):
            yield arm, fit_problems
    found, first_rate = vector_stage(context, fitting)
    vectors = read_vectors(found, study.seed)
    for arm in ladder(vectors, first_rate, study.top):
        yield arm, {"vectors": found.digest}
    if study.routing is not None and (routing := routing_stage(context, study.routing, fitting)) is not None:
        fitted = {"vectors": found.digest, "routing": routing.digest}
        for arm in routing_arms(load_routing(routing.path), vectors, seed=study.seed):
            yield arm, fitted
    if study.published_hybrids and (found := published_stage(context, fitting)) is not None:
        for arm in arms_of_published(found.path, seed=study.seed):
            if not study.published_arms or arm.key in study.published_arms:
                yield arm, {"published_hybrids": found.digest}


def problem_stage(context: StudyContext) -> Artefact:
    """`problems/`: the held-out problems and those that vectors are fitted on."""
    config = {"task": context.task.name, "seed": context.study.seed}
    sides = {"held_out": context.task.problems, "fit": context.fit_task.problems}
    parents = {side: canonical_json(problems) for side, problems in sides.items()}

    def compute() -> Tables:
        return {side: (PROBLEMS, problem_table(problems)) for side, problems in sides.items()}

    return context.tables("problems", config, parents, compute)


def report_stage(context: StudyContext, measured: Measured, command: str) -> Finished:
    """`report.html`, drawn from the tables alone, and `README.txt`; written again by every run, and equal each time."""
    study, out, tables = context.study, context.out, measured.tables.path
    ledger = ReportTables(**{schema.name: read_table(tables / f"{schema.name}.parquet", schema) for schema in SCHEMAS})
    parents = {"tables": measured.tables.digest, "estimates": measured.estimates.digest}
    made_by = of_numbers(context.made_by("study", study, parents), tables / "ladder.parquet")
    verdicts = read_table(tables / "verdicts.parquet", VERDICTS)
    task, base, tuned = f"held-out {context.task.name}", context.base.name, context.pair.tuned.name
    files = (*tables_at(out, *TABLES), *shipped_files())
    origin = Origin(made_by=made_by, command=command, files=files, told=context.told)
    features = None if measured.features is None else feature_page(context, measured.features, origin)
    asking = None
    if measured.comparisons is not None:
        parts = (("formats", FORMATS), ("comparisons", COMPARISONS))
        asking = Asking(*(read_table(out / name / f"{name}.parquet", schema) for name, schema in parts))
    named = {"task": task, "base": base, "tuned": tuned, "sampling": study.sampling}
    page = Page(
        **named,
        title=f"{base} and {tuned}",
        process_checked=verdicts["process_valid"].null_count() == 0,
        tables=ledger,
        estimates=read_estimates(measured.estimates),
        records=shipped_records(),
        leaks=shipped_leaks(),
        origin=origin,
        contamination=read_contamination(measured.contamination),
        asking=asking,
        pair=read_table(out / "pair" / "pair.parquet", PAIR),
        features="" if features is None else feature_section(features.tables, features.names),
    )
    report = out / "report.html"
    write_text(report, render(page))
    if features is not None:
        write_text(out / "features.html", render_features(features))
    arms = read_table(tables / "arms.parquet", ARMS).select("arm", pl.col("label").str.strip_prefix("+ "))
    write_readme(out, f"A study of {base} and {tuned} on {task}, by: {command}", PARTS, dict(arms.iter_rows()))
    answer = answer_sentence(ledger.ladder, page.leaks, task, base, tuned, study.sampling)
    return Finished(
        report, ledger, answer, best_estimate(page.estimates, page.records), memory_sentence(page.contamination)
    )


def read_contamination(checked: Artefact | None) -> pl.DataFrame:
    """The table of a finished stage; without rows where there is none."""
    if checked is None:
        return CONTAMINATION.frame([])
    return read_table(checked.path / "contamination.parquet", CONTAMINATION)


def of_numbers(made_by: Provenance, table: Path) -> Provenance:
    """That of a page, which every run draws again, with the commit and the packages of the table that it shows."""
    made = read_provenance(table)
    return replace(made_by, commit=made.commit, dirty=made.dirty, packages=made.packages)


def feature_names(context: StudyContext) -> FeatureNames:
    """The two first tokens, as text, that features are weighed by; only the models where answers open alike."""
    sought = behaviour(read_table(context.out / "disagreements" / "disagreements.parquet", DISAGREEMENTS))
    base, tuned = context.base.name, context.pair.tuned.name
    if sought is None:
        return FeatureNames(base=base, tuned=tuned, towards=tuned, over=base, behaviour="the tuned model's answers")
    toward, against = (str(context.base.tokenizer.decode([token])) for token in (sought.toward, sought.against))
    behave = f"answers that begin with {toward!r}"
    return FeatureNames(base=base, tuned=tuned, towards=toward, over=against, behaviour=behave)


def feature_page(context: StudyContext, features: Artefact, origin: Origin) -> FeaturePage:
    """The whole of what is known of the features, for a page beside the report, whose `origin` is given."""
    names = feature_names(context)
    found = {name: read_table(features.path / f"{name}.parquet", schema) for name, schema in FEATURE_TABLES}
    files = tuple(file for file in origin.files if file.path.startswith(("features/", "saes/")))
    origin = replace(origin, made_by=read_provenance(features.path / "firing.parquet"), files=files)
    return FeaturePage(title=f"Features of {names.base}", names=names, tables=FeatureTables(**found), origin=origin)


TABLES: tuple[tuple[str, Schema], ...] = (
    *((f"tables/{schema.name}.parquet", schema) for schema in (*SCHEMAS, VERDICTS, ARMS)),
    (f"{FOLDER}/*/traces.parquet", TRACES),
    (f"{FOLDER}/*/costs.parquet", COSTS),
    (f"{FOLDER}/*/candidates.parquet", CANDIDATES),
    ("pair/pair.parquet", PAIR),
    ("problems/*.parquet", PROBLEMS),
    ("formats/formats.parquet", FORMATS),
    ("comparisons/comparisons.parquet", COMPARISONS),
    ("activations/index.parquet", ACTIVATIONS),
    ("disagreements/disagreements.parquet", DISAGREEMENTS),
    *((f"evidence/{schema.name}.parquet", schema) for schema in (SCORES, RANKS, PROCESS)),
    ("evidence/old.parquet", VERDICTS),
    ("estimates/estimates.parquet", ESTIMATES),
    ("contamination/contamination.parquet", CONTAMINATION),
    *((f"features/{name}.parquet", schema) for name, schema in FEATURE_TABLES),
    (f"saes/{QUALITY_FILE}", SAE_QUALITY),
)
"""Where the tables of a study lie, in the order of its report."""


def tables_at(out: Path, *places: tuple[str, Schema]) -> Iterator[TableFile]:
    """The tables in `out` that these patterns match, each with its schema."""
    for pattern, schema in places:
        for path in sorted(out.glob(pattern)):
            yield table_file(path, schema, str(path.relative_to(out)))


def shipped_files() -> Iterator[TableFile]:
    """The tables of the lab's own calibration that the report reads, as far as this version has them."""
    for schema in (RECORDS, LEAKS):
        path = SHIPPED / f"{schema.name}.parquet"
        if path.exists():
            yield table_file(path, schema, f"elicitation/calibration/shipped/{path.name}", command="lab calibrate")


def table_file(path: Path, schema: Schema, name: str, command: str = "") -> TableFile:
    """A table as a page lists it, under `name`; `command` makes it, where that is not what makes the page."""
    n_rows, digest = read_table(path, schema).height, file_digest(path)
    return TableFile(path=name, schema=schema, n_rows=n_rows, digest=digest, command=command)
