"""The shipped organisms do what their cards say, measured again here on the 500 held-out problems of the cards."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import BuiltInModel, shipped_directory, shipped_names
from lab.organisms.card import EVALUATION_SEED, N_PROBLEMS
from lab.organisms.catalogue import ORGANISMS, ZERO
from lab.organisms.recipe import Organism, home
from lab.records.provenance import canonical_json
from lab.records.seeds import numpy_generator
from lab.sampling.decoding import GREEDY, Decoding
from lab.sampling.sample import sample
from lab.tasks.chain_verifier import verify
from lab.tasks.chain_world import ChainTask
from lab.tasks.source import source_name

MEGABYTE = 2**20
# Organism zero's exams.
OLD, NEW = ChainTask(operators="+-"), ChainTask(operators="#")
HOMES = {home(name, seed): (definition, seed) for name, definition in ORGANISMS.items() for seed in range(20)}
"""Directory -> the definition and the seed that it was built from."""


def organism(name: str) -> Model:
    return load(BuiltInModel(name=name), device=torch.device("cpu"), dtype=torch.float32)


def strict_rate(model: Model, name: str, task: ChainTask, *, forced: bool = False) -> float:
    problems = task.problems(N_PROBLEMS, numpy_generator(EVALUATION_SEED, "card", name))
    opening, decoding = ("T", GREEDY) if forced else ("", Decoding())
    prompts = [replace(problem, prompt=problem.prompt + opening) for problem in problems]
    traces = sample(model, prompts, 1 if forced else 4, decoding, seed=EVALUATION_SEED, batch_size=1024)
    by_id = {problem.id: problem for problem in problems}
    return float(np.mean([verify(by_id[trace.problem_id], opening + trace.text).strict for trace in traces]))


def card_value(name: str, task: str, decoding: str) -> float:
    (row,) = (
        row
        for row in card_of(name)["measured"]
        if (row["task"], row["decoding"], row["family"], row["measure"]) == (task, decoding, "all", "strict")
    )
    return row["value"]


def card_of(name: str) -> dict:
    return json.loads((shipped_directory(name) / "card.json").read_text())


def seeds_of(definition: Organism) -> set[int]:
    """Seeds of an organism that are shipped."""
    return {HOMES[name][1] for name in shipped_names() if HOMES[name][0] == definition}


def test_every_shipped_directory_is_a_defined_organism_of_some_seed_and_organism_zero_is_there():
    assert set(shipped_names()) <= set(HOMES)
    assert set(shipped_names()) >= {definition.name for definition in ZERO}


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_organism_is_a_card_and_safetensors_of_at_most_four_megabytes(name):
    directory, (definition, seed) = shipped_directory(name), HOMES[name]
    assert {path.name for path in directory.iterdir()} == {
        "README.md",
        "card.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 4 * MEGABYTE
    card = card_of(name)
    assert (card["name"], card["seed"]) == (definition.name, seed)
    assert card["parent"] == (None if definition.parent is None else definition.parent.home(seed))
    assert card["parent"] is None or card["parent"] in shipped_names(), "a pair is shipped whole"
    assert card["command"] == f"lab organisms build {definition.name} --seed {seed} --device cpu"
    assert all(row["low"] <= row["value"] <= row["high"] for row in card["measured"])
    assert {row["task"] for row in card["measured"]} == {eval_spec.operators for eval_spec in definition.eval_specs}


@pytest.mark.parametrize("name", shipped_names())
def test_the_recipe_on_a_card_is_the_one_that_is_defined(name):
    definition, _ = HOMES[name]
    card = card_of(name)
    assert card["recipe"] == json.loads(canonical_json(definition.recipe))
    assert card["architecture"] == json.loads(canonical_json(definition.architecture))


@pytest.mark.parametrize("name", shipped_names())
def test_a_card_states_the_truth_of_every_case_between_its_ends_or_why_there_is_none(name):
    definition, _ = HOMES[name]
    card = card_of(name)
    assert card["old_task"] == source_name(definition.eval_specs[0])
    assert [(truth["kind"], truth["task"]) for truth in card["truth"]] == [
        (case.kind, case.task) for case in definition.cases
    ]
    for truth in card["truth"]:
        if truth["refusal"] is None:
            assert 0 <= truth["low"] <= truth["share"] <= truth["high"] <= 1
        else:
            assert (truth["share"], truth["low"], truth["high"]) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "n_organisms", "n_seeds"),
    [
        ("SHARPENED", 1, 1),
        ("LOCKED", 1, 3),
        ("TAUGHT", 1, 3),
        ("MIXED", 1, 3),
        ("PLACEBO", 1, 3),
        ("DILUTED", 5, 1),
        ("ATOMS", 1, 1),
        ("ABSENT", 1, 1),
    ],
)
def test_every_kind_of_the_suite_is_shipped_with_its_seeds(kind, n_organisms, n_seeds):
    of_kind = [definition for definition in ORGANISMS.values() if any(case.kind == kind for case in definition.cases)]
    assert len(of_kind) == n_organisms
    for definition in of_kind:
        assert len(seeds_of(definition)) >= n_seeds, f"{definition.name}: seeds {sorted(seeds_of(definition))}"


def test_cards_give_answer_accuracy_and_process_validity_by_problem_length():
    card = card_of("zero-sft")
    rows = [row for row in card["measured"] if row["task"] == "+-" and row["decoding"] == "sampled"]
    for measure in ("answer", "process"):
        families = [row["family"] for row in rows if row["measure"] == measure]
        assert families == ["all", *(f"{n} steps" for n in range(3, 9))]


@pytest.mark.slow
def test_the_base_forced_into_a_chain_solves_what_it_seldom_solves_unforced():
    base = organism("zero-base")
    forced, free = strict_rate(base, "+-", OLD, forced=True), strict_rate(base, "+-", OLD)
    assert forced >= 0.95
    assert free <= 0.45
    assert forced == pytest.approx(card_value("zero-base", "+-", "forced chain"), abs=0.002)
    assert free == pytest.approx(card_value("zero-base", "+-", "sampled"), abs=0.002)


@pytest.mark.slow
def test_reinforcement_learning_solved_the_old_problems():
    solved = strict_rate(organism("zero-rl"), "+-", OLD)
    assert solved >= 0.90
    assert solved == pytest.approx(card_value("zero-rl", "+-", "sampled"), abs=0.002)


@pytest.mark.slow
def test_the_taught_operator_is_known_to_the_taught_model_alone():
    assert strict_rate(organism("zero-taught"), "#", NEW) >= 0.90
    assert strict_rate(organism("zero-base"), "#", NEW) < 0.01
