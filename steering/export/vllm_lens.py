"""Steering vectors as the JSON that vllm-lens takes in a request: tensors in base64, no pickle."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lab.records.errors import VectorError
from lab.records.tables import write_text
from probes.capture.site import Site
from steering.export.gguf import only_block_outputs
from steering.export.vector_file import (
    HEADER,
    Format,
    Origin,
    VectorFile,
    check_fits,
    file_kind,
    header_text,
    quoted,
    reading,
    section,
    under_header,
    without_header,
)
from steering.vector import SteeringVector

# What vllm-lens may write without compression, by the dtype of the tensor that it came from.
STORED = {"torch.float32": "float32", "torch.float16": "float16", "torch.bfloat16": "int16", None: "float32"}


@dataclass(frozen=True, slots=True)
class VllmLens(Format):
    """JSON for requests to a vLLM that runs vllm-lens."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """One `SteeringVector` of vllm-lens, scale 1, norms not matched; layer N is the output of block N, from 0.

        The tensor is fp32 and not compressed, which vllm-lens reads too. For block outputs alone.
        """
        told = only_block_outputs(vector, "vllm-lens")
        if origin.fitted_on is not None:
            check_fits(told, origin.fitted_on)
        table = torch.stack(list(told.directions.values()))
        request = {
            "activations": {
                "data": base64.b64encode(table.numpy().astype("<f4").tobytes()).decode("ascii"),
                "dtype": "float32",
                "original_dtype": "torch.float32",
                "shape": list(table.shape),
            },
            "layer_indices": [site.layer for site in told.sites],
            "scale": 1.0,
            "norm_match": False,
            "position_indices": None,
            HEADER: json.loads(header_text(told, origin)),
        }
        write_text(path, json.dumps(request, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """The vector in a JSON file, its scale multiplied in; residual norms are NaN where the file is not ours.

        Raises VectorError for a file that is truncated or no such vector, and for what a vector does not hold:
        positions, matching of norms, and compression, which needs a library that this project does without.
        """
        if file_kind(path) != "json":
            return None
        with reading("a vllm-lens vector", path):
            told = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(told, dict) or not {"activations", "layer_indices"} <= told.keys():
                raise VectorError("it is JSON, but has no `activations` and `layer_indices`")
            if told.get("norm_match"):
                raise VectorError("it keeps the norm of the stream (`norm_match`), which is no addition of a vector")
            table = _tensor(told["activations"]) * float(told.get("scale", 1.0))
            layers = told["layer_indices"]
            if any(type(layer) is not int or layer < 0 for layer in layers):
                raise VectorError(f"its layers are {layers}, want numbers of blocks, from 0")
            if table.ndim != 2 or len(layers) != len(table) or len(set(layers)) != len(layers):
                raise VectorError(
                    f"activations of shape {tuple(table.shape)} for layers {layers}, want (n_layers, d_model) with one "
                    "row a layer; a vector for some positions only is not a steering vector here"
                )
            directions = {Site(layer): row for layer, row in zip(layers, table, strict=True)}
            if HEADER in told:
                return under_header(json.dumps(told[HEADER]), directions)
            return without_header(directions, f"vllm-lens vector {path.name}")

    def use(self, path: Path, _: str) -> str:
        """A request to a vLLM that runs vllm-lens."""
        return section(
            "vLLM with vllm-lens",
            "python",
            "import json",
            f"vector = json.load(open({quoted(path)}))",
            "# over HTTP, in the body of a request",
            'body = {"vllm_xargs": {"apply_steering_vectors": json.dumps([vector])}}',
            "# in process",
            "from vllm import SamplingParams",
            "from vllm_lens import SteeringVector",
            "vectors = [SteeringVector.model_validate(vector)]",
            'SamplingParams(extra_args={"apply_steering_vectors": vectors})',
        )


def _tensor(told: dict[str, object]) -> Float[Tensor, "..."]:
    if told.get("compression") is not None:
        raise VectorError(f"its tensor is compressed ({told['compression']}), want none: save it again without")
    came = told.get("original_dtype")
    if came not in STORED or told.get("dtype") != STORED[came]:
        raise VectorError(f"its tensor is {told.get('dtype')!r} of {came!r}, want float32, float16 or bfloat16")
    data = base64.b64decode(str(told["data"]), validate=True)
    array = np.frombuffer(data, dtype=np.dtype(STORED[came]).newbyteorder("<")).reshape(told["shape"])  # pyright: ignore[reportCallIssue, reportArgumentType]
    tensor = torch.from_numpy(array.astype(STORED[came]))
    return (tensor.view(torch.bfloat16) if came == "torch.bfloat16" else tensor).float()
