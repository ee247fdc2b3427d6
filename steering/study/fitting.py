"""Fitting: what both models wrote on training problems, and where they decide differently."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lab.sampling.trace import verdict_table
from lab.stage import Artefact, memoised
from lab.tables import write_table
from steering.study.bench import Bench
from steering.study.evidence import DECISIONS, decisions
from steering.study.sampled import own_traces, read_traces


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Finished stages on training problems, from which vectors are fitted and features learnt."""

    base: Artefact
    """The base model's traces."""
    tuned: Artefact
    """The tuned model's traces."""
    decided: Artefact
    """`DECISIONS` in those traces of the tuned model that solve their problem."""


def fitting_stage(bench: Bench, problems: Artefact) -> Fitting:
    """`traces-fit-base/`, `traces-fit-tuned/` and `decisions/`."""
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "fit-base", parents, fitting=True)
    tuned = own_traces(bench, bench.pair.tuned, "fit-tuned", parents, fitting=True)
    parents = {"fit-base": base.digest, "fit-tuned": tuned.digest}

    def compute(work: Path) -> None:
        traces = read_traces(tuned)
        by_id = {problem.id: problem for problem in bench.fit_task.problems}
        found = decisions(bench.pair, traces.filter(strict(bench, traces)), by_id)
        write_table(work / "decisions.parquet", found, DECISIONS, bench.made_by("decisions", {}, parents))

    return Fitting(base=base, tuned=tuned, decided=memoised(bench.out, "decisions", {}, parents, compute))


def strict(bench: Bench, traces: pl.DataFrame) -> pl.Series:
    """Whether each trace of a training problem is right by a valid process."""
    return verdict_table(traces, bench.fit_task.problems, bench.fit_task.verify)["strict"]
