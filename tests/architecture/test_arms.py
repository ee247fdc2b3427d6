"""Estimators and pages ask for arms by what they are there for: the name of an arm is its study's affair."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import elicitation
from elicitation.study.arms import ladder, own_help_arms, routing_arms, scattered
from elicitation.study.config import OwnHelp
from lab.scoring.evidence import ArmKey, Role
from lab.tasks.source import open_task, task_source
from steering.published_hybrids.arms import LISTED
from tests.elicitation.study.by_hand import VECTORS, routing

MODULES = [
    path for room in ("estimators", "pages") for path in sorted((Path(elicitation.__path__[0]) / room).rglob("*.py"))
]
ALSO = {"base", "tuned", "prompt", "temperature"}
"""Names of arms that are words for other things too: whose models, columns, kinds of help."""


def full_study() -> dict[str, ArmKey]:
    """The arms that a study of one pair can have, by their names."""
    task = open_task(task_source("chain"), n_problems=2, seed=0)
    choices = replace(task, problems=tuple(replace(one, choices=("0", "1")) for one in task.problems))
    kinds = ("mean", "fitted", "first_token")
    vectors = {like + kind: VECTORS["fitted"] for kind in kinds for like in ("", "like-")}
    arms = [
        *own_help_arms(OwnHelp(), choices, task),
        *ladder(vectors, 0.1, 5),
        *routing_arms(routing(1.0, 2.0), vectors, seed=0),
    ]
    arms += [control for arm in arms if (control := scattered(arm, 0.1, 5)) is not None]
    published = {listed.name: ArmKey(listed.role, "greedy", listed.control) for listed in LISTED}
    return (
        {Role.BASE: ArmKey(Role.BASE), Role.TUNED: ArmKey(Role.TUNED)} | published | {arm.name: arm.key for arm in arms}
    )


def test_a_key_means_one_arm_but_for_the_many_switches_of_a_published_method():
    keys = list(full_study().values())
    assert {key.role for key in keys if keys.count(key) > 1} <= {Role.P1_SWITCHED, Role.P2_SWITCHED}
    unused = {*Role} - {key.role for key in keys}
    beside = {Role.COMPANION, Role.VECTOR, Role.FORMAT, Role.READING}
    assert unused == beside, "of models beside the pair, of comparisons, and of tasks that are no chains"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: "/".join(path.parts[-3:]))
def test_no_estimator_and_no_page_knows_an_arm_by_its_name(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not strings & ({*full_study()} - ALSO)
