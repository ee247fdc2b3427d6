"""A stage runs once, is never mixed with another, and goes on after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.records.errors import StorageError
from lab.records.stage import MARKER, check_stage, memoised
from lab.records.tables import write_text

ROOT = Path(__file__).parents[3]

KILLED = """
import os, signal, sys
from pathlib import Path
from lab.records.stage import memoised
from lab.records.tables import replacing, write_text

def compute(work):
    write_text(work / "shard-0", "first")
    with replacing(work / "shard-1") as temporary:
        temporary.write_text("half of the sec")
        os.kill(os.getpid(), signal.SIGKILL)

memoised(Path(sys.argv[1]), "traces", {"k": 1}, {"model": "m"}, compute)
"""


class Counted:
    """A stage of two files that counts how often it ran and how many files it had to write."""

    def __init__(self) -> None:
        self.n_runs = 0
        self.written: list[str] = []

    def __call__(self, work: Path) -> None:
        self.n_runs += 1
        for name, text in (("shard-0", "first"), ("shard-1", "second")):
            if not (work / name).exists():
                write_text(work / name, text)
                self.written.append(name)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_stage_runs_once_and_keeps_its_files_with_their_checksums(tmp_path):
    compute = Counted()
    first = memoised(tmp_path, "traces", {"k": 1}, {"model": "m"}, compute)
    again = memoised(tmp_path, "traces", {"k": 1}, {"model": "m"}, compute)
    assert compute.n_runs == 1
    assert first == again
    assert names(first.path) == ["shard-0", "shard-1", MARKER]
    assert list(json.loads((first.path / MARKER).read_text())["files"]) == ["shard-0", "shard-1"]
    assert names(tmp_path) == ["traces"]


@pytest.mark.parametrize(
    ("config", "parents"), [({"k": 2}, {"model": "m"}), ({"k": 1}, {"model": "n"}), ({"k": 1}, {})]
)
def test_results_of_another_configuration_or_parent_are_refused_and_kept(config, parents, tmp_path):
    done = memoised(tmp_path, "traces", {"k": 1}, {"model": "m"}, Counted())
    compute = Counted()
    with pytest.raises(StorageError, match="another configuration: choose another --out or delete it"):
        memoised(tmp_path, "traces", config, parents, compute)
    assert compute.n_runs == 0
    check_stage(done.path, done.digest)


@pytest.mark.parametrize("damage", [lambda path: path.write_text("Second"), lambda path: path.unlink()])
def test_a_damaged_or_missing_file_is_named(damage, tmp_path):
    done = memoised(tmp_path, "traces", {}, {}, Counted())
    damage(done.path / "shard-1")
    with pytest.raises(StorageError, match=r"traces/shard-1 is missing or damaged: delete .*traces to compute"):
        memoised(tmp_path, "traces", {}, {}, Counted())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digest": "x"}'])
def test_a_directory_without_a_whole_marker_is_no_finished_stage(text, tmp_path):
    done = memoised(tmp_path, "traces", {}, {}, Counted())
    (done.path / MARKER).write_text(text)
    with pytest.raises(StorageError, match="is not a finished stage"):
        memoised(tmp_path, "traces", {}, {}, Counted())
    (done.path / MARKER).unlink()
    with pytest.raises(StorageError, match="is not a finished stage"):
        memoised(tmp_path, "traces", {}, {}, Counted())


def test_a_process_killed_in_the_middle_leaves_whole_files_that_the_next_goes_on_from(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "traces").exists()
    compute = Counted()
    artefact = memoised(tmp_path, "traces", {"k": 1}, {"model": "m"}, compute)
    assert compute.written == ["shard-1"]
    assert names(artefact.path) == ["shard-0", "shard-1", MARKER]
    check_stage(artefact.path, artefact.digest)
    # The resumed stage has the bytes of one that was never stopped.
    whole = memoised(tmp_path / "other", "traces", {"k": 1}, {"model": "m"}, Counted())
    for name in names(whole.path):
        assert (whole.path / name).read_bytes() == (artefact.path / name).read_bytes()


def test_a_process_killed_just_before_the_last_step_is_resumed_too(tmp_path):
    done = memoised(tmp_path, "traces", {}, {}, Counted())
    # What a kill between the marker and the move leaves: all files, the marker, the owner's digest.
    (tmp_path / ".work").mkdir()
    done.path.rename(tmp_path / ".work" / "traces")
    (tmp_path / ".work" / "traces.digest").write_text(done.digest)
    compute = Counted()
    again = memoised(tmp_path, "traces", {}, {}, compute)
    assert compute.written == []
    check_stage(again.path, again.digest)


def test_a_process_killed_just_after_the_last_step_has_finished(tmp_path):
    done = memoised(tmp_path, "traces", {}, {}, Counted())
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "traces.digest").write_text(done.digest)
    (tmp_path / ".work" / ".traces.digest.x.partial").write_text(done.digest[:5])
    compute = Counted()
    assert memoised(tmp_path, "traces", {}, {}, compute) == done
    assert compute.n_runs == 0
    assert names(tmp_path) == ["traces"]


@pytest.mark.parametrize("with_owner", [True, False])
def test_unfinished_work_of_another_configuration_is_refused_and_kept(with_owner, tmp_path):
    def stopped(work: Path) -> None:
        write_text(work / "shard-0", "first")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memoised(tmp_path, "traces", {"k": 1}, {}, stopped)
    if not with_owner:
        (tmp_path / ".work" / "traces.digest").unlink()
    with pytest.raises(StorageError, match="unfinished work of another configuration: delete it"):
        memoised(tmp_path, "traces", {"k": 2}, {}, Counted())
    assert (tmp_path / ".work" / "traces" / "shard-0").read_text() == "first"


def test_an_error_in_a_stage_leaves_no_result_and_the_next_attempt_goes_on(tmp_path):
    def broken(work: Path) -> None:
        write_text(work / "shard-0", "first")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memoised(tmp_path, "traces", {}, {}, broken)
    assert not (tmp_path / "traces").exists()
    compute = Counted()
    memoised(tmp_path, "traces", {}, {}, compute)
    assert compute.written == ["shard-1"]


@pytest.mark.parametrize("refusal", [StorageError, KeyboardInterrupt])
def test_what_is_refused_before_its_first_file_leaves_nothing_in_the_way_of_another_request(refusal, tmp_path):
    def refused(work: Path) -> None:
        raise refusal

    with pytest.raises(refusal):
        memoised(tmp_path, "traces", {"k": 1}, {}, refused)
    assert names(tmp_path) == []
    memoised(tmp_path, "traces", {"k": 2}, {}, Counted())
    assert names(tmp_path) == ["traces"]


def test_the_work_of_another_stage_is_left_alone(tmp_path):
    def stopped(work: Path) -> None:
        write_text(work / "shard-0", "first")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memoised(tmp_path, "one", {}, {}, stopped)
    memoised(tmp_path, "two", {}, {}, Counted())
    assert names(tmp_path / ".work") == ["one", "one.digest"]
    compute = Counted()
    memoised(tmp_path, "one", {}, {}, compute)
    assert compute.written == ["shard-1"]
    assert names(tmp_path) == ["one", "two"]


def test_stages_of_one_directory_do_not_touch_each_other(tmp_path):
    first = memoised(tmp_path, "one", {}, {}, Counted())
    second = memoised(tmp_path, "two", {}, {"one": first.digest}, Counted())
    assert first.digest != second.digest
    check_stage(first.path, first.digest)


def test_a_stage_that_has_nothing_to_write_is_finished_too(tmp_path):
    first = memoised(tmp_path, "vectors", {"k": 1}, {}, lambda _: None)
    assert memoised(tmp_path, "vectors", {"k": 1}, {}, lambda _: pytest.fail("computed again")) == first
    (first.path / "stranger.parquet").write_text("not of this stage")
    with pytest.raises(StorageError, match=r"stranger\.parquet was not there"):
        memoised(tmp_path, "vectors", {"k": 1}, {}, lambda _: None)
