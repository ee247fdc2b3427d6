"""Routing arms: every rung has controls that differ from it in one thing, and most never ask the tuned model."""

import pytest

from elicitation.study.arms import Arm, routing_arms, scattered
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Drawn, PerCategory, RandomCategory, Steer
from steering.hybrid.routers import AtRandom
from tests.elicitation.study.by_hand import SITE, VECTORS, routing


def arms_of(*norms: float) -> dict[str, Arm]:
    found = tuple(routing_arms(routing(*norms), VECTORS, seed=0))
    assert (
        len({arm.key for arm in found})
        == len({arm.name for arm in found})
        == len({arm.label for arm in found})
        == len(found)
    )
    return {arm.name: arm for arm in found}


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return arms_of(1.0, 0.0, 2.0)


def test_rungs_and_controls_are_these(arms):
    assert {name: arm.control_of for name, arm in arms.items()} == {
        "fitted-schedule": None,
        "fitted-entropy": None,
        "fitted-probe": None,
        "random-probe": "fitted-probe",
        "categories-probe": None,
        "random-categories-probe": "categories-probe",
        "shuffled-categories-probe": "categories-probe",
        "any-category-probe": "categories-probe",
        "categories-disagreement": None,
        "random-categories-disagreement": "categories-disagreement",
        "shuffled-categories-disagreement": "categories-disagreement",
        "any-category-disagreement": "categories-disagreement",
    }
    assert all((arm.control is None) == (arm.control_of is None) for arm in arms.values())


def test_a_control_stands_behind_its_rung_and_differs_in_its_vectors_alone(arms):
    names = list(arms)
    for name, arm in arms.items():
        if arm.control_of is not None:
            assert names.index(arm.control_of) < names.index(name)
            assert arm.method.router is arms[arm.control_of].method.router
            assert arm.method.intervention != arms[arm.control_of].method.intervention


def test_only_the_rungs_at_disagreement_ask_the_tuned_model(arms):
    for name, arm in arms.items():
        assert arm.method.needs_tuned == name.endswith("disagreement")


def test_controls_leave_out_one_thing_each(arms):
    def norms(name: str) -> list[float]:
        return sorted(round(edit.vector.norms[SITE], 4) for edit in table(arms[name]).edits)

    assert norms("categories-probe") == norms("shuffled-categories-probe") == [0.0, 1.0, 2.0]
    assert isinstance(table(arms["shuffled-categories-probe"]), PerCategory)
    assert isinstance(table(arms["any-category-probe"]), RandomCategory)
    assert norms("any-category-probe") == [1.0, 2.0]
    assert set(norms("random-categories-probe")) == {1.0, 2.0}
    assert table(arms["random-probe"]) == Drawn(tuple(map(Add, VECTORS["like-fitted"])))


def test_a_single_category_has_no_other_to_be_exchanged_with():
    assert [name for name in arms_of(1.0, 0.0) if "categor" in name] == [
        "categories-probe",
        "random-categories-probe",
        "categories-disagreement",
        "random-categories-disagreement",
    ]


def test_without_a_category_vector_the_fitted_vector_is_left():
    assert list(arms_of(0.0, 0.0)) == ["fitted-schedule", "fitted-entropy", "fitted-probe", "random-probe"]


@pytest.mark.parametrize("name", ["fitted-schedule", "fitted-entropy", "fitted-probe", "categories-probe"])
def test_scattered_does_the_same_at_random_tokens(arms, name):
    control = scattered(arms[name], 0.25, top=5)
    assert control.method == Hybrid(AtRandom(0.25), arms[name].method.intervention)
    assert (control.name, control.control, control.control_of) == (f"{name}-scattered", "random-tokens", name)


def table(arm: Arm):
    assert isinstance(arm.method.intervention, Steer)
    return arm.method.intervention.table
