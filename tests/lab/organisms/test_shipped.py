"""The shipped organisms are those of the catalogue, and do what their cards say, measured again here."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import BuiltInModel, shipped_directory, shipped_names
from lab.organisms.card import EVALUATION_SEED, SMALL, read_card
from lab.organisms.catalogue import CATALOGUE, ZERO
from lab.organisms.recipe import LowRank, Organism, home
from lab.records.provenance import canonical_json
from lab.records.seeds import numpy_generator
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding
from lab.tasks.chain import verify
from lab.tasks.source import task_source

MEGABYTE = 2**20
# Organism zero's exams.
OLD, NEW = "chain:+-:3-8", "chain:#:3-8"
ORGANISMS = [model for model in CATALOGUE.values() if isinstance(model, Organism)]
HOMES = {home(model.name, seed): (model, seed) for model in ORGANISMS for seed in range(20)}
"""Directory -> the definition and the seed that it was built from."""
ADAPTERS = [name for name in shipped_names() if isinstance(HOMES[name][0].recipe, LowRank)]
SMALL_MODELS = [name for name in shipped_names() if name not in ADAPTERS]


def organism(name: str) -> Model:
    return load(BuiltInModel(name=name), device=torch.device("cpu"), dtype=torch.float32)


def strict_rate(model: Model, task: str, *, forced: bool = False) -> float:
    source = task_source(task)
    problems = source.problems(SMALL.n_problems, numpy_generator(EVALUATION_SEED, "card", source.operators))
    opening, decoding = ("T", GREEDY) if forced else ("", Decoding())
    prompts = [replace(problem, prompt=problem.prompt + opening) for problem in problems]
    traces = sample(model, prompts, 1 if forced else 4, decoding, seed=EVALUATION_SEED, batch_size=1024)
    by_id = {problem.id: problem for problem in problems}
    return float(np.mean([verify(by_id[trace.problem_id], opening + trace.text).strict for trace in traces]))


def card_value(name: str, task: str, decoding: str) -> float:
    (row,) = (
        row
        for row in read_card(name)["measured"]
        if (row["task"], row["decoding"], row["family"], row["measure"]) == (task, decoding, "all", "strict")
    )
    return row["value"]


def seeds_of(definition: Organism) -> set[int]:
    """Seeds of an organism that are shipped."""
    return {HOMES[name][1] for name in shipped_names() if HOMES[name][0] == definition}


def test_every_shipped_directory_is_a_defined_organism_of_some_seed_and_organism_zero_is_there():
    assert set(shipped_names()) <= set(HOMES)
    assert set(shipped_names()) >= {definition.name for definition in ZERO}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_a_small_model_is_a_card_and_safetensors_of_at_most_four_megabytes(name):
    directory = shipped_directory(name)
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


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_of_the_model_that_its_definition_names_and_of_at_most_twelve_megabytes(name):
    directory, recipe = shipped_directory(name), HOMES[name][0].recipe
    named = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    assert (named["base_model_name_or_path"], named["r"]) == (recipe.parent.name, recipe.rank)
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 12e6


@pytest.mark.parametrize("name", shipped_names())
def test_a_card_tells_the_definition_that_a_model_was_made_by(name):
    (definition, seed), card = HOMES[name], read_card(name)
    assert (card["name"], card["seed"], card["story"]) == (definition.name, seed, definition.story)
    assert card["parent"] == (None if definition.parent is None else definition.parent.home(seed))
    assert card["parent"] in (None, "smollm2", *shipped_names()), "a pair is shipped whole"
    assert card["command"] == f"lab models build {definition.name} --seed {seed} --device cpu"
    assert card["recipe"] == json.loads(canonical_json(definition.recipe))
    assert card["eval_specs"] == json.loads(canonical_json(definition.eval_specs))
    assert card["old_task"] == definition.old_task
    assert all(row["low"] <= row["value"] <= row["high"] for row in card["measured"])
    assert {row["task"] for row in card["measured"]} == {spec.task for spec in definition.eval_specs}
    assert {row["model"] for row in card["measured"]} == {name, *([card["parent"]] if name in ADAPTERS else [])}


@pytest.mark.parametrize("name", shipped_names())
def test_a_card_states_the_truth_of_every_case_between_its_ends_or_why_there_is_none(name):
    cases, card = HOMES[name][0].cases, read_card(name)
    assert [(truth["kind"], truth["task"]) for truth in card["truth"]] == [(case.kind, case.task) for case in cases]
    for truth in card["truth"]:
        if truth["refusal"] is None:
            assert 0 <= truth["low"] <= truth["share"] <= truth["high"] <= 1
        else:
            assert (truth["share"], truth["low"], truth["high"]) == (None, None, None)


@pytest.mark.parametrize("name", sorted({*ADAPTERS} - {"smollm2-world"}))
def test_a_tuned_model_is_better_on_its_own_task_than_the_model_below_it(name):
    card, own = read_card(name), HOMES[name][0].eval_specs[0].task
    rows = {
        row["model"]: row
        for row in card["measured"]
        if (row["task"], row["decoding"], row["measure"]) == (own, "sampled", "strict")
    }
    assert rows[card["parent"]]["high"] < rows[name]["low"]


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
    small = [definition for definition in ORGANISMS if not isinstance(definition.recipe, LowRank)]
    of_kind = [definition for definition in small if any(case.kind == kind for case in definition.cases)]
    assert len(of_kind) == n_organisms
    for definition in of_kind:
        assert len(seeds_of(definition)) >= n_seeds, f"{definition.name}: seeds {sorted(seeds_of(definition))}"


def test_cards_give_answer_accuracy_and_process_validity_by_problem_length():
    card = read_card("zero-sft")
    rows = [row for row in card["measured"] if row["task"] == OLD and row["decoding"] == "sampled"]
    for measure in ("answer", "process"):
        families = [row["family"] for row in rows if row["measure"] == measure]
        assert families == ["all", *(f"{n} steps" for n in range(3, 9))]


@pytest.mark.slow
def test_the_base_forced_into_a_chain_solves_what_it_seldom_solves_unforced():
    base = organism("zero-base")
    forced, free = strict_rate(base, OLD, forced=True), strict_rate(base, OLD)
    assert forced >= 0.95
    assert free <= 0.45
    assert forced == pytest.approx(card_value("zero-base", OLD, "forced chain"), abs=0.002)
    assert free == pytest.approx(card_value("zero-base", OLD, "sampled"), abs=0.002)


@pytest.mark.slow
def test_reinforcement_learning_solved_the_old_problems():
    solved = strict_rate(organism("zero-rl"), OLD)
    assert solved >= 0.90
    assert solved == pytest.approx(card_value("zero-rl", OLD, "sampled"), abs=0.002)


@pytest.mark.slow
def test_the_taught_operator_is_known_to_the_taught_model_alone():
    assert strict_rate(organism("zero-taught"), NEW) >= 0.90
    assert strict_rate(organism("zero-base"), NEW) < 0.01
