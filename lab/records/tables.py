"""Result tables: polars frames with a declared schema, stored as parquet with their provenance inside."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl
from safetensors import SafetensorError

from lab.records.errors import StorageError
from lab.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type and, in a line, what a value means."""

    name: str
    dtype: object
    """A polars data type, as a class or an instance (a union of the two defeats run-time type checking)."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A kind of table: long form, one row a fact."""

    name: str
    columns: tuple[Column, ...]

    @property
    def dtypes(self) -> dict[str, object]:
        """Column name -> polars data type, in order."""
        return {column.name: column.dtype for column in self.columns}

    def frame(self, rows: list[dict[str, object]]) -> pl.DataFrame:
        """A frame of `rows`, checked against the schema; every column must be given."""
        return self.checked(pl.DataFrame(rows, schema=cast(dict[str, pl.DataType], self.dtypes), orient="row"))

    def checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` itself if it has exactly these columns and types; else StorageError."""
        wanted, came = self.dtypes, dict(frame.schema)
        differing = sorted(name for name in {*wanted, *came} if wanted.get(name) != came.get(name))
        if differing or list(wanted) != list(came):
            here, there = ([str(types.get(name)) for name in differing] for types in (came, wanted))
            raise StorageError(
                f"not a {self.name!r} table: {', '.join(differing) or 'the order of columns'} came as {here}, "
                f"wanted {there} in the order {list(wanted)}"
            )
        return frame


@contextlib.contextmanager
def writing(path: Path, cure: str = "free space or choose another --out") -> Iterator[None]:
    """Turns what a disk refuses within the block into a StorageError with its reason, and `cure`."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, pl.exceptions.ComputeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write {path}: {reason}; {cure}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on a clean exit it is flushed to disk and becomes `path`, else it is removed.

    So a reader sees the whole file or none. Raises StorageError with the system's reason when the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o644)
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def leftovers(directory: Path) -> list[Path]:
    """What a process that died left half written below `directory`: our files, and those safetensors writes beside."""
    return [path for pattern in (".*.partial", ".tmp??????") for path in directory.rglob(pattern)]


def write_text(path: Path, text: str) -> None:
    """Writes `text` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, frame: pl.DataFrame, schema: Schema, made_by: Provenance) -> None:
    """Writes a checked table and its provenance as one parquet file, whole or not at all."""
    schema.checked(frame)
    meanings = {f"meaning:{column.name}": column.meaning for column in schema.columns}
    with replacing(path) as temporary:
        frame.write_parquet(temporary, metadata={"schema": schema.name, "provenance": made_by.to_json(), **meanings})


def read_table(path: Path, schema: Schema) -> pl.DataFrame:
    """Reads a table back; StorageError where it is missing, damaged or of another schema."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise StorageError(f"cannot read table {schema.name!r} at {path}: {error}") from error
    return schema.checked(frame)


def read_provenance(path: Path) -> Provenance:
    """The provenance inside a table file."""
    try:
        return Provenance.from_json(pl.read_parquet_metadata(path)["provenance"])
    except (OSError, KeyError, pl.exceptions.ComputeError) as error:
        raise StorageError(f"no provenance in {path}: {error}") from error
