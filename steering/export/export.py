"""export: one vector to every format, and `import_vector`, which knows a format by its content."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lab.models.load import Model
from lab.records.errors import VectorError
from steering.export.adapter import save_adapter
from steering.export.baked_bias import bake
from steering.export.layer_table import is_layer_table, read_layer_table, save_layer_table
from steering.export.tensors import read_vector, save_vector
from steering.export.vector_file import PICKLE_REASON, ModelFacts, Origin, VectorFile, check_fits, file_kind
from steering.export.vllm_lens import read_vllm_lens, save_vllm_lens
from steering.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class Safetensors:
    """This project's own file, which loses nothing."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A control vector for llama.cpp, repeng and EasySteer."""


@dataclass(frozen=True, slots=True)
class VllmLens:
    """JSON for requests to a vLLM that runs vllm-lens."""


@dataclass(frozen=True, slots=True)
class LayerTable:
    """One tensor, a row a block; for programs whose own files are pickles (hotwire, steering-vectors)."""


@dataclass(frozen=True, slots=True, eq=False)
class BakedBias:
    """A checkpoint of a model with the vector in its biases, for plain transformers and vLLM."""

    into: Model


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A PEFT adapter that is only a bias, for a model."""

    of: Model


Format: TypeAlias = Safetensors | Gguf | VllmLens | LayerTable | BakedBias | Adapter


def export(vector: SteeringVector, form: Format, path: Path, origin: Origin, *, dose: float = 1.0) -> None:
    """Writes `dose * vector` to `path` in the format `form`, whole or not at all.

    The strength lies in what is written: exporting `v` at dose `a` writes the numbers of exporting `a * v` at dose 1,
    and a measured dose is told in units of what is written. Raises VectorError and SiteError for what the format cannot
    hold or the model cannot take, with the reason, and for a dose that is not finite or 0.
    """
    if not math.isfinite(dose) or dose == 0:
        raise VectorError(f"dose {dose} writes nothing that can be used, want a finite number other than 0")
    if dose != 1:
        vector = dose * vector
        measured = None if origin.measured_dose is None else origin.measured_dose / dose
        origin = dataclasses.replace(origin, measured_dose=measured)
    match form:
        case Safetensors():
            save_vector(path, vector, origin.made_by, fitted_on=origin.fitted_on, measured_dose=origin.measured_dose)
        case Gguf():
            from steering.export.gguf import save_gguf

            save_gguf(path, vector, origin)
        case VllmLens():
            save_vllm_lens(path, vector, origin)
        case LayerTable():
            save_layer_table(path, vector, origin)
        case BakedBias(into=model):
            bake(path, vector, model, origin)
        case Adapter(of=model):
            save_adapter(path, vector, model, origin)


def import_vector(path: Path, model: ModelFacts | None = None) -> VectorFile:
    """The vector in a file of any format that holds one, known by its content and not by its name.

    With `model`, checked to fit it. Raises VectorError for a file that is missing, damaged, a pickle or of no known
    format, and for a directory; VectorError or SiteError for a vector that does not fit.
    """
    found = _read(path)
    if model is not None:
        check_fits(found.vector, model)
    return found


def _read(path: Path) -> VectorFile:
    if path.is_dir():
        raise VectorError(
            f"{path} is a directory: a checkpoint or an adapter is loaded as a model; a vector is a file "
            "(safetensors, GGUF or JSON)"
        )
    try:
        kind = file_kind(path)
    except OSError as error:
        raise VectorError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    match kind:
        case "gguf":
            from steering.export.gguf import read_gguf_vector

            return read_gguf_vector(path)
        case "json":
            return read_vllm_lens(path)
        case "safetensors":
            return read_layer_table(path) if is_layer_table(path) else read_vector(path)
        case "pickle":
            raise VectorError(f"cannot read a vector from {path}: {PICKLE_REASON}")
        case "other":
            raise VectorError(f"{path} holds no vector: it is neither safetensors, GGUF nor JSON")
