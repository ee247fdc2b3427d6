"""Result tables: polars frames with a declared schema, stored as parquet with their provenance inside."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl
from safetensors import SafetensorError

from lab.records.errors import StorageError, condensed
from lab.records.provenance import Provenance, require_intact


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
    key: tuple[str, ...] = ()
    """Columns that tell one row from every other."""
    optional: tuple[str, ...] | None = None
    """Columns that may be null; None where any may."""

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
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        try:
            yield temporary
            # Safetensors makes a file of its own, which nobody else may read.
            temporary.chmod(mode)
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
        # Half a character, such as of a file's name, is written by its number.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_table(path: Path, frame: pl.DataFrame, schema: Schema, made_by: Provenance) -> None:
    """Writes a checked table and its provenance as one parquet file, whole or not at all."""
    schema.checked(frame)
    meanings = {f"meaning:{column.name}": column.meaning for column in schema.columns}
    with replacing(path) as temporary:
        frame.write_parquet(temporary, metadata={"schema": schema.name, "provenance": made_by.to_json(), **meanings})


UNREADABLE = (OSError, ValueError, TypeError, RecursionError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars ends in at a damaged file; the last is no Exception, since Rust means it for bugs of its own."""


def read_table(path: Path, schema: Schema) -> pl.DataFrame:
    """Reads a table back; StorageError where it is missing, damaged, of another schema, or not as it was written.

    The last is told by the manifest of its directory, where there is one. A table of another maker is also refused for
    a null where there must be a value, and for two rows of one key.
    """
    with reading_table(path, f"table {schema.name!r} at"):
        require_intact(path)
        frame = pl.read_parquet(path)
    try:
        return whole_rows(schema.checked(frame), schema)
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from error


@contextlib.contextmanager
def reading_table(path: Path, what: str = "the table at") -> Iterator[None]:
    """Turns what reading a parquet file within the block ends in into a StorageError of one line."""
    try:
        yield
    except StorageError:
        raise
    except UNREADABLE as error:
        raise StorageError(
            f"cannot read {what} {path}: {condensed(error)}; check the path, or make it again"
        ) from error


def whole_rows(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """`frame` itself; StorageError naming a row that lacks a value, or has the key of another."""
    may_lack = {*schema.dtypes} if schema.optional is None else {*schema.optional}
    for name in dict.fromkeys((*schema.key, *(name for name in schema.dtypes if name not in may_lack))):
        if frame[name].null_count():
            row = frame[name].is_null().arg_max()
            raise StorageError(f"row {row} of {schema.name!r} has no {name}: want a value in every row")
    if schema.key and frame.select(schema.key).is_duplicated().any():
        row = frame.select(schema.key).is_duplicated().arg_max() or 0
        told = ", ".join(f"{name} {value!r}" for name, value in frame.select(schema.key).row(row, named=True).items())
        raise StorageError(f"two rows of {schema.name!r}, one of them row {row}, have {told}: take one away")
    return frame


def read_provenance(path: Path) -> Provenance:
    """The provenance inside a table file."""
    try:
        return Provenance.from_json(pl.read_parquet_metadata(path)["provenance"])
    except (*UNREADABLE, KeyError) as error:
        raise StorageError(f"no provenance in {path}: {condensed(error)}; want a table that the lab wrote") from error
