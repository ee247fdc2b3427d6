"""Control vectors in GGUF, as llama.cpp, repeng and EasySteer read them: a door to gguf."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from lab.records.errors import VectorError
from lab.records.tables import replacing
from probes.capture.site import Site
from steering.export.vector_file import (
    FORMAT_NAME,
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
    shell,
    under_header,
    without_header,
)
from steering.vector import SteeringVector

EMBEDDED = Site(0, "resid_pre")
"""Where no block has written yet."""


def at_block_outputs(vector: SteeringVector) -> SteeringVector:
    """The same vector with `resid_pre` of block N as `resid_post` of block N - 1, which is the same place.

    Where it has both they add up. `resid_pre` of block 0 and `resid_mid` stay.
    """
    directions, norms = {}, {}
    for site, direction in vector.directions.items():
        here = Site(site.layer - 1) if site.stream == "resid_pre" and site.layer > 0 else site
        directions[here] = directions[here] + direction if here in directions else direction
        if math.isnan(norms.get(here, math.nan)):
            norms[here] = vector.residual_norms[site]
    return SteeringVector(directions, norms, vector.description)


def only_block_outputs(vector: SteeringVector, runtime: str) -> SteeringVector:
    """As `at_block_outputs`; VectorError naming `runtime` where the vector also acts elsewhere."""
    told = at_block_outputs(vector)
    if others := [str(site) for site in told.sites if site.stream != "resid_post"]:
        raise VectorError(
            f"{', '.join(others)} is no block's output, and {runtime} adds to those only; leave such sites out, or "
            "bake them into a checkpoint"
        )
    return told


ARCHITECTURE = "controlvector"
OWN_KEY = f"{ARCHITECTURE}.{HEADER}"
"""Our header; the other readers look up the keys they know and pass over this one."""


@dataclass(frozen=True, slots=True)
class Gguf(Format):
    """A control vector for llama.cpp, repeng and EasySteer."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """Writes `vector` whole or not at all, as one 1-D F32 tensor `direction.N` for the output of block N, from 0.

        The strength lies in the tensors: runtimes add them times their own scale, which is 1 unless the user sets it.
        Needs `origin.fitted_on`, whose family becomes `controlvector.model_hint`. Raises VectorError without it, for
        another width, and for what llama.cpp cannot reach: the output of block 0 and what comes before; SiteError for a
        layer that the model has not.
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

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """The control vector in a GGUF file, `direction.N` at the output of block N; also of repeng and EasySteer.

        Residual norms are NaN where the file is not ours. Raises VectorError for a file that is truncated, no control
        vector, or whose directions are not 1-D F32.
        """
        if file_kind(path) != "gguf":
            return None
        with reading("a control vector", path):
            reader = GGUFReader(path)
            architecture = _text(reader, "general.architecture")
            if architecture != ARCHITECTURE:
                raise VectorError(f"its architecture is {architecture!r}, want {ARCHITECTURE!r}")
            directions = _directions(reader)
            if not any(bool(direction.any()) for direction in directions.values()):
                raise VectorError(f"its {len(directions)} directions are all zero, which steers nothing")
            header = _text(reader, OWN_KEY)
            if header is not None:
                count = reader.get_field(f"{ARCHITECTURE}.layer_count")
                if count is None or count.contents() != len(directions):
                    raise VectorError(f"its header is damaged: want a layer_count of {len(directions)}")
                return under_header(header, directions)
            if any(FORMAT_NAME.encode() in part.tobytes() for field in reader.fields.values() for part in field.parts):
                raise VectorError(f"its header is damaged: it does not stand under {OWN_KEY}")
            family, method = _text(reader, f"{ARCHITECTURE}.model_hint"), _text(reader, f"{ARCHITECTURE}.method")
            description = f"GGUF control vector {path.name}, fitted on {family or 'an unnamed model'}"
            return without_header(directions, description + (f" by {method}" if method else ""))

    def use(self, path: Path, _: str) -> str:
        """llama.cpp, from its command line and from Python, repeng and EasySteer."""
        return "\n\n".join(
            (
                section(
                    "llama.cpp (GGUF control vector)",
                    "sh",
                    f"llama-cli -m MODEL.gguf --control-vector {shell(path)}",
                    "# at another strength; older builds take the number as an argument of its own",
                    f"llama-cli -m MODEL.gguf --control-vector-scaled {shell(f'{path}:0.5')}",
                ),
                section(
                    "llama.cpp from Python (llama-cpp-python)",
                    "python",
                    "import ctypes, llama_cpp, numpy as np",
                    "from gguf import GGUFReader",
                    'llama = llama_cpp.Llama("MODEL.gguf", n_ctx=512, verbose=False)',
                    "width, last = llama.n_embd(), llama_cpp.llama_model_n_layer(llama.model)",
                    "rows = np.zeros((last - 1, width), np.float32)  # the first is of block 1",
                    f"for tensor in GGUFReader({quoted(path)}).tensors:",
                    '    rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data',
                    "numbers = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))",
                    "llama_cpp.llama_set_adapter_cvec(llama.ctx, numbers, rows.size, width, 1, last)",
                    "llama.reset()  # forgets what was read without the vector",
                    'print(llama("A prompt", max_tokens=16, temperature=0)["choices"][0]["text"])',
                ),
                section("repeng (the same file)", "python", f"ControlVector.import_gguf({quoted(path)})"),
                section(
                    "EasySteer (the same file)",
                    "python",
                    "import easysteer.vectors",
                    f'payload = easysteer.vectors.load({quoted(path)}, format="gguf")',
                    "# then VectorSpec(data=payload, ...)",
                ),
            )
        )


def _directions(reader: GGUFReader) -> dict[Site, torch.Tensor]:
    found = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(0|[1-9][0-9]*)", tensor.name)
        if match is None:
            raise VectorError(f"it holds {tensor.name!r}, want direction.N for the output of block N, and nothing else")
        if Site(int(match[1])) in found:
            raise VectorError(f"it holds {tensor.name} twice, want one direction a block")
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
