"""Control vectors in GGUF, as llama.cpp, repeng and EasySteer read them: a door to gguf."""

import re
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from lab.records.errors import LabError, VectorError
from lab.records.tables import replacing
from probes.capture.site import Site
from steering.export.block_outputs import only_block_outputs
from steering.export.vector_file import HEADER, Origin, VectorFile, check_fits, header_text, read_header
from steering.vector import SteeringVector

ARCHITECTURE = "controlvector"
OWN_KEY = f"{ARCHITECTURE}.{HEADER}"
"""Our header; the other readers look up the keys they know and pass over this one."""


def save_gguf(path: Path, vector: SteeringVector, origin: Origin) -> None:
    """Writes `vector` whole or not at all, as one 1-D F32 tensor `direction.N` for the output of block N, from 0.

    The strength lies in the tensors: runtimes add them times their own scale, which is 1 unless the user sets it. Needs
    `origin.fitted_on`, whose family becomes `controlvector.model_hint`. Raises VectorError without it, for another
    width, and for what llama.cpp cannot reach: the output of block 0 and what comes before; SiteError for a layer that
    the model has not.
    """
    facts = origin.fitted_on
    if facts is None:
        raise VectorError("a GGUF control vector names the family of its model: say which model it was fitted on")
    told = only_block_outputs(vector, "llama.cpp")
    check_fits(told, facts)
    if Site(0) in told.directions:
        raise VectorError(
            f"{Site(0)} would be direction.0, which llama.cpp refuses: its control vectors start at the output of "
            "block 1; leave that site out, or use a format that reaches it"
        )
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", facts.family)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(told.sites))
            writer.add_string(OWN_KEY, header_text(told, origin))
            for site, direction in told.directions.items():
                writer.add_tensor(f"direction.{site.layer}", np.ascontiguousarray(direction.numpy()))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def read_gguf_vector(path: Path) -> VectorFile:
    """The control vector in a GGUF file, `direction.N` at the output of block N; also of repeng and EasySteer.

    Residual norms are NaN where the file is not ours. Raises VectorError for a file that is missing, truncated, no
    control vector, or whose directions are not 1-D F32.
    """
    try:
        reader = GGUFReader(path)
        architecture = _text(reader, "general.architecture")
        if architecture != ARCHITECTURE:
            raise VectorError(f"its architecture is {architecture!r}, want {ARCHITECTURE!r}")
        directions = _directions(reader)
        header = _text(reader, OWN_KEY)
        if header is not None:
            description, norms, origin = read_header(header, directions)
            return VectorFile(vector=SteeringVector(directions, norms, description), origin=origin)
        family, method = _text(reader, f"{ARCHITECTURE}.model_hint"), _text(reader, f"{ARCHITECTURE}.method")
        description = f"GGUF control vector {path.name}, fitted on {family or 'an unnamed model'}"
        description += f" by {method}" if method else ""
        return VectorFile(
            vector=SteeringVector(directions, dict.fromkeys(directions, float("nan")), description), origin=None
        )
    # A cut-off file ends anywhere inside the reader's parsing.
    except (LabError, OSError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise VectorError(f"cannot read a control vector from {path}: {error}") from error


def _directions(reader: GGUFReader) -> dict[Site, torch.Tensor]:
    found = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.([0-9]+)", tensor.name)
        if match is None:
            continue
        if tensor.tensor_type != GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise VectorError(
                f"{tensor.name} is {tensor.tensor_type.name} of {len(tensor.shape)} axes, want F32 of 1 axis"
            )
        # A copy, because the reader's array is the file itself, mapped.
        found[Site(int(match[1]))] = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    return found


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    if field is None:
        return None
    text = field.contents()
    if not isinstance(text, str):
        raise VectorError(f"{key} is {text!r}, want a text")
    return text
