"""rows_of_file: the rows of a file of problems, whatever form they are kept in."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from lab.records.errors import TaskError, condensed
from lab.records.tables import UNREADABLE

DEEPEST = 64
"""Levels of lists and objects in a row; what reads it goes down by calls, of which there may be about a thousand."""
Row = tuple[int, Mapping[str, object] | TaskError]
"""What faults call the row, counted from 1 (of lines, the number of the line), and its columns or why it has none."""


class _Twice(dict[str, object]):
    """An object of JSON that says a field twice, and not the same."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    return found if len(found) == len(pairs) or all(found[name] == value for name, value in pairs) else _Twice(found)


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of JSON lines, a JSON list, a JSON object of columns, parquet, Arrow, CSV or TSV, told by content.

    One line of a .jsonl is a row, another object its columns. Raises TaskError for a missing, damaged or foreign file.
    """
    if path.exists() and not path.is_file():
        # A pipe would wait for whoever writes it.
        what = "a directory" if path.is_dir() else "a pipe or a device"
        raise TaskError(f"cannot read {path}: it is {what}; want a file of problems")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise TaskError(f"cannot read {path}: {told}; want a file of problems") from error
    if content[:4] == b"PAR1" or content[:6] == b"ARROW1" or content[:4] == b"\xff\xff\xff\xff":
        yield from enumerate(_table(path, content).iter_rows(named=True), start=1)
        return
    found = _whole(content)
    if isinstance(found, dict):
        found = next(
            (rows for name in ("data", "examples", "rows") if isinstance(rows := found.get(name), list)), found
        )
    if isinstance(found, list):
        yield from (_checked(path, number, row) for number, row in enumerate(found, start=1))
    elif (
        isinstance(found, dict)
        and not (path.suffix == ".jsonl" and b"\n" not in content.strip())
        and found
        and all(isinstance(column, dict | list) for column in found.values())
    ):
        yield from (_checked(path, number, row) for number, row in enumerate(_columns(path, found), start=1))
    elif content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"{", b"[", b""):
        yield from _lines(path, content)
    else:
        yield from _values(path, content)


def _table(path: Path, content: bytes) -> pl.DataFrame:
    """The frame in a parquet file, an Arrow file or an Arrow stream, as `datasets` keeps it."""
    read = {b"PAR1": pl.read_parquet, b"ARRO": pl.read_ipc}.get(content[:4], pl.read_ipc_stream)
    try:
        return read(io.BytesIO(content))
    except UNREADABLE as error:
        raise TaskError(f"{path} is a damaged table ({condensed(error)}): download it again") from error


def _whole(content: bytes) -> object:
    """The file as one JSON value; None where it is none, as files of lines are."""
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _columns(path: Path, found: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Rows of an object of columns, each a list, or an object from the name of a row to its value."""
    columns = {name: dict(enumerate(column)) if isinstance(column, list) else column for name, column in found.items()}
    names = {name: list(column) for name, column in columns.items() if isinstance(column, dict)}
    first, *others = names.values()
    if any(other != first for other in others):
        lengths = ", ".join(f"{name!r} {len(rows)}" for name, rows in names.items())
        raise TaskError(f"{path} is an object of columns of different rows ({lengths}): want one value a row in each")
    for row in first:
        yield {name: column[row] for name, column in columns.items() if isinstance(column, dict)}


def _lines(path: Path, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _checked(path, number, json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object))
        except UnicodeDecodeError as error:
            yield number, TaskError(f"{path}, row {number} is not UTF-8 (byte {error.start}): save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            yield number, TaskError(f"{path}, row {number} is not JSON ({condensed(error)}): want one object a line")


def _values(path: Path, content: bytes) -> Iterator[Row]:
    """Rows below a line of names, with commas or tabs between them."""
    # Of a byte that is not UTF-8 nothing is lost, and it is in no other text.
    text = content.decode("utf-8-sig", "surrogateescape")
    between = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=between) if row)
    # A question may be long.
    csv.field_size_limit(2**31 - 1)
    names = next(rows, [])
    if len(names) < 2 or len({*names}) < len(names):
        raise TaskError(
            f"{path} begins with {text[:40]!r}: want JSON, parquet, Arrow, or CSV or TSV below a line of column names"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            fault = f"has {len(row)} values where the first line names {len(names)} columns"
            yield (
                number,
                TaskError(f"{path}, row {number} {fault}: put quotes around a value that holds commas or lines"),
            )
        elif any("\udc80" <= letter <= "\udcff" for value in row for letter in value):
            yield number, TaskError(f"{path}, row {number} is not UTF-8: save the file as UTF-8")
        else:
            yield number, dict(zip(names, row, strict=True))


def _checked(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, dict):
        return number, TaskError(f"{path}, row {number} is a JSON {type(row).__name__}: want an object")
    inside: list[object] = [row]
    for _ in range(DEEPEST):
        if any(isinstance(one, _Twice) for one in inside):
            return number, TaskError(f"{path}, row {number} says a field twice, and not the same: leave one")
        parts = (one.values() if isinstance(one, dict) else one for one in inside if isinstance(one, dict | list))
        inside = [part for of_one in parts for part in of_one]
    if inside:
        return number, TaskError(
            f"{path}, row {number} is nested deeper than {DEEPEST} levels: want an object of texts"
        )
    # As the hub's viewer gives it.
    return number, row["row"] if "row_idx" in row and isinstance(row.get("row"), dict) else row
