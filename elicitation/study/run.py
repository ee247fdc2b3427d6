"""run: a study from its configuration to its report, stage by stage, each resumable."""

from collections.abc import Iterator
from pathlib import Path

from elicitation.study.arms import Arm, arms_of_published, ladder, own_help_arms, routing_arms, scattered
from elicitation.study.config import Study
from elicitation.study.context import StudyContext, Watch, claimed, prepare
from elicitation.study.findings import routed_share
from elicitation.study.fits import Fitting, fitting_stage, published_stage, read_vectors, routing_stage, vector_stage
from elicitation.study.reported import Finished, Measured, report_stage
from elicitation.study.sampled import arm_traces, own_traces, read_traces
from elicitation.study.tables import estimate_stage, evidence_stage, table_stage
from lab.models.device import settled_threads
from lab.records.provenance import Provenance, canonical_json, digest
from lab.records.stage import Artefact
from lab.records.tables import write_table
from lab.scoring.evidence import Role
from lab.tasks.problem import PROBLEMS, problem_table
from steering.routing.routing import load_routing


def run(study: Study, out: Path | str, *, command: str = "elicitation.run", watch: Watch = lambda *_: None) -> Finished:
    """Runs what is not yet there and writes `out/report.html`.

    Everything that can be found wrong with the request is found before the first file is written. Raises a LabError
    for a bad request, and StorageError where `out` belongs to another study.

    >>> el.run(el.Study(base="zero-base", tuned="none"), "runs/none")
    Traceback (most recent call last):
    lab.records.errors.ModelError: no model 'none'; accepted: ...
    """
    context = prepare(study, Path(out), watch)
    with claimed(context.out, study), settled_threads(context.base.n_parameters):
        return report_stage(context, measure(context), command)


def measure(context: StudyContext) -> Measured:
    """Everything but the report."""
    problems = problem_stage(context)
    parents = {"problems": problems.digest}
    models = [(Role.BASE, "base", context.base), (Role.TUNED, "tuned", context.pair.tuned)]
    models += [(Role.COMPANION, f"companion-{index}", model) for index, model in enumerate(context.companions)]
    alone = [
        (Arm(role=role, name=name, label=model.name), own_traces(context, model, name, parents))
        for role, name, model in models
    ]
    (_, base), (_, tuned), *_ = alone
    fitting = fitting_stage(context, problems)
    tables = table_stage(context, alone, list(between(context, fitting, parents)))
    evidence = evidence_stage(context, base, tuned, tables)
    estimates, features = estimate_stage(context, evidence, tables), None
    if context.study.features.layers:
        # It brings sae_lens, which is slow to import.
        from elicitation.study.features import feature_stage

        features = feature_stage(context, context.study.features, fitting)
    return Measured(tables, evidence, estimates, features)


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

    def compute(work: Path, made_by: Provenance) -> None:
        for side, problems in sides.items():
            write_table(work / f"{side}.parquet", problem_table(problems), PROBLEMS, made_by)

    return context.stage("problems", config, parents, compute)
