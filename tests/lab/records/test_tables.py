"""Tables come back whole with their provenance, and a write that fails leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.records.errors import StorageError
from lab.records.provenance import provenance
from lab.records.tables import (
    Column,
    Schema,
    leftovers,
    read_provenance,
    read_table,
    replacing,
    write_table,
    write_text,
)

FACTS = Schema(
    "facts",
    (
        Column("name", pl.String, "what it is called"),
        Column("n_tokens", pl.Int32, "its length"),
        Column("share", pl.Float64, "a fraction, NaN where undefined"),
        Column("tokens", pl.List(pl.Int32), "its ids"),
        Column("correct", pl.Boolean, "null where it cannot be checked"),
    ),
)
ROW = {"name": "a", "n_tokens": 3, "share": 0.5, "tokens": [1, 2, 3], "correct": None}
MADE_BY = provenance("facts", {"k": 1}, {"parent": "0" * 16}, device="cpu", dtype="float32", seed=7)
ROOT = Path(__file__).parents[3]

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text(st.characters(exclude_categories=["Cs"])),
            "n_tokens": st.integers(-(2**31), 2**31 - 1),
            "share": st.floats(),
            "tokens": st.lists(st.integers(0, 2**31 - 1), max_size=5),
            "correct": st.none() | st.booleans(),
        }
    ),
    max_size=8,
)

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import polars as pl, torch
from safetensors.torch import save_file
from lab.records.errors import StorageError
from lab.records.provenance import provenance
from lab.records.tables import Column, Schema, replacing, write_table, write_text

path, kind = Path(sys.argv[1]), sys.argv[2]
made_by = provenance("s", {}, {}, device="cpu", dtype="float32", seed=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    if kind == "text":
        write_text(path, "x" * 100_000)
    elif kind == "table":
        schema = Schema("numbers", (Column("n", pl.String, "a number"),))
        write_table(path, schema.frame([{"n": str(7919 * n * n)} for n in range(20_000)]), schema, made_by)
    else:
        with replacing(path) as temporary:
            save_file({"a": torch.zeros(100_000)}, temporary)
except StorageError as error:
    print("refused:", error)
"""


@settings(deadline=None, max_examples=30)
@given(rows=ROWS)
def test_every_table_comes_back_exactly(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "facts.parquet"
    frame = FACTS.frame(rows)
    write_table(path, frame, FACTS, MADE_BY)
    again = read_table(path, FACTS)
    assert again.equals(frame, null_equal=True)
    assert dict(again.schema) == FACTS.dtypes


def test_provenance_and_the_meaning_of_each_column_lie_inside_the_file(tmp_path):
    path = tmp_path / "facts.parquet"
    write_table(path, FACTS.frame([ROW]), FACTS, MADE_BY)
    moved = path.rename(tmp_path / "elsewhere.parquet")
    assert read_provenance(moved) == MADE_BY
    metadata = pl.read_parquet_metadata(moved)
    assert metadata["schema"] == "facts"
    assert metadata["meaning:n_tokens"] == "its length"


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(tmp_path / name, FACTS.frame([ROW]), FACTS, MADE_BY)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pl.DataFrame({"name": ["a"]}), "n_tokens"),
        (FACTS.frame([ROW]).with_columns(extra=1), "extra"),
        (FACTS.frame([ROW]).with_columns(pl.col("n_tokens").cast(pl.Int64)), "n_tokens came as .*Int64"),
        (FACTS.frame([ROW]).select(reversed(list(FACTS.dtypes))), "the order of columns"),
    ],
)
def test_a_frame_of_another_shape_is_refused_naming_the_column(frame, named, tmp_path):
    with pytest.raises(StorageError, match=named):
        write_table(tmp_path / "facts.parquet", frame, FACTS, MADE_BY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [0, 3, 100, -1])
def test_a_truncated_table_is_refused(n_bytes, tmp_path):
    path = tmp_path / "facts.parquet"
    write_table(path, FACTS.frame([ROW]), FACTS, MADE_BY)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(StorageError, match=r"cannot read table 'facts' at .*facts\.parquet"):
        read_table(path, FACTS)
    with pytest.raises(StorageError, match=r"no provenance in .*facts\.parquet"):
        read_provenance(path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot read table 'facts'"):
        read_table(tmp_path / "absent.parquet", FACTS)
    with pytest.raises(StorageError, match="no provenance"):
        read_provenance(tmp_path / "absent.parquet")


def test_a_parquet_file_of_someone_else_has_no_provenance(tmp_path):
    FACTS.frame([ROW]).write_parquet(tmp_path / "plain.parquet")
    with pytest.raises(StorageError, match="no provenance"):
        read_provenance(tmp_path / "plain.parquet")


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["text", "table", "tensors"])
def test_a_full_disk_is_a_storage_error_that_leaves_the_old_file_and_no_other(kind, tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    # The kernel refuses to let a file of this process grow past 2 kB, as it would on a full disk.
    command = [sys.executable, "-c", FULL_DISK, str(path), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: cannot write {path}: ")
    assert "File too large" in done.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "note.txt", "x")


def test_what_a_kill_leaves_behind_is_found_and_nothing_else(tmp_path):
    for name in (".a.parquet.x1.partial", "b/.tmpIsXsTU", "b/.hidden", "b/c.parquet", "b/.tmp", "tmpAbCdEf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)) for path in leftovers(tmp_path)}
    assert found == {".a.parquet.x1.partial", "b/.tmpIsXsTU"}
