"""Building organisms, with recipes of a few steps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.errors import ModelError, StorageError
from lab.models.load import load
from lab.models.source import LocalModel
from lab.organisms import card
from lab.organisms.build import build, organism_named
from lab.organisms.recipe import AnswerFirst, Architecture, Mixture, Organism, Reinforced, Supervised, documents
from lab.organisms.tokenizer import chain_tokenizer
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import SupervisedRun
from lab.tasks.chain_documents import CAREFUL
from lab.tasks.chain_verifier import parse, verify
from lab.tasks.chain_world import ALPHABET, ChainTask, as_expression, as_problem
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
    parent="small-base",
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


def test_an_organism_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "small-base").mkdir()
    with pytest.raises(StorageError, match="exists: delete it"):
        build(BASE, tmp_path, seed=0, device=CPU)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="want one of zero-base, zero-rl, zero-sft, zero-taught"):
        organism_named("zero-nothing")
