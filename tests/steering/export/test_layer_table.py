"""Layer tables: the tensor that programs with pickles of their own convert."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.records.errors import VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.tensors import TABLE_HEADER, LayerTable
from steering.export.vector_file import ModelFacts, Origin
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7)
FACTS = ModelFacts(name="toy", digest="0", tokenizer_digest="1", family="qwen2", d_model=2, n_layers=4)
ORIGIN = Origin(made_by=MADE_BY, fitted_on=FACTS)


def test_the_table_has_a_row_for_every_block(tmp_path):
    vector = SteeringVector(
        {Site(0): torch.ones(2), Site(3, "resid_pre"): 2 * torch.ones(2)}, {Site(0): 1.0, Site(3, "resid_pre"): 1.0}, ""
    )
    LayerTable().write(tmp_path / "x.safetensors", vector, ORIGIN)
    assert load_file(tmp_path / "x.safetensors")["directions"].tolist() == [[1, 1], [0, 0], [2, 2], [0, 0]]


def test_the_documented_lines_make_the_pickle_where_it_is_served(tmp_path, monkeypatch):
    vector = SteeringVector({Site(2): torch.ones(2)}, {Site(2): 1.0}, "")
    LayerTable().write(tmp_path / "x.safetensors", vector, ORIGIN)
    (code,) = re.findall(r"```python\n(.*)```", LayerTable().use(tmp_path / "x.safetensors", ""), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    table = torch.load(tmp_path / "vector.pt", weights_only=True)
    assert table.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


def test_a_direction_of_zeros_is_still_a_direction(tmp_path):
    vector = SteeringVector({Site(2): torch.zeros(2)}, {Site(2): 1.0}, "")
    LayerTable().write(tmp_path / "x", vector, ORIGIN)
    assert LayerTable.read(tmp_path / "x").vector.sites == (Site(2),)


def test_other_safetensors_are_no_tables(tmp_path):
    save_file({"directions": torch.ones(2, 2)}, tmp_path / "x")
    assert LayerTable.read(tmp_path / "x") is None
    save_file({"directions": torch.ones(2)}, tmp_path / "x", metadata={TABLE_HEADER: "{}"})
    with pytest.raises(VectorError, match=r"directions is torch\.float32 of 1 axes, want float32 of 2"):
        LayerTable.read(tmp_path / "x")
    assert LayerTable.read(tmp_path / "absent") is None


def test_a_table_needs_the_number_of_layers(tmp_path):
    vector = SteeringVector({Site(2): torch.zeros(2)}, {Site(2): 1.0}, "")
    with pytest.raises(VectorError, match="say which model the vector was fitted on"):
        LayerTable().write(tmp_path / "x", vector, Origin(made_by=MADE_BY))
