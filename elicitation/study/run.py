"""run: a study from its configuration to its report, stage by stage, each resumable."""

from collections.abc import Iterator
from pathlib import Path

from elicitation.study.arms import Arm, ladder, replacement_control, takeover_control
from elicitation.study.config import Study, own_help_arms
from elicitation.study.context import Bench, Watch, claimed, prepare
from elicitation.study.estimated import estimate_stage, evidence_stage
from elicitation.study.findings import routed_share
from elicitation.study.published import arms_of_rivals, rival_stage
from elicitation.study.reported import Finished, Measured, report_stage
from elicitation.study.routing import routing_arms, routing_stage, scattered
from elicitation.study.sampled import elicited_traces, hybrid_traces, own_traces, read_traces
from elicitation.study.tables import table_stage
from elicitation.study.vectors import Fitting, fitting_stage, read_vectors, vector_stage
from lab.records.provenance import canonical_json, digest
from lab.records.stage import Artefact, memoised
from lab.records.tables import write_table
from lab.tasks.problem import PROBLEMS, problem_table
from steering.hybrid.hybrid import Hybrid
from steering.routing.routed import load_routing


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
    from elicitation.study.features import feature_stage

    return feature_stage(bench, bench.study.features, fitting)


def between(bench: Bench, fitting: Fitting, parents: dict[str, str]) -> Iterator[tuple[Arm, Artefact]]:
    """Every rung and control that the study asks for, in the order of the ladder's kinds of help.

    Some controls act as often as their rung did when it ran, so they can be told only then.
    """
    for arm, more in listed(bench, fitting):
        if bench.study.arms and arm.name not in bench.study.arms:
            continue
        traces = arm_traces(bench, arm, parents | more)
        yield arm, traces
        if control := control_after(bench, arm, traces):
            yield control, arm_traces(bench, control, parents | more | {"rung": traces.digest})


def listed(bench: Bench, fitting: Fitting) -> Iterator[tuple[Arm, dict[str, str]]]:
    """Arms that can be told before any of them has run, with what else they come from."""
    study = bench.study
    if study.own_help is not None:
        fit_problems = {"fit-problems": digest(bench.fit_task.problems)}
        for arm in own_help_arms(study.own_help, bench.task, bench.fit_task):
            yield arm, fit_problems
    found, opening_rate = vector_stage(bench, fitting)
    vectors = read_vectors(found, study.seed)
    for arm in ladder(vectors, opening_rate, study.top):
        yield arm, {"vectors": found.digest}
    if study.routing is not None and (routing := routing_stage(bench, study.routing, fitting)) is not None:
        fitted = {"vectors": found.digest, "routing": routing.digest}
        for arm in routing_arms(load_routing(routing.path), vectors, seed=study.seed):
            yield arm, fitted
    if study.rivals is not None and (rivals := rival_stage(bench, study.rivals, fitting)) is not None:
        for arm in arms_of_rivals(rivals, study.seed):
            if not study.rival_arms or arm.name in study.rival_arms:
                yield arm, {"rivals": rivals.digest}


def arm_traces(bench: Bench, arm: Arm, parents: dict[str, str]) -> Artefact:
    """An arm's traces of the held-out problems."""
    match arm.way:
        case Hybrid() as hybrid:
            return hybrid_traces(bench, arm, hybrid, parents)
        case method:
            return elicited_traces(bench, arm.name, method, parents)


def control_after(bench: Bench, arm: Arm, traces: Artefact) -> Arm | None:
    """The control of a rung that acts at random tokens, as often as the rung did."""
    rate = round(routed_share(read_traces(traces)), 4)
    match arm.name:
        case "takeover-disagreement":
            return takeover_control(rate)
        case "reranked-greedy":
            return replacement_control(rate, bench.study.top)
        case "fitted-schedule" | "fitted-entropy" | "fitted-probe" | "categories-probe":
            return scattered(arm, rate)
        case _:
            return None


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
