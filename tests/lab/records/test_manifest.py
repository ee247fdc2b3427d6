"""A directory that was written says what its bytes were, and whoever reads from it finds out when they are others."""

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from lab.records.errors import StorageError
from lab.records.provenance import MANIFEST, MARKER, file_digest, provenance, read_json, require_intact
from lab.records.stage import (
    alone,
    atomic_directory,
    claimed,
    files_together,
    memoised,
    require_as_written,
    require_free,
    seal,
)
from lab.records.tables import Column, Schema, read_table, write_table, write_text

NAMED = Schema("named", (Column("id", pl.String, "its name"), Column("n", pl.Int64, "a number")), ("id",), ("n",))
MADE_BY = provenance("named", {}, {}, device="cpu", dtype="float32", seed=0)


def table(rows: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"p{row}" for row in range(rows)], "n": [*range(rows)]})


@pytest.fixture
def directory(tmp_path) -> Path:
    with atomic_directory(tmp_path / "made") as work:
        write_table(work / "deep" / "named.parquet", table(), NAMED, MADE_BY)
        (work / "note.txt").write_text("a note")
    return tmp_path / "made"


def flip(file: Path, at: int = -20) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def test_what_was_written_is_read(directory):
    require_as_written(directory)
    assert read_table(directory / "deep" / "named.parquet", NAMED).equals(table())
    shutil.move(directory, directory.with_name("moved"))
    require_as_written(directory.with_name("moved"))


@pytest.mark.parametrize("at", [6, 40, -20])
def test_a_bit_of_a_table_is_found_wherever_it_lies(directory, at):
    flip(directory / "deep" / "named.parquet", at)
    with pytest.raises(StorageError, match=r"named\.parquet is missing or damaged: want the bytes that manifest\.json"):
        read_table(directory / "deep" / "named.parquet", NAMED)
    with pytest.raises(StorageError, match=r"deep/named\.parquet is missing or damaged: put it back"):
        require_as_written(directory)


def test_a_link_leads_to_the_manifest_of_where_it_points(directory, tmp_path):
    (tmp_path / "link.parquet").symlink_to(directory / "deep" / "named.parquet")
    flip(directory / "deep" / "named.parquet")
    with pytest.raises(StorageError, match="is missing or damaged"):
        read_table(tmp_path / "link.parquet", NAMED)


def test_strangers_and_lost_files_are_named(directory):
    (directory / "more.txt").write_text("")
    with pytest.raises(StorageError, match=r"more\.txt was not there when .* was written: take it away"):
        require_as_written(directory)
    with pytest.raises(StorageError, match=r"more\.txt is a stranger"):
        require_intact(directory / "more.txt")
    (directory / "more.txt").unlink()
    (directory / ".DS_Store").write_text("")
    require_as_written(directory)
    (directory / "note.txt").unlink()
    with pytest.raises(StorageError, match=r"note\.txt is missing or damaged"):
        require_as_written(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": None},
        {"files": {"note.txt": "x"}},
        {"format": "elicitation-lab.manifest.9"},
        {"format": ...},
    ],
)
def test_a_manifest_that_says_less_than_it_must_is_damaged(directory, change):
    told = json.loads((directory / MANIFEST).read_text()) | change
    (directory / MANIFEST).write_text(json.dumps({key: item for key, item in told.items() if item is not ...}))
    with pytest.raises(StorageError, match=r"manifest\.json is damaged, or of another version: want its `files`"):
        require_as_written(directory)


@pytest.mark.parametrize("text", ["", "{", "\x80", "[" * 100_000, '{"a": "\\ud800"}', "[]", "9" * 5000])
def test_what_is_no_object_of_json_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"x\.json (is damaged|holds a JSON).*: mend it$") as refused:
        read_json(tmp_path / "x.json", "mend it")
    assert len(str(refused.value).splitlines()) == 1


def test_the_manifests_of_other_programs_say_nothing(tmp_path):
    write_table(tmp_path / "named.parquet", table(), NAMED, MADE_BY)
    (tmp_path / MANIFEST).write_text('{"name": "an app", "files": ["a"]}')
    assert read_table(tmp_path / "named.parquet", NAMED).equals(table())


def test_a_marker_that_names_no_files_where_there_are_some_is_refused(tmp_path):
    def compute(work: Path) -> None:
        write_text(work / "a.txt", "a")

    done = memoised(tmp_path, "stage", {}, {}, compute)
    told = json.loads((done.path / MARKER).read_text())
    (done.path / MARKER).write_text(json.dumps(told | {"files": {}}))
    with pytest.raises(StorageError, match=r"a\.txt was not there when .* or delete .* to compute it again"):
        memoised(tmp_path, "stage", {}, {}, compute)
    (done.path / MARKER).write_text(json.dumps(told))
    (done.path / "b.txt").write_text("")
    with pytest.raises(StorageError, match=r"b\.txt was not there when"):
        memoised(tmp_path, "stage", {}, {}, compute)


def test_a_digest_is_that_of_the_bytes_that_are_there_now(tmp_path):
    file = tmp_path / "a.txt"
    for text in ("one", "two", "six") * 20:
        file.write_text(text)
        os.utime(file, ns=(0, 0))
        first = file_digest(file)
        assert file_digest(file) == first
        (tmp_path / "b.txt").write_text(text)
        assert file_digest(tmp_path / "b.txt") == first


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (table().with_columns(id=pl.Series(["a", None, "b"])), "row 1 of 'named' has no id: want a value"),
        (table().with_columns(id=pl.lit("a")), "two rows of 'named', one of them row 0, have id 'a'"),
    ],
)
def test_a_row_that_no_table_can_have_is_named(tmp_path, frame, fault):
    frame.write_parquet(tmp_path / "named.parquet")
    with pytest.raises(StorageError, match=rf"named\.parquet: {fault}"):
        read_table(tmp_path / "named.parquet", NAMED)


def test_files_that_belong_together_are_moved_together_and_known_by_name(tmp_path):
    names = ("t.parquet", "t.more.parquet")
    out = tmp_path / "t.parquet"

    def write() -> None:
        require_free(out, names)
        with files_together(out) as work:
            for name in names:
                write_table(work / name, table(), NAMED, MADE_BY)

    write()
    assert {path.name for path in tmp_path.iterdir()} == {*names, f"t.{MANIFEST}"}
    with pytest.raises(StorageError, match=r"t\.parquet exists"):
        write()
    # As a kill between the two leaves it.
    (tmp_path / "t.more.parquet").unlink()
    write()
    flip(tmp_path / "t.more.parquet")
    with pytest.raises(StorageError, match=r"want the bytes that t\.manifest\.json tells of"):
        read_table(tmp_path / "t.more.parquet", NAMED)
    assert read_table(out, NAMED).equals(table())


def test_one_run_at_a_time_writes_an_out_and_nothing_stays(tmp_path):
    with alone(tmp_path / "new" / "out"):
        with pytest.raises(StorageError, match="in use by another run: wait for it, stop it, or choose another --out"):
            memoised(tmp_path / "new", "out", {}, {}, lambda work: write_text(work / "a", "a"))
        with alone(tmp_path / "new" / "other"):
            pass
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path / "out"):
        pass


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_permissions_that_the_user_asks_for(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_directory(tmp_path / "made") as work:
            (work / "own").touch(0o600)
        write_text(tmp_path / "note.txt", "x")
        (tmp_path / "sealed").mkdir()
        (tmp_path / "sealed" / "own").touch(0o600)
        seal(tmp_path / "sealed")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("how", ["stage", "directory", "run", "file"])
def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path, how):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    ways = {
        "stage": lambda: memoised(out, "stage", {}, {}, lambda _: None),
        "directory": lambda: atomic_directory(out).__enter__(),
        "run": lambda: claimed(out, {}).__enter__(),
        "file": lambda: alone(out).__enter__(),
    }
    with pytest.raises(StorageError, match=r"cannot write .*choose another --out"):
        ways[how]()


@pytest.mark.parametrize("text", [b"\xff", b"{", b'{"a": 2}'])
def test_a_marker_of_a_run_that_is_damaged_or_another_is_refused(tmp_path, text):
    with claimed(tmp_path, {"a": 1}):
        pass
    (tmp_path / "study.json").write_bytes(text)
    with (
        pytest.raises(StorageError, match=r"study\.json is damaged|of another configuration"),
        claimed(tmp_path, {"a": 1}),
    ):
        pass
