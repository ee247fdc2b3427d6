"""GGUF control vectors: what llama.cpp asks of them, files of other programs, and refusals."""

import struct

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from lab.records.errors import VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.gguf import Gguf
from steering.export.vector_file import ModelFacts, Origin
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7)
FACTS = ModelFacts(name="toy", digest="0", tokenizer_digest="1", family="qwen2", d_model=4, n_layers=8)
ORIGIN = Origin(made_by=MADE_BY, fitted_on=FACTS)


def vector_at(*sites):
    return SteeringVector(
        {site: torch.arange(4.0) + site.layer for site in sites}, dict.fromkeys(sites, 1.5), "by hand"
    )


def foreign(path, tensors, *, architecture="controlvector", hint="llama", floats=()):
    """A file as repeng writes it, and with `floats` as EasySteer does."""
    writer = GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, value in floats:
        writer.add_float32(f"controlvector.{name}", value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_file_is_what_llama_cpp_reads(tmp_path):
    Gguf().write(tmp_path / "vector.gguf", vector_at(Site(1), Site(6), Site(4, "resid_pre")), ORIGIN)
    reader = GGUFReader(tmp_path / "vector.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "qwen2"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert [(tensor.name, tensor.tensor_type.name, tensor.shape.tolist()) for tensor in reader.tensors] == [
        ("direction.1", "F32", [4]),
        ("direction.3", "F32", [4]),
        ("direction.6", "F32", [4]),
    ]
    assert [tensor.data.tolist() for tensor in reader.tensors] == [[1, 2, 3, 4], [4, 5, 6, 7], [6, 7, 8, 9]]


def test_beside_the_known_keys_there_is_one_of_our_own(tmp_path):
    Gguf().write(tmp_path / "vector.gguf", vector_at(Site(1)), ORIGIN)
    fields = {name for name in GGUFReader(tmp_path / "vector.gguf").fields if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture",
        "controlvector.model_hint",
        "controlvector.layer_count",
        "controlvector.steering_vector",
    }


def test_equal_vectors_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        Gguf().write(tmp_path / name, vector_at(Site(1), Site(2)), ORIGIN)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("site", [Site(0), Site(1, "resid_pre")])
def test_the_output_of_block_0_is_refused_because_llama_cpp_cannot_reach_it(site, tmp_path):
    with pytest.raises(
        VectorError, match=r"blocks\.0\.hook_resid_post would be direction\.0, which llama\.cpp refuses"
    ):
        Gguf().write(tmp_path / "vector.gguf", vector_at(site, Site(3)), ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_what_comes_before_block_0_is_refused(tmp_path):
    with pytest.raises(
        VectorError, match=r"blocks\.0\.hook_resid_pre is no block's output, and llama\.cpp adds to those"
    ):
        Gguf().write(tmp_path / "vector.gguf", vector_at(Site(0, "resid_pre")), ORIGIN)


def test_a_file_without_a_model_is_refused(tmp_path):
    with pytest.raises(VectorError, match="names the family of its model: say which model"):
        Gguf().write(tmp_path / "vector.gguf", vector_at(Site(1)), Origin(made_by=MADE_BY))


def test_files_of_repeng_and_easysteer_are_read(tmp_path):
    rows = {"direction.0": np.arange(3, dtype=np.float32), "direction.7": -np.ones(3, dtype=np.float32)}
    foreign(tmp_path / "happy.gguf", rows, floats=[("explained_variance", 0.5)])
    found = Gguf.read(tmp_path / "happy.gguf")
    assert found.origin is None
    assert found.vector.description == "GGUF control vector happy.gguf, fitted on llama"
    # repeng counts block 0 too.
    assert found.vector.sites == (Site(0), Site(7))
    assert found.vector.directions[Site(7)].tolist() == [-1, -1, -1]
    assert all(np.isnan(norm) for norm in found.vector.residual_norms.values())


@pytest.mark.parametrize(
    ("tensors", "architecture", "reason"),
    [
        ({"direction.1": np.ones(3, np.float32)}, "llama", "its architecture is 'llama', want 'controlvector'"),
        ({"direction.1": np.ones(3, np.float16)}, "controlvector", "direction.1 is F16 of 1 axes, want F32 of 1 axis"),
        ({"direction.1": np.ones((1, 3), np.float32)}, "controlvector", "direction.1 is F32 of 2 axes"),
        ({"direction.x": np.ones(3, np.float32)}, "controlvector", "'direction.x', want direction.N"),
        ({"direction.-1": np.ones(3, np.float32)}, "controlvector", "'direction.-1', want direction.N"),
        ({"direction.01": np.ones(3, np.float32)}, "controlvector", "'direction.01', want direction.N"),
        ({"direction.1": np.zeros(3, np.float32)}, "controlvector", "all zero, which steers nothing"),
        ({"direction.1": np.array([1, np.nan], np.float32)}, "controlvector", "NaN or infinity"),
        (
            {"direction.1": np.ones(3, np.float32), "direction.2": np.ones(4, np.float32)},
            "controlvector",
            r"directions of widths \[3, 4\]",
        ),
    ],
)
def test_other_gguf_files_are_refused(tensors, architecture, reason, tmp_path):
    foreign(tmp_path / "file.gguf", tensors, architecture=architecture)
    with pytest.raises(VectorError, match=f"cannot read a control vector from .*: .*{reason}"):
        Gguf.read(tmp_path / "file.gguf")


def test_a_key_of_another_type_is_refused(tmp_path):
    Gguf().write(tmp_path / "vector.gguf", vector_at(Site(1)), ORIGIN)
    key = b"controlvector.model_hint"
    whole = (tmp_path / "vector.gguf").read_bytes()
    # Type 8 is a string; the same bytes as an array of 8-bit integers are none.
    old = key + struct.pack("<I", 8) + struct.pack("<Q", 5)
    assert old in whole
    broken = whole.replace(old, key + struct.pack("<I", 10))
    (tmp_path / "vector.gguf").write_bytes(broken)
    with pytest.raises(VectorError, match="cannot read a control vector"):
        Gguf.read(tmp_path / "vector.gguf")
