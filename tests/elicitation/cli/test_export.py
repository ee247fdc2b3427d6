"""`lab export`: one vector to every format, a card beside it, and one clear line for what the user can mend."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import CommitOperationAdd
from transformers import AutoModelForCausalLM

from lab.models.load import Model, load
from lab.models.source import LocalModel
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.edit import Add, apply
from steering.export.export import import_vector
from steering.export.tensors import save_vector
from steering.export.vector_file import facts_of
from steering.vector import SteeringVector
from tests.conftest import one_line

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


@pytest.mark.parametrize("form", ["safetensors", "gguf", "vllm-lens", "layer-table"])
def test_a_file_of_every_format_comes_back_as_the_same_vector(lab, saved, vector, tmp_path, form):
    out = tmp_path / "out"
    status, told, _ = lab("export", "--vector", saved, "--format", form, "--out", out, "--dose", 2)
    assert status == 0
    assert str(out) in told
    back = import_vector(out).vector
    assert torch.equal(back.directions[SITE], 2 * vector.directions[SITE])
    card = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert card.startswith("# v\n")
    assert "drawn at random" in card


def test_a_baked_checkpoint_is_the_model_with_the_vector_at_every_token(
    lab, saved, vector, model, checkpoints, tmp_path
):
    out = tmp_path / "baked"
    words = ("--vector", saved, "--format", "baked", "--model", checkpoints.base, "--out", out, "--dose", 0.5)
    assert lab("export", *words)[0] == 0
    tokens = model.tokenizer("<3+4?", return_tensors="pt").input_ids
    with torch.no_grad(), apply(model, Add(vector, 0.5)):
        wanted = model.network(input_ids=tokens).logits
    with torch.no_grad():
        came = AutoModelForCausalLM.from_pretrained(out).eval()(input_ids=tokens).logits
    assert torch.allclose(came, wanted, atol=1e-5)


def test_the_card_goes_where_it_is_asked_to(lab, saved, tmp_path):
    card = tmp_path / "cards" / "v.md"
    words = ("--vector", saved, "--format", "gguf", "--out", tmp_path / "v.gguf", "--card", card)
    assert lab("export", *words)[0] == 0
    assert "--control-vector" in card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "baked"), "a baked checkpoint is written for one model: name it with --model"),
        (("--format", "gguf", "--study", "nowhere"), "nowhere holds no ladder: want the --out of a study"),
        (("--format", "gguf", "--dose", "0"), "dose 0.0 writes nothing that can be used"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(lab, saved, tmp_path, words, said):
    out = tmp_path / "out"
    status, _, errors = lab("export", "--vector", saved, "--out", out, *words)
    assert status == 2
    assert said in one_line(errors)
    assert not out.exists()
    assert not (tmp_path / "out.md").exists()


def test_nothing_is_overwritten(lab, saved, tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    status, _, errors = lab("export", "--vector", saved, "--out", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "exists: choose another --out" in one_line(errors)


@pytest.fixture
def uploads(monkeypatch) -> list[tuple[str, bool, dict[str, bytes]]]:
    """(repository, whether private, files) of every commit that the hub's client, replaced, was asked for."""
    made: list[tuple[str, bool, dict[str, bytes]]] = []

    class Api:
        def __init__(self, *, token: str) -> None:
            assert token == "hf_invented"

        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            assert exist_ok
            made.append((name, private, {}))

        def create_commit(self, name: str, added: list[CommitOperationAdd], *, commit_message: str) -> SimpleNamespace:
            for file in added:
                with file.as_file() as stream:
                    made[-1][2][file.path_in_repo] = stream.read()
            return SimpleNamespace(commit_url=f"https://hub.invalid/{name}/commit/1")

    monkeypatch.setattr("steering.export.publish.HfApi", Api)
    monkeypatch.setattr("steering.export.publish.get_token", lambda: "hf_invented")
    return made


def test_a_file_is_pushed_with_a_card_that_names_it_as_the_hub_does(lab, saved, tmp_path, uploads):
    out = tmp_path / "v.gguf"
    status, told, _ = lab("export", "--vector", saved, "--format", "gguf", "--out", out, "--push", "me/opening")
    assert status == 0
    [(name, private, files)] = uploads
    assert (name, private, sorted(files)) == ("me/opening", True, ["README.md", "v.gguf"])
    assert files["v.gguf"] == out.read_bytes()
    assert f"to me/opening: v.gguf ({out.stat().st_size} bytes), and the card as README.md\n" in told
    assert "pushed: https://hub.invalid/me/opening/commit/1\n" in told
    card = files["README.md"].decode()
    assert "--control-vector v.gguf" in card
    assert str(tmp_path) not in card


def test_a_pushed_checkpoint_is_loaded_by_the_name_of_its_repository(lab, saved, checkpoints, tmp_path, uploads):
    words = ("--format", "baked", "--model", checkpoints.base, "--out", tmp_path / "baked", "--push", "me/opening")
    assert lab("export", "--vector", saved, *words)[0] == 0
    [(_, _, files)] = uploads
    assert {"model.safetensors", "config.json", "steering_vector.json", "README.md"} <= set(files)
    assert 'AutoModelForCausalLM.from_pretrained("me/opening")' in files["README.md"].decode()


def test_nothing_is_pushed_unless_it_is_asked_for(lab, saved, tmp_path, uploads):
    assert lab("export", "--vector", saved, "--format", "gguf", "--out", tmp_path / "v.gguf")[0] == 0
    assert uploads == []


def test_a_push_without_a_token_is_one_line_and_writes_nothing(lab, saved, tmp_path, uploads, monkeypatch):
    monkeypatch.setattr("steering.export.publish.get_token", lambda: None)
    status, _, errors = lab("export", "--vector", saved, "--out", tmp_path / "v.gguf", "--push", "me/opening")
    assert status == 2
    assert "no token for the Hugging Face hub, so nothing is written" in one_line(errors)
    assert not (tmp_path / "v.gguf").exists()
    assert uploads == []
