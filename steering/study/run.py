"""run: a study from its configuration to its report, stage by stage, each resumable."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lab.provenance import canonical_json
from lab.stage import Artefact, memoised
from lab.tables import write_table
from lab.tasks.problem import PROBLEMS, problem_table
from steering.study.arms import Arm, ladder, replacement_control, takeover_control
from steering.study.bench import Bench, Watch, claimed, prepare
from steering.study.config import Study
from steering.study.estimated import estimate_stage, evidence_stage
from steering.study.findings import routed_share
from steering.study.fitting import Fitting, fitting_stage
from steering.study.reported import Finished, Measured, report_stage
from steering.study.sampled import hybrid_traces, own_traces, read_traces
from steering.study.tables import table_stage
from steering.study.vectors import read_vectors, vector_stage


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
    return report_stage(bench, measured, command)


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
    return Measured(tables, evidence, estimates, sought_features(bench, fitting))


def sought_features(bench: Bench, fitting: Fitting) -> Artefact | None:
    """The feature stage, where the study has one."""
    if bench.study.features is None:
        return None
    # It brings sae_lens, which is slow to import.
    from steering.study.features import feature_stage

    return feature_stage(bench, bench.study.features, fitting)


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
