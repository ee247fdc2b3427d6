"""A directory appears with all its files, or nothing does."""

import stat

import pytest
from safetensors import SafetensorError

from lab.records.errors import StorageError
from lab.records.stage import atomic_directory


def test_it_is_not_there_before_the_end_and_whole_after_it(tmp_path):
    path = tmp_path / "new" / "out"
    with atomic_directory(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("all of it")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert (path / "inner" / "file").read_text() == "all of it"
    assert [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (OSError(28, "No space left on device"), StorageError, "cannot write .*out: No space left on device; free"),
        (SafetensorError("I/O error"), StorageError, "cannot write .*out: I/O error; free space"),
        (StorageError("as it was said"), StorageError, "^as it was said$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_fault_within_leaves_nothing(fault, raised, message, tmp_path):
    def fill() -> None:
        with atomic_directory(tmp_path / "out") as temporary:
            (temporary / "file").write_text("some of it")
            raise fault

    with pytest.raises(raised, match=message):
        fill()
    assert [*tmp_path.iterdir()] == []


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(StorageError, match="out exists; delete it or choose another --out"),
        atomic_directory(tmp_path / "out"),
    ):
        pytest.fail("it was opened")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_place_that_cannot_hold_it_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"cannot write .*; choose another --out"),
        atomic_directory(tmp_path / "file" / "out"),
    ):
        pytest.fail("it was opened")
