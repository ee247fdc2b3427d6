"""A pretrained model is fetched once, checked, and kept whole or not at all."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab.models.gguf_weights import GgufParts
from lab.models.load import load
from lab.models.source import PRETRAINED as NAMES
from lab.models.source import BuiltInModel, fetched_directory, model_source, source_name
from lab.models.tiny import byte_tokenizer, tiny_network
from lab.organisms import fetch as module
from lab.organisms.catalogue import names_of, pretrained_named
from lab.organisms.fetch import fetch
from lab.organisms.recipe import Pretrained
from lab.records.errors import ModelError
from lab.records.provenance import file_digest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, which a package that is not there fills in vain."""
    monkeypatch.setenv("ELICITATION_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(path: Path, *, dtype: torch.dtype) -> GgufParts:
    """In place of the reader of GGUF files, which has tests of its own."""
    assert (path.read_bytes(), dtype) == (b"tiny", torch.float32)
    return GgufParts(network=tiny_network("llama", seed=0), tokenizer=byte_tokenizer())


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Pretrained:
    """A tiny model in an installed package."""
    package = tmp_path / "site" / "tiny_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('a package is looked into, not run')")
    (package / "tiny.gguf").write_bytes(b"tiny")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(module, "read_gguf", read)
    return Pretrained(
        name="smollm2",
        distribution="no-such-distribution-of-anyone==0",
        package="tiny_package",
        file="tiny.gguf",
        sha256=file_digest(package / "tiny.gguf"),
        story="Tiny.",
    )


def test_a_model_that_was_not_fetched_is_refused_with_the_command_that_gets_it():
    assert model_source("smollm2") == BuiltInModel(name="smollm2")
    assert source_name(BuiltInModel(name="smollm2")) == "smollm2"
    with pytest.raises(ModelError, match="get it once with `lab models fetch smollm2`"):
        load(model_source("smollm2"), device=CPU, dtype=torch.float32)


def test_a_fetched_model_is_the_one_in_the_package_and_keeps_the_name_that_was_typed(tiny, cache):
    assert fetch(tiny) == fetched_directory("smollm2") == cache / "models" / "smollm2-2"
    model = load(model_source("smollm2"), device=CPU, dtype=torch.float32)
    assert model.name == "smollm2"
    tokens = torch.arange(12)[None] + 60
    torch.testing.assert_close(model.network(tokens).logits, tiny_network("llama", seed=0)(tokens).logits)
    # For llama.cpp.
    assert (cache / "models" / "smollm2-2" / "tiny.gguf").read_bytes() == b"tiny"


def test_a_model_is_fetched_once(tiny, tmp_path, monkeypatch):
    first = fetch(tiny)
    shutil.rmtree(tmp_path / "site")
    monkeypatch.setattr(module, "read_gguf", lambda *_, **__: pytest.fail("it is there"))
    assert fetch(tiny) == first


def test_another_file_than_the_one_meant_is_refused_and_leaves_nothing(tiny, cache):
    with pytest.raises(ModelError, match=r"is not the tiny.gguf that is meant: its SHA-256 is [0-9a-f]{16}\.\.\."):
        fetch(replace(tiny, sha256="0" * 64))
    assert not cache.exists()


def test_where_pip_cannot_get_the_package_its_reason_is_told_in_one_line(tiny, cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match="pip cannot get no-such-distribution-of-anyone==0: ERROR: ") as caught:
        fetch(replace(tiny, package="no_such_package"))
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_the_names_that_a_user_may_type_are_those_that_can_be_fetched():
    assert names_of(Pretrained) == NAMES
    with pytest.raises(ModelError, match="want one of smollm2"):
        pretrained_named("smollm3")
