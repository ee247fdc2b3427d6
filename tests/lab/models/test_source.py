"""What a user types becomes a source, and what cannot is refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.models import source as sources
from lab.models.source import (
    AdapterModel,
    BuiltInModel,
    GgufModel,
    HubModel,
    LocalModel,
    adapter_base,
    model_source,
    shipped_directory,
    shipped_names,
    source_name,
)
from lab.records.errors import ModelError


def adapter(path, base):
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return AdapterModel(path=path)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An installation with two organisms and a folder that is none."""
    for name in ("zero-rl", "zero-base"):
        (tmp_path / "shipped" / name).mkdir(parents=True)
        (tmp_path / "shipped" / name / "config.json").write_text("{}")
    (tmp_path / "shipped" / "__pycache__").mkdir()
    monkeypatch.setattr(sources, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_directory_is_a_local_model(tmp_path):
    assert model_source(str(tmp_path)) == LocalModel(path=tmp_path)


def test_a_directory_with_an_adapter_configuration_is_an_adapter(tmp_path):
    adapter(tmp_path, "org/base")
    assert model_source(str(tmp_path)) == AdapterModel(path=tmp_path)


def test_a_gguf_file_is_known_by_its_ending_in_either_case(tmp_path):
    path = tmp_path / "model.Q4_1.GGUF"
    path.touch()
    assert model_source(str(path)) == GgufModel(path=path)


def test_an_organism_is_known_by_its_name(shipped):
    assert shipped_names() == ("zero-base", "zero-rl")
    assert model_source("zero-rl") == BuiltInModel(name="zero-rl")
    assert shipped_directory("zero-rl") == shipped / "zero-rl"


def test_the_shipped_organisms_can_be_listed_and_are_directories():
    assert all(shipped_directory(name).is_dir() for name in shipped_names())


def test_hub_names_may_carry_a_revision():
    assert model_source("Qwen/Qwen2.5-0.5B") == HubModel(name="Qwen/Qwen2.5-0.5B")
    assert model_source("Qwen/Qwen2.5-0.5B@refs/pr/3") == HubModel(name="Qwen/Qwen2.5-0.5B", revision="refs/pr/3")


@given(
    st.builds(
        HubModel,
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}/[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True),
        revision=st.none() | st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True),
    )
)
def test_the_name_of_a_hub_source_is_what_a_user_would_type_for_it(source):
    assert model_source(source_name(source)) == source


@pytest.mark.parametrize(
    "text", ["", "no-such-thing", "./org/name", "/nowhere/model", "a/b/c", "org/", "~nobody/x", "a b/c"]
)
def test_what_is_no_source_is_refused_in_one_line_with_what_is_accepted(text, shipped):
    with pytest.raises(ModelError) as caught:
        model_source(text)
    message = str(caught.value)
    assert repr(text) in message
    assert "org/name" in message
    assert "zero-base, zero-rl" in message
    assert "\n" not in message


def test_a_missing_gguf_file_is_refused_by_path(tmp_path):
    with pytest.raises(ModelError, match=r"no GGUF file at .*x\.gguf"):
        model_source(str(tmp_path / "x.gguf"))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match="name the directory"):
        model_source(str(path))


def test_an_unknown_organism_is_refused_with_the_known_ones(shipped):
    with pytest.raises(ModelError, match="no built-in model 'zero'; there are: zero-base, zero-rl"):
        shipped_directory("zero")


def test_the_base_of_an_adapter_is_found_beside_it_before_anywhere_else(tmp_path):
    (tmp_path / "base").mkdir()
    found = adapter_base(adapter(tmp_path / "lora", "../base"))
    assert isinstance(found, LocalModel)
    assert found.path.resolve() == (tmp_path / "base").resolve()


def test_the_base_of_an_adapter_may_be_an_organism_or_on_the_hub(tmp_path, shipped):
    assert adapter_base(adapter(tmp_path / "a", "zero-base")) == BuiltInModel(name="zero-base")
    assert adapter_base(adapter(tmp_path / "b", "org/name")) == HubModel(name="org/name")


def test_an_adapter_may_say_of_which_revision_its_base_is(tmp_path):
    made = adapter(tmp_path, "org/base")
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": "abc"}))
    assert adapter_base(made) == HubModel(name="org/base", revision="abc")


def test_adapters_that_are_each_others_base_are_refused(tmp_path):
    first = adapter(tmp_path / "a", "../b")
    adapter(tmp_path / "b", "../a")
    with pytest.raises(ModelError, match="its own base"):
        adapter_base(first)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_configuration_that_names_no_base_is_refused(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        adapter_base(AdapterModel(path=tmp_path))


def test_an_adapter_whose_base_is_nowhere_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"base of adapter .*'gone'"):
        adapter_base(adapter(tmp_path / "a", "gone"))


def test_importing_the_module_loads_neither_torch_nor_transformers():
    program = "import lab.models.source, sys; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"
