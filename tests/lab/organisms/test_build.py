"""Building organisms, with recipes of a few steps; adapters are built on a small model in place of a pretrained one."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import load
from lab.models.source import AdapterModel, BuiltInModel, LocalModel, model_source, shipped_directory
from lab.organisms import build as build_module
from lab.organisms import card as examine_module
from lab.organisms.build import build, chain_tokenizer, ended, parent_source, starting_network
from lab.organisms.card import Size, examine
from lab.organisms.catalogue import CATALOGUE, organism_named
from lab.organisms.recipe import (
    AnswerFirst,
    Architecture,
    Case,
    EvalSpec,
    FromScratch,
    LowRank,
    Mixture,
    Organism,
    Parent,
    Reinforced,
    Supervised,
    Tuned,
    documents,
)
from lab.post_training.trainers import Document, GrpoRun, SupervisedRun, with_low_rank
from lab.records.errors import ModelError, StorageError
from lab.sampling.trace import Decoding
from lab.tasks.chain import ALPHABET, CAREFUL, GUARDED_ALPHABET, as_expression, as_problem, parse, verify
from lab.tasks.problem import Problem
from lab.tasks.source import ChainTask

CPU = torch.device("cpu")
# TRL, accelerate and datasets warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = Architecture(d_model=16, n_layers=1, n_heads=2, d_mlp=16)
PRETRAINING = Supervised(writing=Mixture(), run=SupervisedRun(n_steps=3, batch_size=8, loss_on_prompt=True))
BASE = Organism(name="small-base", recipe=FromScratch(lesson=PRETRAINING, architecture=SMALL), story="Three steps.")
REWARDED = Reinforced(run=GrpoRun(n_steps=2, n_prompts=2, n_rollouts=4, max_new_tokens=8))
RL = Organism(name="small-rl", recipe=Tuned(parent=Parent("small-base"), lesson=REWARDED), story="Two steps.")
SPEC = EvalSpec(task="chain:+-:3-3", decoding=Decoding(max_new_tokens=16))
DISTILLED = Organism(
    name="small-distilled",
    recipe=LowRank(
        parent=Parent("zero-base", seed=0),
        rank=2,
        lesson=Supervised(writing=Mixture(), run=SupervisedRun(n_steps=2, batch_size=4, n_parts=1, warmup_steps=0)),
    ),
    story="Two steps.",
    eval_specs=(SPEC,),
    cases=(Case(kind="SHARPENED", task=SPEC.task, elicited=("+-",)),),
)
ADAPTED_BY_REWARD = replace(
    DISTILLED,
    name="small-rewarded",
    recipe=replace(
        DISTILLED.recipe,
        lesson=Reinforced(
            task="chain:+-:3-3",
            run=GrpoRun(n_steps=2, n_prompts=2, n_rollouts=4, max_new_tokens=16, warmup_steps=0),
            stop=(";",),
        ),
    ),
)


@pytest.fixture(autouse=True)
def _short_cards(monkeypatch):
    monkeypatch.setattr(examine_module, "SMALL", Size(4, 1))
    monkeypatch.setattr(examine_module, "LARGE", Size(4, 2))


def still(recipe: Tuned) -> Tuned:
    """The same, without learning."""
    return replace(recipe, lesson=replace(REWARDED, run=replace(REWARDED.run, learning_rate=0.0)))


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
    assert written["command"] == "lab models build small-base --seed 0 --device cpu"
    assert written["recipe"]["lesson"]["run"]["n_steps"] == 3
    assert (written["parent"], written["truth"], written["old_task"]) == (None, [], "chain:+-:3-8")
    assert "| small-base | `chain:+-:3-8` | all (4) | sampled |" in (directory / "README.md").read_text()
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
    tuned = load(LocalModel(path=build(STILL, tmp_path, seed=0, device=CPU)), device=CPU, dtype=torch.float32)
    for name, tensor in parent.network.state_dict().items():
        assert torch.equal(tensor, tuned.network.state_dict()[name])


@pytest.fixture
def _catalogued(monkeypatch):
    """The small base can be looked up by name."""
    monkeypatch.setitem(CATALOGUE, BASE.name, BASE)


def weights(directory):
    return load(LocalModel(path=directory), device=CPU, dtype=torch.float32).network.state_dict()


STILL = replace(RL, recipe=still(RL.recipe))


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
    assert written["command"] == "lab models build small-rl --seed 1 --device cpu"
    assert "from `small-base-1`." in (directory / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("_catalogued")
def test_a_parent_of_a_named_seed_is_built_with_that_one(tmp_path):
    child = replace(STILL, recipe=replace(STILL.recipe, parent=Parent("small-base", seed=0)))
    directory = build(child, tmp_path, seed=4, device=CPU)
    assert {path.name for path in tmp_path.iterdir()} == {"small-rl-4", "small-base", ".work"}
    assert json.loads((directory / "card.json").read_text())["parent"] == "small-base"
    assert json.loads((tmp_path / "small-base" / "card.json").read_text())["seed"] == 0


def test_a_parent_comes_from_beside_then_from_the_wheel_and_else_is_built(tmp_path, monkeypatch):
    built = []

    def noted(organism, out, *, seed, device, watch):
        built.append((organism.name, seed))
        return out / "made"

    monkeypatch.setattr(build_module, "build", noted)
    shipped = BuiltInModel(name="zero-base")
    assert parent_source(Parent("zero-base"), tmp_path, 0, CPU) == shipped
    assert parent_source(Parent("zero-base", seed=0), tmp_path, 5, CPU) == shipped
    assert parent_source(Parent("smollm2", seed=0), tmp_path, 5, CPU) == BuiltInModel(name="smollm2")
    (tmp_path / "zero-base").mkdir()
    assert parent_source(Parent("zero-base"), tmp_path, 0, CPU) == LocalModel(path=tmp_path / "zero-base")
    assert not built
    (tmp_path / "made").mkdir()
    for parent, seed in ((Parent("zero-base"), 97), (Parent("zero-base", seed=98), 0)):
        assert parent_source(parent, tmp_path, seed, CPU) == LocalModel(path=tmp_path / "made")
    assert built == [("zero-base", 97), ("zero-base", 98)]


def test_a_parent_that_nobody_defined_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="no organism is called 'small-base'"):
        build(RL, tmp_path, seed=0, device=CPU)


def test_new_characters_get_rows_of_their_own_behind_the_parents(tmp_path):
    directory = build(BASE, tmp_path, seed=0, device=CPU)
    recipe = Tuned(parent=Parent("small-base"), lesson=PRETRAINING, alphabet=GUARDED_ALPHABET)
    tokenizer = chain_tokenizer(GUARDED_ALPHABET)
    first, again, other = (
        starting_network(
            recipe, load(LocalModel(path=directory), device=CPU, dtype=torch.float32), tokenizer, seed=seed
        ).state_dict()["model.embed_tokens.weight"]
        for seed in (0, 0, 1)
    )
    old = weights(directory)["model.embed_tokens.weight"]
    assert len(first) == len(old) + 2 == len(tokenizer)
    assert torch.equal(first[: len(old)], old)
    assert torch.equal(first, again)
    assert not torch.equal(first[len(old) :], other[len(old) :])
    assert (first[len(old) :].norm(dim=1) > 0).all()


@pytest.mark.slow
def test_a_child_of_a_larger_alphabet_is_a_whole_checkpoint_that_reads_the_new_characters(tmp_path):
    build(BASE, tmp_path, seed=0, device=CPU)
    lesson = replace(PRETRAINING, writing=Mixture(task=ChainTask(operators="*")))
    child = replace(
        BASE,
        name="wider",
        recipe=Tuned(parent=Parent("small-base"), lesson=lesson, alphabet=GUARDED_ALPHABET),
        eval_specs=(EvalSpec(task="chain:*:3-8"),),
    )
    directory = build(child, tmp_path, seed=0, device=CPU)
    model = load(LocalModel(path=directory), device=CPU, dtype=torch.float32)
    assert model.anatomy.d_vocab == len(GUARDED_ALPHABET) + 2
    assert model.network.config.vocab_size == model.anatomy.d_vocab
    card_rows = json.loads((directory / "card.json").read_text())["measured"]
    assert {row["decoding"] for row in card_rows} == {"sampled", "forced chain", "with the key"}
    assert {row["task"] for row in card_rows} == {"chain:*:3-8"}


@pytest.mark.slow
def test_the_card_of_an_organism_with_cases_states_the_truth_of_each(tmp_path):
    build(BASE, tmp_path, seed=0, device=CPU)
    cases = (
        Case(kind="LOCKED", task="chain:+-:3-8", elicited=("+-",)),
        Case(kind="ABSENT", task="chain:#:3-8", elicited=()),
    )
    directory = build(replace(RL, cases=cases), tmp_path, seed=0, device=CPU)
    written = json.loads((directory / "card.json").read_text())["truth"]
    assert [(truth["kind"], truth["task"]) for truth in written] == [(case.kind, case.task) for case in cases]
    for truth in written:
        # Two steps of training bring no gain, and an undefined share is null.
        assert (truth["share"], truth["low"], truth["high"]) == (None, None, None)
        assert "standard errors" in truth["refusal"]
    page = (directory / "README.md").read_text()
    assert "- ABSENT, `chain:#:3-8`: the gap between tuned and base is" in page


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


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


@pytest.mark.parametrize("adapted", [DISTILLED, ADAPTED_BY_REWARD], ids=lambda adapted: adapted.name)
def test_an_adapter_changes_the_linear_maps_of_the_blocks_of_the_parent_that_it_names_and_nothing_else(
    adapted, tmp_path
):
    home = build(adapted, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    assert home == tmp_path / adapted.name
    assert json.loads((home / "adapter_config.json").read_text())["base_model_name_or_path"] == "zero-base"
    parent = tensors(load(model_source("zero-base"), device=CPU, dtype=torch.float32))
    tuned = tensors(load(AdapterModel(path=home), device=CPU, dtype=torch.float32))
    changed = {name for name in parent if not torch.equal(parent[name], tuned[name])}
    maps = {name for name in parent if name.startswith("model.layers.") and "_proj." in name}
    assert changed <= maps
    # Rewards that are equal within every group teach nothing.
    assert changed == maps or adapted is ADAPTED_BY_REWARD
    assert sorted(path.name for path in tmp_path.iterdir()) == [".work", adapted.name]
    assert not any((tmp_path / ".work").iterdir())


def test_the_card_tells_how_it_was_made_and_measures_both_models(tmp_path):
    home = build(DISTILLED, tmp_path, seed=3, device=CPU, dtype=torch.float32)
    told = json.loads((home / "card.json").read_text())
    assert (told["name"], told["parent"], told["seed"]) == ("small-distilled", "zero-base", 3)
    assert told["recipe"]["lesson"]["run"]["n_steps"] == 2
    assert home == tmp_path / "small-distilled-3"
    assert {row["model"] for row in told["measured"]} == {"zero-base", "small-distilled-3"}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in told["measured"])
    page = (home / "README.md").read_text()
    assert "`lab models build small-distilled --seed 3 --device cpu`" in page
    assert "a low-rank adapter (rank 2) on `zero-base`." in page
    (share,) = told["truth"]
    assert (share["kind"], share["share"]) == ("SHARPENED", None), "two steps bring no gain"


def test_a_parent_that_lies_beside_it_has_its_own_name_on_the_card(tmp_path):
    shutil.copytree(shipped_directory("zero-base"), tmp_path / "zero-base")
    home = build(DISTILLED, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    told = json.loads((home / "card.json").read_text())
    assert {row["model"] for row in told["measured"]} == {"zero-base", "small-distilled"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter(tmp_path):
    files = [
        build(DISTILLED, tmp_path / name, seed=0, device=CPU, dtype=torch.float32) / "adapter_model.safetensors"
        for name in ("one", "other")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_build_that_stopped_after_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "save_low_rank", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(DISTILLED, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    assert not (tmp_path / DISTILLED.name).exists()
    steps = list(tmp_path.glob(".work/*/trainer/checkpoint-2"))
    assert len(steps) == 1
    again = build(DISTILLED, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    whole = build(DISTILLED, tmp_path / "whole", seed=0, device=CPU, dtype=torch.float32)
    name = "adapter_model.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()


def stopped(*_, **__):
    raise KeyboardInterrupt


def test_a_fresh_adapter_changes_nothing_and_leaves_the_global_generator_alone():
    model = load(model_source("zero-base"), device=CPU, dtype=torch.float32)
    tokens = torch.arange(3, 15)[None]
    before, state = model.network(tokens).logits, torch.get_rng_state()
    network = with_low_rank(model.network, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network(tokens).logits, before)
    assert {tensor.requires_grad for name, tensor in network.named_parameters() if "lora" in name} == {True}
    assert not any(tensor.requires_grad for name, tensor in network.named_parameters() if "lora" not in name)


def test_a_document_ends_with_the_end_token_once():
    tokenizer = load(model_source("zero-base"), device=CPU, dtype=torch.float32).tokenizer
    for written in ("A2", "A2."):
        assert ended(Document(prompt="<1+1?", completion=written), tokenizer).completion == "A2."


def test_a_figure_of_an_adapters_card_is_the_share_of_verdicts():
    model = load(model_source("zero-rl"), device=CPU, dtype=torch.float32)
    found = examine(model, DISTILLED)
    values = {(row.decoding, row.measure): row.value for row in found.rows}
    assert set(values) == {("sampled", "strict"), ("sampled", "answer"), ("greedy", "strict"), ("sampled", "pass@2")}
    assert values["sampled", "strict"] == found.rates[SPEC.task].mean() <= values["sampled", "pass@2"]
    assert all(value * 8 == np.round(value * 8) for value in values.values())
