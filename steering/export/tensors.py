"""Steering vectors as safetensors: with all that describes them in the header, which loses nothing; and as one table.

hotwire, steering-vectors and hidden-directions read `.pt` files, which are pickles and can run code; this project
neither writes nor reads them. Where the vector is served, one line makes one of a table (`LayerTable.use`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.records.errors import VectorError
from lab.records.provenance import Provenance
from lab.records.tables import replacing
from probes.capture.site import Site
from steering.export.gguf import only_block_outputs
from steering.export.vector_file import (
    FORMAT,
    HEADER,
    PICKLE_REASON,
    Format,
    ModelFacts,
    Origin,
    VectorFile,
    check_fits,
    file_kind,
    header_text,
    quoted,
    reading,
    section,
    under_header,
)
from steering.vector import SteeringVector


def save_vector(
    path: Path,
    vector: SteeringVector,
    made_by: Provenance,
    *,
    fitted_on: ModelFacts | None = None,
    measured_dose: float | None = None,
) -> None:
    """Writes `vector` whole or not at all: one fp32 tensor a site, named as the site. Equal work gives equal bytes.

    `fitted_on` is the model (None if not known), `measured_dose` the dose whose effect was measured, if any was.
    """
    origin = Origin(made_by=made_by, fitted_on=fitted_on, measured_dose=measured_dose)
    with replacing(path) as temporary:
        save_file(
            {str(site): direction.contiguous() for site, direction in vector.directions.items()},
            temporary,
            metadata={HEADER: header_text(vector, origin)},
        )


def load_vector(path: Path) -> SteeringVector:
    """The vector that `save_vector` wrote; VectorError for a file that is missing, damaged or of another kind."""
    return read_vector(path).vector


def read_vector(path: Path) -> VectorFile:
    """The inverse of `save_vector`: the vector and its origin. Raises as `load_vector`."""
    with reading("a steering vector", path):
        if file_kind(path) == "pickle":
            raise VectorError(PICKLE_REASON)
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise VectorError(f"it has no header {HEADER!r}, want one of format {FORMAT!r}")
            directions = {Site.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for site, tensor in directions.items():
            if tensor.dtype != torch.float32:
                raise VectorError(f"{site} is {tensor.dtype}, want float32")
            if tensor.ndim != 1:
                raise VectorError(f"{site} has {tensor.ndim} axes, want 1")
        return under_header(header, directions)


@dataclass(frozen=True, slots=True)
class Safetensors(Format):
    """This project's own file, which loses nothing."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        save_vector(path, vector, origin.made_by, fitted_on=origin.fitted_on, measured_dose=origin.measured_dose)

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """As `read_vector`, for a file of safetensors."""
        return read_vector(path) if file_kind(path) == "safetensors" else None

    def use(self, path: Path, model: str) -> str:
        return section(
            "This project (safetensors)",
            "python",
            "from pathlib import Path",
            "import torch",
            "from lab.models.load import load",
            "from lab.models.source import model_source",
            "from steering.edit import Add, apply",
            "from steering.export.tensors import load_vector",
            f'model = load(model_source({quoted(model)}), device=torch.device("cpu"), dtype=torch.float32)',
            f"with apply(model, Add(load_vector(Path({quoted(path)})), dose=1.0)):",
            "    ...  # every forward pass in here is steered",
        )


TABLE = "directions"
TABLE_HEADER = f"{HEADER}.layer_table"


@dataclass(frozen=True, slots=True)
class LayerTable(Format):
    """One tensor, a row a block; for programs whose own files are pickles (hotwire, steering-vectors)."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """As fp32 `directions` of shape (n_layers, d_model): row N is for the output of block N, zero where that stays.

        Needs `origin.fitted_on` for the number of layers. For block outputs alone.
        """
        if origin.fitted_on is None:
            raise VectorError("a table has a row for each block: say which model the vector was fitted on")
        told = only_block_outputs(vector, "a layer table")
        check_fits(told, origin.fitted_on)
        table = torch.zeros(origin.fitted_on.n_layers, told.d_model)
        for site, direction in told.directions.items():
            table[site.layer] = direction
        with replacing(path) as temporary:
            save_file({TABLE: table}, temporary, metadata={TABLE_HEADER: header_text(told, origin)})

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """The vector, where a file of safetensors says that it is such a table."""
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {})[TABLE_HEADER]
        except (OSError, SafetensorError, KeyError):
            return None
        with reading("a layer table", path), safe_open(path, framework="pt") as file:
            if spare := {*file.keys()} - {TABLE}:
                raise VectorError(f"it holds {', '.join(sorted(spare))}, want {TABLE} alone")
            table = file.get_tensor(TABLE)
            if table.ndim != 2 or table.dtype != torch.float32:
                raise VectorError(f"{TABLE} is {table.dtype} of {table.ndim} axes, want float32 of 2")
            # The header says which rows are meant, since a direction may itself be zero.
            sites = [Site.parse(name) for name in json.loads(header)["residual_norms"]]
            spare = set(range(len(table))) - {site.layer for site in sites}
            if bool(table[sorted(spare)].any()):
                raise VectorError(f"{TABLE} has rows that are not zero for blocks that its header does not name")
            return under_header(header, {site: table[site.layer] for site in sites})

    def use(self, path: Path, _: str) -> str:
        """A pickle made where the vector is served."""
        return section(
            "hotwire, steering-vectors (one row a layer; their own files are pickles, made where they are served)",
            "python",
            "import torch",
            "from safetensors.torch import load_file",
            f'torch.save(load_file({quoted(path)})["directions"], "vector.pt")',
            "# hotwire: HOTWIRE_VECTORS=vector.pt for the server, and in a request",
            """# {"vllm_xargs": {"hotwire": '{"id": "vector", "layer": N, "scale": 1.0}'}}""",
        )
