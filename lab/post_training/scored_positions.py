"""scored_positions: TRL's loss looks only at the tokens that it counts, on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

CHOICE = "_use_triton"
"""By this function `trl.trainer.utils` chooses (1.16; a private name, and without it nothing is changed)."""


@contextmanager
def scored_positions() -> Iterator[None]:
    """Inside, TRL's unembedding gets the positions that are scored, and not the prompts and the padding too.

    Without Triton it takes all of them, so that a compiler of other devices sees one shape; nothing is compiled here.
    The loss and its gradients stay the same but for rounding.
    """
    from trl.trainer import utils

    before = getattr(utils, CHOICE, None)
    if before is None:
        yield
        return
    setattr(utils, CHOICE, lambda _: True)
    try:
        yield
    finally:
        setattr(utils, CHOICE, before)
