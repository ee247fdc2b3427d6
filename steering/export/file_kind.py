"""file_kind: what a file is, by how it begins and not by its name."""

from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["safetensors", "gguf", "json", "pickle", "other"]

PICKLES = (b"PK\x03\x04", b"\x80")
"""How a `.pt` file begins: as a zip archive of pickles, or as a bare pickle."""
PICKLE_REASON = "it is a pickle (a .pt file), which can run code; where it was made, save its tensors as safetensors"
MAX_HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads."""


def file_kind(path: Path) -> Kind:
    """The kind of the file at `path`; OSError where it cannot be read."""
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"GGUF"):
        return "gguf"
    # The length of the header in eight bytes, then the header, which is JSON. Before pickles, since a length may begin
    # with any byte.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER:
        return "safetensors"
    if start.startswith(PICKLES):
        return "pickle"
    return "json" if start.lstrip().startswith((b"{", b"[")) else "other"
