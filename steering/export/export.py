"""export: one vector to every format, and `import_vector`, which knows a format by its content."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from lab.records.errors import VectorError
from steering.export.biases import Adapter, BakedBias
from steering.export.gguf import Gguf
from steering.export.tensors import LayerTable, Safetensors
from steering.export.vector_file import PICKLE_REASON, Format, ModelFacts, Origin, VectorFile, check_fits, file_kind
from steering.export.vllm_lens import VllmLens
from steering.vector import SteeringVector

FORMATS: Mapping[str, type[Format]] = {
    "gguf": Gguf,
    "vllm-lens": VllmLens,
    "layer-table": LayerTable,
    "baked": BakedBias,
    "adapter": Adapter,
    "safetensors": Safetensors,
}
"""Every format by its name. A file is read by the first that knows it: those that take all JSON, or all safetensors,
stand behind those that do not."""


def export(vector: SteeringVector, form: Format, path: Path, origin: Origin, *, dose: float = 1.0) -> None:
    """Writes `dose * vector` to `path` in the format `form`, whole or not at all.

    The strength lies in what is written: exporting `v` at dose `a` writes the numbers of exporting `a * v` at dose 1,
    and a measured dose is told in units of what is written. Raises VectorError and SiteError for what the format cannot
    hold or the model cannot take, with the reason, for a dose that is not finite or 0, and for a vector that is 0.
    """
    if not math.isfinite(dose) or dose == 0:
        raise VectorError(f"dose {dose} writes nothing that can be used, want a finite number other than 0")
    if not any(bool(direction.any()) for direction in vector.directions.values()):
        raise VectorError("a vector whose directions are all zero steers nothing: want one that was fitted")
    if dose != 1:
        vector = dose * vector
        measured = None if origin.measured_dose is None else origin.measured_dose / dose
        origin = dataclasses.replace(origin, measured_dose=measured)
    form.write(path, vector, origin)


def import_vector(path: Path, model: ModelFacts | None = None) -> VectorFile:
    """The vector in a file of any format that holds one, known by its content and not by its name.

    With `model`, checked to fit it. Raises VectorError for a file that is missing, damaged, a pickle or of no known
    format, and for a directory; VectorError or SiteError for a vector that does not fit.
    """
    if path.is_dir():
        raise VectorError(
            f"{path} is a directory: a checkpoint or an adapter is loaded as a model; a vector is a file "
            "(safetensors, GGUF or JSON)"
        )
    try:
        kind = file_kind(path)
    except OSError as error:
        raise VectorError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    if kind == "pickle":
        raise VectorError(f"cannot read a vector from {path}: {PICKLE_REASON}")
    for form in FORMATS.values():
        if (found := form.read(path)) is not None:
            if model is not None:
                check_fits(found.vector, model)
            return found
    raise VectorError(f"{path} holds no vector: it is neither safetensors, GGUF nor JSON")
