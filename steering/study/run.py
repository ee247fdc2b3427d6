"""run: a study from its configuration to its report, stage by stage, each resumable."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab.calibration.record import shipped_records
from lab.estimators.estimate import ESTIMATES
from lab.estimators.evidence import PROCESS, RANKS, SCORES
from lab.provenance import canonical_json, file_digest
from lab.report.answer import answer_sentence
from lab.report.best_estimate import best_estimate
from lab.report.ledger import SCHEMAS, Ledger
from lab.report.page import Page, render
from lab.report.provenance_section import TableFile
from lab.sampling.trace import TRACES, VERDICTS
from lab.stage import Artefact, memoised
from lab.tables import Schema, read_provenance, read_table, write_table, write_text
from lab.tasks.problem import PROBLEMS, problem_table
from steering.study.arms import Arm, ladder, replacement_control, takeover_control
from steering.study.bench import Bench, Watch, claimed, prepare
from steering.study.config import Study
from steering.study.estimated import estimate_stage, evidence_stage, read_estimates
from steering.study.evidence import ACTIVATIONS, DECISIONS
from steering.study.features import feature_stage
from steering.study.findings import routed_share
from steering.study.fitting import Fitting, fitting_stage
from steering.study.sampled import hybrid_traces, own_traces, read_traces
from steering.study.tables import table_stage
from steering.study.vectors import read_vectors, vector_stage


class Finished(NamedTuple):
    """Where a study's results lie."""

    report: Path
    ledger: Ledger
    answer: str
    """What the study found, in a sentence."""
    best_estimate: str
    """The share by the estimator with the best calibration record, in a sentence; empty where there is none."""


def run(study: Study, out: Path, *, command: str, watch: Watch = lambda *_: None) -> Finished:
    """Runs what is not yet there and writes `out/report.html`.

    Everything that can be found wrong with the request is found before the first file is written. Raises a LabError
    for a bad request, and StorageError where `out` belongs to another study.
    """
    bench = prepare(study, out, watch)
    with claimed(out, study):
        return run_stages(bench, command)


def run_stages(bench: Bench, command: str) -> Finished:
    """All stages, in the order of the flow."""
    measured = measure(bench)
    # Every stage has moved out of it; a kill may have left hidden parts of files.
    shutil.rmtree(bench.out / ".work", ignore_errors=True)
    return report_stage(bench, measured, command)


class Measured(NamedTuple):
    """A study's stages up to its estimates."""

    tables: Artefact
    evidence: Artefact
    estimates: Artefact
    features: Artefact | None
    """None where the study looks for none."""


def measure(bench: Bench) -> Measured:
    """Everything but the report."""
    problems = problem_stage(bench)
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "base", parents)
    tuned = own_traces(bench, bench.pair.tuned, "tuned", parents)
    companions = [
        own_traces(bench, model, f"companion-{index}", parents) for index, model in enumerate(bench.companions)
    ]
    fitting = fitting_stage(bench, problems)
    arms = list(between(bench, fitting, parents))
    tables = table_stage(bench, base, tuned, arms, companions)
    evidence = evidence_stage(bench, base, tuned, tables)
    estimates = estimate_stage(bench, evidence, tables)
    search = bench.study.features
    features = None if search is None else feature_stage(bench, search, fitting)
    return Measured(tables, evidence, estimates, features)


def between(bench: Bench, fitting: Fitting, parents: dict[str, str]) -> Iterator[tuple[Arm, Artefact]]:
    """Every rung and control that the study asks for; some controls act as often as their rung did when it ran."""
    vectors, opening_rate = vector_stage(bench, fitting)
    wanted, top = bench.study.arms, bench.study.top
    controls = {"takeover-disagreement": takeover_control, "reranked-greedy": partial(replacement_control, top=top)}
    for arm in ladder(read_vectors(vectors, bench.study.seed), opening_rate, top):
        if wanted and arm.name not in wanted:
            continue
        traces = hybrid_traces(bench, arm, parents | {"vectors": vectors.digest})
        yield arm, traces
        if arm.name in controls:
            control = controls[arm.name](round(routed_share(read_traces(traces)), 4))
            yield control, hybrid_traces(bench, control, parents | {"rung": traces.digest})


def problem_stage(bench: Bench) -> Artefact:
    """`problems/`: the held-out problems and those that vectors are fitted on."""
    config = {"task": bench.task.name, "seed": bench.study.seed}
    sides = {"held_out": bench.task.problems, "fit": bench.fit_task.problems}
    parents = {side: canonical_json(problems) for side, problems in sides.items()}

    def compute(work: Path) -> None:
        for side, problems in sides.items():
            write_table(
                work / f"{side}.parquet", problem_table(problems), PROBLEMS, bench.made_by("problems", config, {})
            )

    return memoised(bench.out, "problems", config, parents, compute)


def report_stage(bench: Bench, measured: Measured, command: str) -> Finished:
    """`report.html`, drawn from the tables alone; written again by every run, and equal each time."""
    tables = measured.tables
    ledger = Ledger(**{schema.name: read_table(tables.path / f"{schema.name}.parquet", schema) for schema in SCHEMAS})
    parents = {"tables": tables.digest, "estimates": measured.estimates.digest}
    # The page is drawn again by every run; the numbers are those of the commit that made the tables.
    of_tables = read_provenance(tables.path / "ladder.parquet")
    made_by = replace(
        bench.made_by("study", bench.study, parents),
        commit=of_tables.commit,
        dirty=of_tables.dirty,
        packages=of_tables.packages,
    )
    verdicts = read_table(tables.path / "verdicts.parquet", VERDICTS)
    task, base, tuned = f"held-out {bench.task.name}", bench.base.name, bench.pair.tuned.name
    page = Page(
        title=f"{base} and {tuned}",
        task=task,
        sampling=bench.study.sampling,
        process_checked=verdicts["process_valid"].null_count() == 0,
        base=base,
        tuned=tuned,
        ledger=ledger,
        estimates=read_estimates(measured.estimates),
        records=shipped_records(),
        made_by=made_by,
        command=command,
        files=tuple(table_files(bench.out)),
    )
    report = bench.out / "report.html"
    write_text(report, render(page))
    answer = answer_sentence(ledger.ladder, task, base, tuned, bench.study.sampling)
    return Finished(report, ledger, answer, best_estimate(page.estimates, page.records))


def table_files(out: Path) -> Iterator[TableFile]:
    """Every table of a study, with its schema."""
    tables: list[tuple[Path, Schema]] = [
        (out / "tables" / f"{schema.name}.parquet", schema) for schema in (*SCHEMAS, VERDICTS)
    ]
    tables += [(path, TRACES) for path in sorted(out.glob("traces-*/*.parquet"))]
    tables += [(path, PROBLEMS) for path in sorted(out.glob("problems/*.parquet"))]
    tables += [
        (out / "activations" / "index.parquet", ACTIVATIONS),
        (out / "decisions" / "decisions.parquet", DECISIONS),
    ]
    tables += [
        (out / "evidence" / f"{name}.parquet", schema)
        for name, schema in (("scores", SCORES), ("ranks", RANKS), ("process", PROCESS), ("old", VERDICTS))
    ]
    tables.append((out / "estimates" / "estimates.parquet", ESTIMATES))
    for path, schema in tables:
        yield TableFile(
            path=str(path.relative_to(out)),
            schema=schema,
            n_rows=read_table(path, schema).height,
            digest=file_digest(path),
        )
