"""Building organisms, with recipes of a few steps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import load
from lab.models.source import LocalModel, shipped_directory
from lab.organisms import build as build_module
from lab.organisms import card
from lab.organisms.build import build, chain_tokenizer, organism_named, parent_directory, starting_network
from lab.organisms.catalogue import ORGANISMS
from lab.organisms.recipe import (
    AnswerFirst,
    Architecture,
    Case,
    Mixture,
    Organism,
    Parent,
    Reinforced,
    Supervised,
    documents,
)
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import SupervisedRun
from lab.records.errors import ModelError, StorageError
from lab.tasks.chain_documents import CAREFUL
from lab.tasks.chain_verifier import parse, verify
from lab.tasks.chain_world import ALPHABET, GUARDED_ALPHABET, ChainTask, as_expression, as_problem
from lab.tasks.problem import Problem

CPU = torch.device("cpu")
# TRL, accelerate and datasets warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = Architecture(d_model=16, n_layers=1, n_heads=2, d_mlp=16)
BASE = Organism(
    name="small-base",
    parent=None,
    recipe=Supervised(writing=Mixture(), run=SupervisedRun(n_steps=3, batch_size=8, loss_on_prompt=True)),
    story="Three steps.",
    architecture=SMALL,
)
RL = Organism(
    name="small-rl",
    parent=Parent("small-base"),
    recipe=Reinforced(run=GrpoRun(n_steps=2, n_prompts=2, n_rollouts=4, max_new_tokens=8)),
    story="Two steps.",
    architecture=SMALL,
)


@pytest.fixture(autouse=True)
def _short_cards(monkeypatch):
    monkeypatch.setattr(card, "N_PROBLEMS", 4)
    monkeypatch.setattr(card, "N_SAMPLES", 1)


def expression_of(document) -> Problem:
    return as_problem(as_expression(Problem(id="", prompt=document.prompt, answer="", family="", source="")))


def test_the_tokenizer_is_one_token_a_character_and_decodes_what_it_encodes(tmp_path):
    tokenizer = chain_tokenizer(ALPHABET)
    text = "<6-0-4+8?T6-0=6;V6!;A0"
    assert len(tokenizer) == len(ALPHABET) + 2
    assert len(tokenizer(text).input_ids) == len(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_tokens_to_ids(".") == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids
    assert tokenizer("x").input_ids == [tokenizer.unk_token_id]


def test_a_larger_alphabet_leaves_the_tokens_of_a_smaller_one_where_they_are():
    text = "<6-0-4+8?T6-0=6;V6!;A0."
    assert chain_tokenizer(GUARDED_ALPHABET)(text).input_ids == chain_tokenizer(ALPHABET)(text).input_ids


def test_a_mixture_has_its_share_of_direct_answers_and_only_training_problems():
    stream = documents(Mixture(direct_share=0.6), np.random.default_rng(0))
    drawn = [next(stream) for _ in range(2000)]
    direct = np.mean([not parse(document.completion).steps for document in drawn])
    assert abs(direct - 0.6) < 4 * np.sqrt(0.6 * 0.4 / 2000)
    assert not any(as_expression(expression_of(document)).held_out for document in drawn)


def test_careful_chains_are_all_valid_and_careless_ones_are_not():
    careful = documents(Mixture(direct_share=0.0, habits=CAREFUL), np.random.default_rng(0))
    assert all(
        verify(expression_of(document), document.completion).strict
        for document, _ in zip(careful, range(200), strict=False)
    )
    careless = documents(Mixture(direct_share=0.0), np.random.default_rng(0))
    valid = [
        verify(expression_of(document), document.completion).strict
        for document, _ in zip(careless, range(400), strict=False)
    ]
    assert 0.5 < np.mean(valid) < 0.95


def test_answer_first_documents_state_the_true_answer_before_the_chain():
    stream = documents(AnswerFirst(task=ChainTask(lengths=(3, 4))), np.random.default_rng(0))
    for document, _ in zip(stream, range(100), strict=False):
        transcript = parse(document.completion)
        assert transcript.answer_first
        assert str(transcript.answer) == expression_of(document).answer


def test_a_build_leaves_a_checkpoint_that_plain_transformers_opens_and_a_card(tmp_path):
    directory = build(BASE, tmp_path, seed=0, device=CPU)
    model = load(LocalModel(path=directory), device=CPU, dtype=torch.float32)
    assert model.anatomy.n_layers == 1
    written = json.loads((directory / "card.json").read_text())
    assert written["command"] == "lab organisms build small-base --seed 0 --device cpu"
    assert written["recipe"]["run"]["n_steps"] == 3
    assert (written["parent"], written["truth"], written["old_task"]) == (None, [], "chain:+-:3-8")
    assert "| `+-` | all (4) | sampled |" in (directory / "README.md").read_text()
    assert [path.name for path in (tmp_path / ".work").iterdir()] == []


def test_equal_seeds_build_equal_weights_and_other_seeds_others(tmp_path):
    first, again, other = (
        (build(BASE, tmp_path / name, seed=seed, device=CPU) / "model.safetensors").read_bytes()
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert first != other


def test_a_tuned_organism_starts_from_the_parent_built_beside_it(tmp_path):
    parent = load(LocalModel(path=build(BASE, tmp_path, seed=0, device=CPU)), device=CPU, dtype=torch.float32)
    still = replace(RL, recipe=replace(RL.recipe, run=replace(RL.recipe.run, learning_rate=0.0)))
    tuned = load(LocalModel(path=build(still, tmp_path, seed=0, device=CPU)), device=CPU, dtype=torch.float32)
    for name, tensor in parent.network.state_dict().items():
        assert torch.equal(tensor, tuned.network.state_dict()[name])


@pytest.fixture
def _catalogued(monkeypatch):
    """The small base can be looked up by name."""
    monkeypatch.setitem(ORGANISMS, BASE.name, BASE)


def weights(directory):
    return load(LocalModel(path=directory), device=CPU, dtype=torch.float32).network.state_dict()


STILL = replace(RL, recipe=replace(RL.recipe, run=replace(RL.recipe.run, learning_rate=0.0)))


@pytest.mark.usefixtures("_catalogued")
def test_a_missing_parent_is_built_first_with_the_childs_seed(tmp_path):
    directory = build(STILL, tmp_path / "both", seed=1, device=CPU)
    assert directory == tmp_path / "both" / "small-rl-1"
    assert {path.name for path in directory.parent.iterdir()} == {"small-rl-1", "small-base-1", ".work"}
    alone = build(BASE, tmp_path / "alone", seed=1, device=CPU)
    for name, tensor in weights(alone).items():
        assert torch.equal(tensor, weights(directory)[name])
    written = json.loads((directory / "card.json").read_text())
    assert (written["parent"], written["seed"]) == ("small-base-1", 1)
    assert written["command"] == "lab organisms build small-rl --seed 1 --device cpu"
    assert "from `small-base-1`." in (directory / "README.md").read_text()


@pytest.mark.usefixtures("_catalogued")
def test_a_parent_of_a_named_seed_is_built_with_that_one(tmp_path):
    directory = build(replace(STILL, parent=Parent("small-base", seed=0)), tmp_path, seed=4, device=CPU)
    assert {path.name for path in tmp_path.iterdir()} == {"small-rl-4", "small-base", ".work"}
    assert json.loads((directory / "card.json").read_text())["parent"] == "small-base"
    assert json.loads((tmp_path / "small-base" / "card.json").read_text())["seed"] == 0


def test_a_parent_comes_from_beside_then_from_the_wheel_and_else_is_built(tmp_path, monkeypatch):
    built = []

    def noted(organism, out, *, seed, device, watch):
        built.append((organism.name, seed))
        return out / "made"

    monkeypatch.setattr(build_module, "build", noted)
    assert parent_directory(Parent("zero-base"), tmp_path, 0, CPU) == shipped_directory("zero-base")
    assert parent_directory(Parent("zero-base", seed=0), tmp_path, 5, CPU) == shipped_directory("zero-base")
    (tmp_path / "zero-base").mkdir()
    assert parent_directory(Parent("zero-base"), tmp_path, 0, CPU) == tmp_path / "zero-base"
    assert not built
    assert parent_directory(Parent("zero-base"), tmp_path, 97, CPU) == tmp_path / "made"
    assert parent_directory(Parent("zero-base", seed=98), tmp_path, 0, CPU) == tmp_path / "made"
    assert built == [("zero-base", 97), ("zero-base", 98)]


def test_a_parent_that_nobody_defined_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="no organism is called 'small-base'"):
        build(RL, tmp_path, seed=0, device=CPU)


def test_new_characters_get_rows_of_their_own_behind_the_parents(tmp_path):
    parent = build(BASE, tmp_path, seed=0, device=CPU)
    child = replace(BASE, name="wider", parent=Parent("small-base"), alphabet=GUARDED_ALPHABET)
    tokenizer = chain_tokenizer(GUARDED_ALPHABET)
    first, again, other = (
        starting_network(child, parent, tokenizer, seed=seed, device=CPU).state_dict()["model.embed_tokens.weight"]
        for seed in (0, 0, 1)
    )
    old = weights(parent)["model.embed_tokens.weight"]
    assert len(first) == len(old) + 2 == len(tokenizer)
    assert torch.equal(first[: len(old)], old)
    assert torch.equal(first, again)
    assert not torch.equal(first[len(old) :], other[len(old) :])
    assert (first[len(old) :].norm(dim=1) > 0).all()


def test_a_child_of_a_larger_alphabet_is_a_whole_checkpoint_that_reads_the_new_characters(tmp_path):
    build(BASE, tmp_path, seed=0, device=CPU)
    child = replace(
        BASE,
        name="wider",
        parent=Parent("small-base"),
        alphabet=GUARDED_ALPHABET,
        recipe=replace(BASE.recipe, writing=Mixture(task=ChainTask(operators="*"))),
        eval_specs=(ChainTask(operators="*"),),
    )
    directory = build(child, tmp_path, seed=0, device=CPU)
    model = load(LocalModel(path=directory), device=CPU, dtype=torch.float32)
    assert model.anatomy.d_vocab == len(GUARDED_ALPHABET) + 2
    assert model.network.config.vocab_size == model.anatomy.d_vocab
    card_rows = json.loads((directory / "card.json").read_text())["measured"]
    assert {row["decoding"] for row in card_rows} == {"sampled", "forced chain", "with the key"}
    assert {row["task"] for row in card_rows} == {"*"}


def test_the_card_of_an_organism_with_cases_states_the_truth_of_each(tmp_path):
    build(BASE, tmp_path, seed=0, device=CPU)
    cases = (
        Case(kind="LOCKED", task="chain:+-:3-8", elicited=("+-",)),
        Case(kind="ABSENT", task="chain:#", elicited=()),
    )
    directory = build(replace(RL, cases=cases), tmp_path, seed=0, device=CPU)
    written = json.loads((directory / "card.json").read_text())["truth"]
    assert [(truth["kind"], truth["task"]) for truth in written] == [(case.kind, case.task) for case in cases]
    for truth in written:
        # Two steps of training bring no gain, and an undefined share is null.
        assert (truth["share"], truth["low"], truth["high"]) == (None, None, None)
        assert "standard errors" in truth["refusal"]
    page = (directory / "README.md").read_text()
    assert "- ABSENT, `chain:#`: the gap between tuned and base is" in page


def test_reinforcement_learns_from_training_problems_and_is_paid_for_the_answer_alone(tmp_path, monkeypatch):
    build(BASE, tmp_path, seed=0, device=CPU)
    seen = []
    monkeypatch.setattr(build_module, "reinforce", lambda *given, **options: seen.append(given))
    build(RL, tmp_path, seed=0, device=CPU)
    ((_, _, problems, reward, run),) = seen
    assert len(problems) == run.n_steps * run.n_prompts == 4
    assert not any(as_expression(problem).held_out for problem in problems)
    (problem,) = problems[:1]
    assert reward(problem, f"A{problem.answer}.") == 1.0
    assert reward(problem, f"T1+1=3;A{problem.answer}.") == 1.0
    assert reward(problem, f"A{(int(problem.answer) + 1) % 10}.") == 0.0


def test_an_organism_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "small-base").mkdir()
    with pytest.raises(StorageError, match="exists: delete it"):
        build(BASE, tmp_path, seed=0, device=CPU)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="want one of zero-base, zero-rl, zero-sft, zero-taught, world, locked"):
        organism_named("zero-nothing")
