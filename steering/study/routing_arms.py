"""Routing arms: the rungs whose router or vector table was fitted, and their controls, as values."""

from collections.abc import Mapping
from dataclasses import replace

from lab.seeds import child_seed, torch_generator
from steering.edit import Add
from steering.hybrid.act import Steer
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.router import AtRandom, BaseProbe, Disagreement, Router
from steering.hybrid.vector_table import Drawn, VectorTable
from steering.routing.category_controls import any_category, exchanged, random_vectors
from steering.routing.category_vectors import CategoryVectors
from steering.routing.routed import Routing
from steering.study.arms import Arm
from steering.study.vectors import N_RANDOM
from steering.vector import SteeringVector


def routing_arms(routing: Routing, vectors: Mapping[str, tuple[SteeringVector, ...]], *, seed: int) -> tuple[Arm, ...]:
    """The arms that can be listed before any of them has run, each control behind its rung.

    First those that leave the tuned model alone: the vector fitted on all decisions (`fitted` in `vectors`, with random
    draws of its norm in `like-fitted`) when the schedule, the entropy or the probe says so, and category vectors when
    the probe does. Then category vectors that the tuned model chooses. `scattered` gives each of the former the control
    of its router. A table of which no category has a vector has no arm.
    """
    probe = BaseProbe(routing.probe)
    return (
        *fitted_vector_arms(routing, Steer(Drawn(tuple(map(Add, vectors["fitted"])))), vectors["like-fitted"]),
        *category_arms(routing.base_side, probe, "probe", "base's probe", child_seed(seed, "probe")),
        *category_arms(
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
    return (
        Arm(
            name="fitted-schedule",
            label="+ fitted vector, schedule",
            kind="rung",
            way=Hybrid(routing.schedule, fitted),
        ),
        Arm(
            name="fitted-entropy",
            label="+ fitted vector, entropy",
            kind="rung",
            way=Hybrid(routing.entropy, fitted),
        ),
        Arm(
            name="fitted-probe",
            label="+ fitted vector, base's probe",
            kind="rung",
            way=Hybrid(probe, fitted),
        ),
        Arm(
            name="random-probe",
            label="random vectors, base's probe",
            kind="control",
            control_of="fitted-probe",
            way=Hybrid(probe, Steer(Drawn(tuple(map(Add, drawn))))),
        ),
    )


def category_arms(found: CategoryVectors, router: Router, suffix: str, when: str, seed: int) -> tuple[Arm, ...]:
    """Category vectors where `router` opens, beside vectors of other categories and of none.

    With a single fitted vector there is no other category, and random vectors alone are the control.
    """
    if not found.fitted:
        return ()
    rung = Arm(
        name=f"categories-{suffix}",
        label=f"+ category vectors, {when}",
        kind="rung",
        way=Hybrid(router, Steer(found.table)),
    )
    tables: dict[str, tuple[str, VectorTable]] = {
        "random-categories": ("random vectors of their norms", random_vectors(found, N_RANDOM, seed=seed)),
    }
    if len(found.fitted) > 1:
        generator = torch_generator(seed, "exchanged")
        tables["shuffled-categories"] = ("vectors of other categories", exchanged(found, generator))
        tables["any-category"] = ("vectors of random categories", any_category(found))
    return (
        rung,
        *(
            Arm(
                name=f"{name}-{suffix}",
                label=f"{label}, {when}",
                kind="control",
                control_of=rung.name,
                way=Hybrid(router, Steer(table)),
            )
            for name, (label, table) in tables.items()
        ),
    )


def scattered(rung: Arm, rate: float) -> Arm:
    """What `rung` does, at random tokens, as often as its router opened when it ran: the control of the router."""
    assert isinstance(rung.way, Hybrid), "only a hybrid has a router"
    return replace(
        rung,
        name=f"{rung.name}-scattered",
        label=f"{rung.label.removeprefix('+ ')}, at random tokens instead",
        kind="control",
        control_of=rung.name,
        way=replace(rung.way, router=AtRandom(rate)),
    )
