"""tidied: a stage of the command line that leaves no empty directory beside its results."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def tidied(out: Path) -> Iterator[None]:
    """Within the block `lab.stage.memoised` makes `out`; then its place of work goes, where nothing is in it.

    So a request that is refused before its first file is written leaves nothing that a mended one would stumble over.
    What was begun stays, since the same command goes on from there.
    """
    work = out.parent / ".work"
    try:
        yield
    finally:
        with suppress(OSError):
            (work / out.name).rmdir()
        # A kill may have left the mark of the owner after its work had gone, or a hidden part of one.
        if not (work / out.name).exists():
            for mark in (*work.glob(f"{out.name}.digest"), *work.glob(f".{out.name}.digest.*.partial")):
                mark.unlink()
        with suppress(OSError):
            work.rmdir()
