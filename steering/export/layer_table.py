"""A vector as one tensor, a row a block, in safetensors: what runtimes that keep pickles can be given.

hotwire, steering-vectors and hidden-directions read `.pt` files, which are pickles and can run code; this project
neither writes nor reads them. Where the vector is served, by whoever runs that program, one line converts the table:

    import torch; from safetensors.torch import load_file; torch.save(load_file("x.safetensors")["directions"], "x.pt")
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.records.errors import LabError, VectorError
from lab.records.tables import replacing
from probes.capture.site import Site
from steering.export.block_outputs import only_block_outputs
from steering.export.vector_file import HEADER, Origin, VectorFile, check_fits, header_text, read_header
from steering.vector import SteeringVector

TABLE = "directions"
TABLE_HEADER = f"{HEADER}.layer_table"


def save_layer_table(path: Path, vector: SteeringVector, origin: Origin) -> None:
    """Writes `vector` whole or not at all, as fp32 `directions` of shape (n_layers, d_model).

    Row N is for the output of block N; rows of blocks that the vector leaves alone are zero. Needs `origin.fitted_on`
    for the number of layers. Raises VectorError without it, for another width and for `resid_pre` of block 0; SiteError
    for a layer out of range.
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


def is_layer_table(path: Path) -> bool:
    """Whether a safetensors file says that it is one; False for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return TABLE_HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_layer_table(path: Path) -> VectorFile:
    """The inverse of `save_layer_table`; VectorError for a file that is missing, truncated or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(TABLE_HEADER)
            if header is None:
                raise VectorError(f"it has no header {TABLE_HEADER!r}")
            table = file.get_tensor(TABLE)
        if table.ndim != 2 or table.dtype != torch.float32:
            raise VectorError(f"{TABLE} is {table.dtype} of {table.ndim} axes, want float32 of 2")
        # The header says which rows are meant, since a direction may itself be zero.
        sites = [Site.parse(name) for name in json.loads(header)["residual_norms"]]
        directions = {site: table[site.layer] for site in sites}
        description, norms, origin = read_header(header, directions)
        return VectorFile(vector=SteeringVector(directions, norms, description), origin=origin)
    except (OSError, SafetensorError, LabError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise VectorError(f"cannot read a layer table from {path}: {error}") from error
