"""vllm-lens JSON: the fields its model validates, an independent decoding, files of its own, and refusals."""

import base64
import json
import struct

import pytest
import torch

from lab.records.errors import VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.vector_file import Origin
from steering.export.vllm_lens import VllmLens
from steering.vector import SteeringVector

ORIGIN = Origin(made_by=provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7))
VECTOR = SteeringVector(
    {Site(0): torch.tensor([1.0, 2.5]), Site(4): torch.tensor([-1.0, 0.125])}, {Site(0): 1.0, Site(4): 2.0}, "by hand"
)


def request(**changes):
    """As vllm-lens 2026 dumps a vector, without its compression."""
    told = {
        "activations": {
            "data": base64.b64encode(struct.pack("<4f", 1, 2, 3, 4)).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": [2, 2],
        },
        "layer_indices": [3, 5],
        "scale": 0.5,
        "norm_match": False,
        "position_indices": None,
    }
    return json.dumps(told | changes)


def test_the_json_says_what_vllm_lens_asks(tmp_path):
    VllmLens().write(tmp_path / "vector.json", VECTOR, ORIGIN)
    told = json.loads((tmp_path / "vector.json").read_text())
    assert struct.unpack("<4f", base64.b64decode(told["activations"]["data"])) == (1.0, 2.5, -1.0, 0.125)
    assert told["activations"]["shape"] == [2, 2]
    # No `compression`: vllm-lens then takes the bytes as they are.
    assert told["activations"].keys() == {"data", "dtype", "original_dtype", "shape"}
    assert (told["layer_indices"], told["scale"], told["norm_match"]) == ([0, 4], 1.0, False)


def test_a_file_of_vllm_lens_is_read_with_its_scale(tmp_path):
    (tmp_path / "vector.json").write_text(request())
    found = VllmLens.read(tmp_path / "vector.json")
    assert found.origin is None
    assert {site: row.tolist() for site, row in found.vector.directions.items()} == {
        Site(3): [0.5, 1],
        Site(5): [1.5, 2],
    }


@pytest.mark.parametrize(("dtype", "stored"), [(torch.bfloat16, "int16"), (torch.float16, "float16")])
def test_half_precision_is_read_as_it_was(dtype, stored, tmp_path):
    rows = torch.tensor([[1.5, -2.0], [0.25, 96.0]], dtype=dtype)
    data = base64.b64encode(rows.view(torch.int16).numpy().astype("<i2").tobytes()).decode()
    told = {"data": data, "dtype": stored, "original_dtype": str(dtype), "shape": [2, 2]}
    (tmp_path / "vector.json").write_text(request(activations=told, scale=1.0))
    found = VllmLens.read(tmp_path / "vector.json").vector
    assert torch.equal(torch.stack(list(found.directions.values())), rows.float())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"norm_match": True}, "norm_match"),
        ({"layer_indices": [3]}, "with one row a layer"),
        ({"layer_indices": [3, 3]}, "with one row a layer"),
        ({"layer_indices": None}, "cannot read"),
        ({"layer_indices": [3, -1]}, "want numbers of blocks, from 0"),
        ({"layer_indices": [3, 4.0]}, "want numbers of blocks, from 0"),
        ({"scale": float("inf")}, "NaN or infinity"),
        ({"activations": {"compression": "zstd"}}, r"its tensor is compressed \(zstd\), want none"),
        ({"activations": {"dtype": "int16", "original_dtype": "torch.float32"}}, "want float32, float16 or bfloat16"),
        ({"activations": {"dtype": "float32", "shape": [2, 2], "data": "AAAA"}}, "cannot read"),
        ({"activations": {"dtype": "float32", "shape": [2, 2], "data": "???"}}, "cannot read"),
        ({"activations": 3}, "cannot read"),
        ({"activations": {"dtype": "float32", "shape": [1, 2, 1], "data": "AACAPwAAgD8="}}, "for some positions only"),
    ],
)
def test_what_a_vector_does_not_hold_is_refused(changes, reason, tmp_path):
    (tmp_path / "vector.json").write_text(request(**changes))
    with pytest.raises(VectorError, match=reason):
        VllmLens.read(tmp_path / "vector.json")


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "vector.json").write_text("[1, 2]")
    with pytest.raises(VectorError, match="has no `activations`"):
        VllmLens.read(tmp_path / "vector.json")
