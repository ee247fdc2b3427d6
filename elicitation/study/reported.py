"""Report stage: the tables of a finished study -> its report, and a page of features where they were sought."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from elicitation.calibration.leak import LEAKS, shipped_leaks
from elicitation.calibration.leak import SHIPPED as SHIPPED_LEAKS
from elicitation.calibration.record import RECORDS, shipped_records
from elicitation.calibration.record import SHIPPED as SHIPPED_RECORDS
from elicitation.estimators.estimate import ESTIMATES
from elicitation.features.behaviour import behaviour
from elicitation.report.features.page import FeaturePage, feature_section, render_features
from elicitation.report.features.tables import TABLES as FEATURE_TABLES
from elicitation.report.features.tables import FeatureNames, FeatureTables
from elicitation.report.kit.document import Origin, TableFile
from elicitation.report.study.answer import answer_sentence, best_estimate
from elicitation.report.study.page import Page, render
from elicitation.report.study.tables import SCHEMAS, ReportTables
from elicitation.study.context import StudyContext
from elicitation.study.estimated import read_estimates
from elicitation.study.evidence import ACTIVATIONS, DISAGREEMENTS
from elicitation.study.readme import PARTS, write_readme
from elicitation.study.sampled import COSTS
from lab.records.provenance import file_digest
from lab.records.stage import Artefact
from lab.records.tables import Schema, read_provenance, read_table, write_text
from lab.sampling.trace import TRACES, VERDICTS
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES
from lab.tasks.problem import PROBLEMS
from lab.test_time.choice import CANDIDATES
from probes.sae.recipe import QUALITY_FILE
from probes.tables import SAE_QUALITY

FEATURES_PAGE = "features.html"


class Finished(NamedTuple):
    """Where a study's results lie."""

    report: Path
    ledger: ReportTables
    answer: str
    """What the study found, in a sentence."""
    best_estimate: str
    """The share by the estimator with the best calibration record, in a sentence; empty where there is none."""


class Measured(NamedTuple):
    """A study's stages up to its estimates."""

    tables: Artefact
    evidence: Artefact
    estimates: Artefact
    features: Artefact | None
    """None where the study looks for none."""


def report_stage(context: StudyContext, measured: Measured, command: str) -> Finished:
    """`report.html`, drawn from the tables alone, and `README.txt`; written again by every run, and equal each time."""
    tables = measured.tables
    ledger = ReportTables(
        **{schema.name: read_table(tables.path / f"{schema.name}.parquet", schema) for schema in SCHEMAS}
    )
    parents = {"tables": tables.digest, "estimates": measured.estimates.digest}
    # The page is drawn again by every run; the numbers are those of the commit that made the tables.
    of_tables = read_provenance(tables.path / "ladder.parquet")
    made_by = replace(
        context.made_by("study", context.study, parents),
        commit=of_tables.commit,
        dirty=of_tables.dirty,
        packages=of_tables.packages,
    )
    verdicts = read_table(tables.path / "verdicts.parquet", VERDICTS)
    task, base, tuned = f"held-out {context.task.name}", context.base.name, context.pair.tuned.name
    origin = Origin(made_by=made_by, command=command, files=(*table_files(context.out), *shipped_files()))
    features = None if measured.features is None else feature_page(context, measured.features, origin)
    page = Page(
        title=f"{base} and {tuned}",
        task=task,
        sampling=context.study.sampling,
        process_checked=verdicts["process_valid"].null_count() == 0,
        base=base,
        tuned=tuned,
        tables=ledger,
        estimates=read_estimates(measured.estimates),
        records=shipped_records(),
        leaks=shipped_leaks(),
        origin=origin,
        features="" if features is None else feature_section(features.tables, features.names),
    )
    report = context.out / "report.html"
    write_text(report, render(page))
    if features is not None:
        write_text(context.out / FEATURES_PAGE, render_features(features))
    labels = dict(read_table(tables.path / "arms.parquet", ARMS).select("arm", "label").iter_rows())
    title = f"A study of {base} and {tuned} on {task}, by: {command}"
    write_readme(context.out, title, PARTS, {arm: label.removeprefix("+ ") for arm, label in labels.items()})
    answer = answer_sentence(ledger.ladder, page.leaks, task, base, tuned, context.study.sampling)
    return Finished(report, ledger, answer, best_estimate(page.estimates, page.records))


def feature_names(context: StudyContext) -> FeatureNames:
    """The two first tokens, as text, that features are weighed by; only the models where answers open alike."""
    sought = behaviour(read_table(context.out / "disagreements" / "disagreements.parquet", DISAGREEMENTS))
    base, tuned = context.base.name, context.pair.tuned.name
    if sought is None:
        return FeatureNames(base=base, tuned=tuned, towards=tuned, over=base, behaviour="the tuned model's answers")
    toward, against = (str(context.base.tokenizer.decode([token])) for token in (sought.toward, sought.against))
    return FeatureNames(
        base=base, tuned=tuned, towards=toward, over=against, behaviour=f"answers that begin with {toward!r}"
    )


def feature_page(context: StudyContext, features: Artefact, origin: Origin) -> FeaturePage:
    """The whole of what is known of the features, for a page beside the report, whose `origin` is given."""
    names = feature_names(context)
    files = tuple(file for file in origin.files if file.path.startswith(("features/", "saes/")))
    made_by = read_provenance(features.path / "firing.parquet")
    return FeaturePage(
        title=f"Features of {names.base}",
        names=names,
        tables=read_features(features),
        origin=Origin(made_by=made_by, command=origin.command, files=files),
    )


def table_files(out: Path) -> Iterator[TableFile]:
    """Every table of a study, with its schema."""
    tables: list[tuple[Path, Schema]] = [
        (out / "tables" / f"{schema.name}.parquet", schema) for schema in (*SCHEMAS, VERDICTS, ARMS)
    ]
    for name, schema in (("traces", TRACES), ("costs", COSTS), ("candidates", CANDIDATES)):
        tables += [(path, schema) for path in sorted(out.glob(f"traces/*/{name}.parquet"))]
    tables += [(path, PROBLEMS) for path in sorted(out.glob("problems/*.parquet"))]
    tables += [
        (out / "activations" / "index.parquet", ACTIVATIONS),
        (out / "disagreements" / "disagreements.parquet", DISAGREEMENTS),
    ]
    tables += [
        (out / "evidence" / f"{name}.parquet", schema)
        for name, schema in (("scores", SCORES), ("ranks", RANKS), ("process", PROCESS), ("old", VERDICTS))
    ]
    tables.append((out / "estimates" / "estimates.parquet", ESTIMATES))
    if (out / "features").exists():
        tables += [(out / "features" / f"{name}.parquet", schema) for name, schema in FEATURE_TABLES]
        tables.append((out / "saes" / QUALITY_FILE, SAE_QUALITY))
    for path, schema in tables:
        yield TableFile(
            path=str(path.relative_to(out)),
            schema=schema,
            n_rows=read_table(path, schema).height,
            digest=file_digest(path),
        )


def shipped_files() -> Iterator[TableFile]:
    """The tables of the lab's own calibration that the report reads, as far as this version has them."""
    for path, schema in ((SHIPPED_RECORDS, RECORDS), (SHIPPED_LEAKS, LEAKS)):
        if path.exists():
            n_rows = read_table(path, schema).height
            digest = file_digest(path)
            name = f"lab/calibration/shipped/{path.name}"
            yield TableFile(path=name, schema=schema, n_rows=n_rows, digest=digest, command="lab calibrate")


def read_features(features: Artefact) -> FeatureTables:
    """The ledger of a finished stage."""
    return FeatureTables(
        **{name: read_table(features.path / f"{name}.parquet", schema) for name, schema in FEATURE_TABLES}
    )
