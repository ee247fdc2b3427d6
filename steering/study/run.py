"""run: a study from its configuration to its report, stage by stage, each resumable."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lab.provenance import canonical_json, file_digest
from lab.report.answer import answer_sentence
from lab.report.ledger import SCHEMAS, Ledger
from lab.report.page import Page, render
from lab.report.provenance_section import TableFile
from lab.sampling.trace import TRACES, VERDICTS
from lab.stage import Artefact, memoised
from lab.tables import Schema, read_provenance, read_table, write_table, write_text
from lab.tasks.problem import PROBLEMS, problem_table
from steering.study.arms import Arm, ladder, takeover_control
from steering.study.bench import Bench, Watch, claimed, prepare
from steering.study.config import Study
from steering.study.evidence import ACTIVATIONS, DECISIONS
from steering.study.findings import routed_share
from steering.study.sampled import hybrid_traces, own_traces, read_traces
from steering.study.tables import table_stage
from steering.study.vectors import read_vectors, vector_stage


class Finished(NamedTuple):
    """Where a study's results lie."""

    report: Path
    ledger: Ledger
    answer: str
    """What the study found, in a sentence."""


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
    problems = problem_stage(bench)
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "base", parents)
    tuned = own_traces(bench, bench.pair.tuned, "tuned", parents)
    companions = [
        own_traces(bench, model, f"companion-{index}", parents) for index, model in enumerate(bench.companions)
    ]
    vectors, opening_rate = vector_stage(bench, problems)
    arms: list[tuple[Arm, Artefact]] = []
    for arm in ladder(read_vectors(vectors, bench.study.seed), opening_rate):
        arms.append((arm, hybrid_traces(bench, arm, parents | {"vectors": vectors.digest})))
    taken = arms[-1][1]
    scattered = takeover_control(round(routed_share(read_traces(taken)), 4))
    arms.append((scattered, hybrid_traces(bench, scattered, parents | {"takeover": taken.digest})))
    tables = table_stage(bench, base, tuned, arms, companions)
    # Every stage has moved out of it; a kill may have left hidden parts of files.
    shutil.rmtree(bench.out / ".work", ignore_errors=True)
    return report_stage(bench, tables, command)


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


def report_stage(bench: Bench, tables: Artefact, command: str) -> Finished:
    """`report.html`, drawn from the tables alone; written again by every run, and equal each time."""
    ledger = Ledger(**{schema.name: read_table(tables.path / f"{schema.name}.parquet", schema) for schema in SCHEMAS})
    parents = {"tables": tables.digest}
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
        made_by=made_by,
        command=command,
        files=tuple(table_files(bench.out)),
    )
    report = bench.out / "report.html"
    write_text(report, render(page))
    return Finished(report, ledger, answer_sentence(ledger.ladder, task, base, tuned, bench.study.sampling))


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
    for path, schema in tables:
        yield TableFile(
            path=str(path.relative_to(out)),
            schema=schema,
            n_rows=read_table(path, schema).height,
            digest=file_digest(path),
        )
