"""`lab export`: one vector to every format, a card beside it, and one clear line for what the user can mend."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lab.models.load import Model, load
from lab.models.source import LocalModel
from lab.provenance import provenance
from probes.site import Site
from steering.cli import main
from steering.edit import Add, apply
from steering.export.export import import_vector
from steering.export.model_facts import facts_of
from steering.export.tensors import save_vector
from steering.vector import SteeringVector

SITE = Site(1)


@pytest.fixture(scope="module")
def model(checkpoints) -> Model:
    return load(LocalModel(path=checkpoints.base), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def vector(model) -> SteeringVector:
    direction = torch.randn(model.anatomy.d_model, generator=torch.Generator().manual_seed(0))
    return SteeringVector({SITE: direction}, {SITE: 3.0}, "drawn at random")


@pytest.fixture
def saved(model, vector, tmp_path) -> Path:
    path = tmp_path / "v.safetensors"
    made_by = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=0)
    save_vector(path, vector, made_by, fitted_on=facts_of(model))
    return path


def lab(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    """(exit status, output, errors) of `lab export`."""
    monkeypatch.setattr(sys, "argv", ["lab", "export", *map(str, words)])
    try:
        main()
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.mark.parametrize("form", ["safetensors", "gguf", "vllm-lens", "layer-table"])
def test_a_file_of_every_format_comes_back_as_the_same_vector(monkeypatch, capsys, saved, vector, tmp_path, form):
    out = tmp_path / "out"
    status, told, _ = lab(monkeypatch, capsys, "--vector", saved, "--format", form, "--out", out, "--dose", 2)
    assert status == 0
    assert str(out) in told
    back = import_vector(out).vector
    assert torch.equal(back.directions[SITE], 2 * vector.directions[SITE])
    card = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert card.startswith("# v\n")
    assert "drawn at random" in card


def test_a_baked_checkpoint_is_the_model_with_the_vector_at_every_token(
    monkeypatch, capsys, saved, vector, model, checkpoints, tmp_path
):
    out = tmp_path / "baked"
    words = ("--vector", saved, "--format", "baked", "--model", checkpoints.base, "--out", out, "--dose", 0.5)
    assert lab(monkeypatch, capsys, *words)[0] == 0
    tokens = model.tokenizer("<3+4?", return_tensors="pt").input_ids
    with torch.no_grad(), apply(model, Add(vector, 0.5)):
        wanted = model.network(input_ids=tokens).logits
    with torch.no_grad():
        came = AutoModelForCausalLM.from_pretrained(out).eval()(input_ids=tokens).logits
    assert torch.allclose(came, wanted, atol=1e-5)


def test_the_card_goes_where_it_is_asked_to(monkeypatch, capsys, saved, tmp_path):
    card = tmp_path / "cards" / "v.md"
    words = ("--vector", saved, "--format", "gguf", "--out", tmp_path / "v.gguf", "--card", card)
    assert lab(monkeypatch, capsys, *words)[0] == 0
    assert "--control-vector" in card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "baked"), "--format baked is written for one model: name it with --model"),
        (("--format", "gguf", "--study", "nowhere"), "cannot read table 'ladder'"),
        (("--format", "gguf", "--dose", "0"), "dose 0.0 writes nothing that can be used"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(monkeypatch, capsys, saved, tmp_path, words, said):
    out = tmp_path / "out"
    status, _, errors = lab(monkeypatch, capsys, "--vector", saved, "--out", out, *words)
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1
    assert not out.exists()
    assert not (tmp_path / "out.md").exists()


def test_nothing_is_overwritten(monkeypatch, capsys, saved, tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    status, _, errors = lab(monkeypatch, capsys, "--vector", saved, "--out", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "exists: choose another --out" in errors
