"""Routing arms: the rungs whose router or vector table was fitted, and their controls, as values."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from elicitation.study.arms import Arm, Instead, rung
from elicitation.study.context import StudyContext
from elicitation.study.evidence import DISAGREEMENTS
from elicitation.study.sampled import read_traces
from elicitation.study.vectors import N_RANDOM, Fitting, strict
from lab.records.seeds import child_seed, torch_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table
from lab.scoring.evidence import Control, Role
from probes.taxonomy.segments import finest_rule
from steering.edit import Add
from steering.export.vector_file import facts_of
from steering.hybrid.hybrid import Hybrid, Router
from steering.hybrid.interventions import Steer
from steering.hybrid.routers import BaseProbe, Disagreement
from steering.hybrid.vector_table import Drawn, VectorTable
from steering.routing.category_vectors import CategoryVectors, any_category, exchanged, random_vectors
from steering.routing.routed import Routing, RoutingFit, fit_routing, save_routing
from steering.vector import SteeringVector


def routing_arms(routing: Routing, vectors: Mapping[str, tuple[SteeringVector, ...]], *, seed: int) -> tuple[Arm, ...]:
    """The arms that can be listed before any of them has run, each control behind its rung.

    First those that leave the tuned model alone: the vector fitted on all disagreements (`fitted` in `vectors`, with
    random draws of its norm in `like-fitted`) when the schedule, the entropy or the probe says so, and category vectors
    when the probe does. Then category vectors that the tuned model chooses.
    `scattered` gives each of the former the control of its router. A table of which no category has a vector has no
    arm.
    """
    probe = BaseProbe(routing.probe)
    return (
        *fitted_vector_arms(routing, Steer(Drawn(tuple(map(Add, vectors["fitted"])))), vectors["like-fitted"]),
        *category_arms(
            Role.CATEGORIES_PROBE, routing.base_side, probe, "probe", "base's probe", child_seed(seed, "probe")
        ),
        *category_arms(
            Role.CATEGORIES_DISAGREEMENT,
            routing.tuned_side,
            Disagreement(),
            "disagreement",
            "tuned categories at disagreement",
            child_seed(seed, "disagreement"),
        ),
    )


def fitted_vector_arms(routing: Routing, fitted: Steer, drawn: tuple[SteeringVector, ...]) -> tuple[Arm, ...]:
    """One vector under each router that runs without the tuned model."""
    probe = BaseProbe(routing.probe)
    by_chance = Hybrid(probe, Steer(Drawn(tuple(map(Add, drawn)))))
    return (
        *rung(Role.VECTOR_SCHEDULE, "fitted-schedule", "+ fitted vector, schedule", Hybrid(routing.schedule, fitted)),
        *rung(Role.VECTOR_ENTROPY, "fitted-entropy", "+ fitted vector, entropy", Hybrid(routing.entropy, fitted)),
        *rung(
            Role.VECTOR_PROBE,
            "fitted-probe",
            "+ fitted vector, base's probe",
            Hybrid(probe, fitted),
            Instead(Control.RANDOM_VECTORS, "random-probe", "random vectors, base's probe", by_chance),
        ),
    )


def category_arms(
    role: Role, found: CategoryVectors, router: Router, suffix: str, when: str, seed: int
) -> tuple[Arm, ...]:
    """Category vectors where `router` opens, beside vectors of other categories and of none.

    With a single fitted vector there is no other category, and random vectors alone are the control.
    """
    if not found.fitted:
        return ()
    tables: list[tuple[Control, str, str, VectorTable]] = [
        (
            Control.RANDOM_VECTORS,
            "random-categories",
            "random vectors of their norms",
            random_vectors(found, N_RANDOM, seed=seed),
        )
    ]
    if len(found.fitted) > 1:
        others = exchanged(found, torch_generator(seed, "exchanged"))
        tables += [
            (Control.OTHER_CATEGORIES, "shuffled-categories", "vectors of other categories", others),
            (Control.RANDOM_CATEGORIES, "any-category", "vectors of random categories", any_category(found)),
        ]
    return rung(
        role,
        f"categories-{suffix}",
        f"+ category vectors, {when}",
        Hybrid(router, Steer(found.table)),
        *(
            Instead(control, f"{name}-{suffix}", f"{label}, {when}", Hybrid(router, Steer(table)))
            for control, name, label, table in tables
        ),
    )


def routing_stage(context: StudyContext, settings: RoutingFit, fitting: Fitting) -> Artefact | None:
    """`routing/`; None where fewer than two training problems have a decision, so that nothing says when to act."""
    found = read_table(fitting.decided.path / "disagreements.parquet", DISAGREEMENTS)
    if found["problem_id"].n_unique() < 2:
        return None
    config = {"site": str(context.site), "routing": settings, "seed": context.study.seed}
    parents = {
        "fit-base": fitting.base.digest,
        "fit-tuned": fitting.tuned.digest,
        "disagreements": fitting.decided.digest,
    }

    def compute(work: Path) -> None:
        by_id = {problem.id: problem for problem in context.fit_task.problems}
        routing = fit_routing(
            context.pair,
            context.site,
            read_traces(fitting.base),
            solved(context, read_traces(fitting.tuned)),
            found,
            by_id,
            finest_rule(context.task.steps, context.fit_task.problems),
            settings,
            seed=context.study.seed,
        )
        save_routing(work, routing, context.made_by("routing", config, parents), fitted_on=facts_of(context.base))

    return memoised(context.out, "routing", config, parents, compute)


def solved(context: StudyContext, traces: pl.DataFrame) -> pl.DataFrame:
    """Those traces of training problems that are strictly right."""
    return traces.filter(strict(context, traces))
