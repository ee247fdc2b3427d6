"""The shipped organisms do what their cards say, measured again here on the 500 held-out problems of the cards."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import OrganismModel, organism_directory, organism_names
from lab.organisms.card import EVALUATION_SEED, N_PROBLEMS, NEW, OLD
from lab.organisms.zero import ORGANISMS
from lab.sampling.decoding import GREEDY, Decoding
from lab.sampling.sample import sample
from lab.seeds import numpy_generator
from lab.tasks.chain_verifier import verify
from lab.tasks.chain_world import ChainTask

MEGABYTE = 2**20


def organism(name: str) -> Model:
    return load(OrganismModel(name=name), device=torch.device("cpu"), dtype=torch.float32)


def strict_rate(model: Model, name: str, task: ChainTask, *, forced: bool = False) -> float:
    problems = task.problems(N_PROBLEMS, numpy_generator(EVALUATION_SEED, "card", name))
    opening, decoding = ("T", GREEDY) if forced else ("", Decoding())
    prompts = [replace(problem, prompt=problem.prompt + opening) for problem in problems]
    traces = sample(model, prompts, 1 if forced else 4, decoding, seed=EVALUATION_SEED, batch_size=1024)
    by_id = {problem.id: problem for problem in problems}
    return float(np.mean([verify(by_id[trace.problem_id], opening + trace.text).strict for trace in traces]))


def card_value(name: str, task: str, decoding: str) -> float:
    card = json.loads((organism_directory(name) / "card.json").read_text())
    (row,) = (
        row
        for row in card["measured"]
        if (row["task"], row["decoding"], row["family"], row["measure"]) == (task, decoding, "all", "strict")
    )
    return row["value"]


def test_every_defined_organism_is_shipped_with_a_card_and_safetensors_of_at_most_four_megabytes():
    assert set(organism_names()) == set(ORGANISMS)
    for name in organism_names():
        directory = organism_directory(name)
        files = {path.name for path in directory.iterdir()}
        assert files == {
            "README.md",
            "card.json",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert sum(path.stat().st_size for path in directory.iterdir()) <= 4 * MEGABYTE
        card = json.loads((directory / "card.json").read_text())
        assert card["parent"] == ORGANISMS[name].parent
        assert card["command"] == f"lab organisms build {name} --seed 0 --device cpu"
        assert all(row["low"] <= row["value"] <= row["high"] for row in card["measured"])


def test_cards_give_answer_accuracy_and_process_validity_by_problem_length():
    card = json.loads((organism_directory("zero-sft") / "card.json").read_text())
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
