"""Building adapters, on an organism in place of a pretrained model and with recipes of a few steps."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab.organisms.adapters import AdaptedModel, Distilled, EvalSpec, Rewarded
from lab.organisms.build_adapter import adapted_named, build, ended

from lab.models.load import load
from lab.models.source import AdapterModel, model_source, shipped_directory
from lab.organisms import adapter_card as card
from lab.organisms import build_adapter as build_module
from lab.organisms.recipe import Mixture
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import Document, SupervisedRun, with_low_rank
from lab.records.errors import ModelError, StorageError
from lab.sampling.decoding import Decoding

CPU = torch.device("cpu")
# TRL, accelerate and datasets warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

EXAM = EvalSpec(task="chain:+-:3-3", decoding=Decoding(max_new_tokens=16))
DISTILLED = AdaptedModel(
    name="small-distilled",
    parent="zero-base",
    rank=2,
    recipe=Distilled(writing=Mixture(), run=SupervisedRun(n_steps=2, batch_size=4, n_parts=1, warmup_steps=0)),
    story="Two steps.",
    eval_specs=(EXAM,),
    kind="TAUGHT",
    truth=0.0,
)
REWARDED = replace(
    DISTILLED,
    name="small-rewarded",
    recipe=Rewarded(
        task="chain:+-:3-3",
        run=GrpoRun(n_steps=2, n_prompts=2, n_rollouts=4, max_new_tokens=16, warmup_steps=0),
        stop=(";",),
    ),
    truth=None,
)


@pytest.fixture(autouse=True)
def _short_cards(monkeypatch):
    monkeypatch.setattr(card, "N_PROBLEMS", 4)
    monkeypatch.setattr(card, "N_SAMPLES", 2)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


@pytest.mark.parametrize("adapted", [DISTILLED, REWARDED], ids=lambda adapted: adapted.name)
def test_an_adapter_changes_the_linear_maps_of_the_blocks_of_the_parent_that_it_names_and_nothing_else(
    adapted, tmp_path
):
    home = build(adapted, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    assert home == tmp_path / adapted.name
    assert json.loads((home / "adapter_config.json").read_text())["base_model_name_or_path"] == "zero-base"
    parent = weights(load(model_source("zero-base"), device=CPU, dtype=torch.float32))
    tuned = weights(load(AdapterModel(path=home), device=CPU, dtype=torch.float32))
    changed = {name for name in parent if not torch.equal(parent[name], tuned[name])}
    maps = {name for name in parent if name.startswith("model.layers.") and "_proj." in name}
    assert changed <= maps
    # Rewards that are equal within every group teach nothing.
    assert changed == maps or adapted is REWARDED
    assert sorted(path.name for path in tmp_path.iterdir()) == [".work", adapted.name]
    assert not any((tmp_path / ".work").iterdir())


def test_the_card_tells_how_it_was_made_and_measures_both_models(tmp_path):
    home = build(DISTILLED, tmp_path, seed=3, device=CPU, dtype=torch.float32)
    told = json.loads((home / "card.json").read_text())
    assert (told["name"], told["parent"], told["seed"]) == ("small-distilled", "zero-base", 3)
    assert told["recipe"]["run"]["n_steps"] == 2
    assert {row["model"] for row in told["measured"]} == {"zero-base", "small-distilled"}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in told["measured"])
    page = (home / "README.md").read_text()
    assert "`lab pairs build small-distilled --seed 3 --device cpu`" in page
    assert "the elicited share of its gain over `zero-base` is 0" in page


def test_a_parent_that_lies_beside_it_has_its_own_name_on_the_card(tmp_path):
    shutil.copytree(shipped_directory("zero-base"), tmp_path / "zero-base")
    home = build(DISTILLED, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    told = json.loads((home / "card.json").read_text())
    assert {row["model"] for row in told["measured"]} == {"zero-base", "small-distilled"}


def test_the_same_seed_gives_the_same_adapter(tmp_path):
    files = [
        build(DISTILLED, tmp_path / name, seed=0, device=CPU, dtype=torch.float32) / "adapter_model.safetensors"
        for name in ("one", "other")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


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


def test_what_exists_is_not_built_again_and_what_has_no_definition_is_named(tmp_path):
    (tmp_path / DISTILLED.name).mkdir()
    with pytest.raises(StorageError, match="delete it to build small-distilled again"):
        build(DISTILLED, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    with pytest.raises(ModelError, match="no adapted model is called 'smollm2-world2': want one of smollm2-rl"):
        adapted_named("smollm2-world2")


def test_a_fresh_adapter_changes_nothing_and_leaves_the_global_generator_alone():
    model = load(model_source("zero-base"), device=CPU, dtype=torch.float32)
    tokens = torch.arange(3, 15)[None]
    before, state = model.network(tokens).logits, torch.get_rng_state()
    network = with_low_rank(model.network, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network(tokens).logits, before)
    assert {tensor.requires_grad for name, tensor in network.named_parameters() if "lora" in name} == {True}
    assert not any(tensor.requires_grad for name, tensor in network.named_parameters() if "lora" not in name)


def test_a_document_ends_with_the_end_token():
    tokenizer = load(model_source("zero-base"), device=CPU, dtype=torch.float32).tokenizer
    assert ended(Document(prompt="<1+1?", completion="A2"), tokenizer) == Document(prompt="<1+1?", completion="A2.")


def test_a_figure_of_the_card_is_the_share_of_verdicts(tmp_path):
    model = load(model_source("zero-rl"), device=CPU, dtype=torch.float32)
    rows = {row.measure: row.value for row in card.examine(model, EXAM)}
    assert set(rows) == {"strict, sampled", "answer, sampled", "strict, greedy", "pass@2"}
    assert rows["strict, sampled"] <= rows["pass@2"]
    assert all(value * 8 == np.round(value * 8) for value in rows.values())
