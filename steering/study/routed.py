"""Routing stage: fitting traces -> the fitted routers and category vectors of the ladder."""

from pathlib import Path

import polars as pl

from lab.stage import Artefact, memoised
from lab.tables import read_table
from probes.taxonomy.segments import finest_rule
from steering.export.model_facts import facts_of
from steering.routing.routed import RoutingFit, fit_routing
from steering.routing.routing_file import save_routing
from steering.study.bench import Bench
from steering.study.evidence import DECISIONS
from steering.study.fitting import Fitting, strict
from steering.study.sampled import read_traces


def routing_stage(bench: Bench, settings: RoutingFit, fitting: Fitting) -> Artefact | None:
    """`routing/`; None where fewer than two training problems have a decision, so that nothing says when to act."""
    found = read_table(fitting.decided.path / "decisions.parquet", DECISIONS)
    if found["problem_id"].n_unique() < 2:
        return None
    config = {"site": str(bench.site), "routing": settings, "seed": bench.study.seed}
    parents = {
        "fit-base": fitting.base.digest,
        "fit-tuned": fitting.tuned.digest,
        "decisions": fitting.decided.digest,
    }

    def compute(work: Path) -> None:
        by_id = {problem.id: problem for problem in bench.fit_task.problems}
        routing = fit_routing(
            bench.pair,
            bench.site,
            read_traces(fitting.base),
            solved(bench, read_traces(fitting.tuned)),
            found,
            by_id,
            finest_rule(bench.task.steps, bench.fit_task.problems),
            settings,
            seed=bench.study.seed,
        )
        save_routing(work, routing, bench.made_by("routing", config, parents), fitted_on=facts_of(bench.base))

    return memoised(bench.out, "routing", config, parents, compute)


def solved(bench: Bench, traces: pl.DataFrame) -> pl.DataFrame:
    """Those traces of training problems that are strictly right."""
    return traces.filter(strict(bench, traces))
