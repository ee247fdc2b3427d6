"""What can go wrong because of a user's input or machine; each error is also a standard exception.

A message says what came, what was wanted, and what to try. The command line prints it as one line and exits with 2.
Broken promises of our own code are `assert`s, never these.
"""

import difflib
from collections.abc import Iterable


def meant(word: str, words: Iterable[str]) -> str:
    """Which of `words` an unknown one may stand for, to be put behind it; empty where none is near."""
    near = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def condensed(error: BaseException, n_characters: int = 400) -> str:
    """An error of another's code in one printable line: its kind, and all its lines as far as there is room.

    Libraries put the reason into any line: what is wrong with a field stands below the field's name, the cause of a
    traceback in its last line. Of a `LabError` the kind goes without saying.
    """
    before, is_traceback, traced = _said(error).partition("Traceback (most recent call last)")
    lines = [before, *traced.strip().splitlines()[-1:]] if is_traceback else [before]
    text = " ".join(" ".join(lines).split()) or "no reason given"
    if not isinstance(error, LabError):
        text = f"{type(error).__name__}: {text}"
    # Half a character, as damaged files have it, cannot be written to a terminal.
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= n_characters else f"{text[:n_characters].rpartition(' ')[0] or text[:n_characters]} ..."


def whole(text: str) -> str:
    """`text` with a visible mark in the place of every lone surrogate, which neither tables nor pages can hold.

    Half of a character comes of JSON that was cut, and of bytes that are not UTF-8.

    >>> whole("half \\ud83d")
    'half \ufffd'
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _said(error: BaseException) -> str:
    """Its text; of one that cannot say it, nothing."""
    try:
        return str(error)
    except Exception:
        return ""


class LabError(Exception):
    """Root of every error this project raises on purpose."""


class ModelError(LabError, ValueError):
    """A model cannot be found, read, or taken apart, or two models cannot form a pair."""


class TaskError(LabError, ValueError):
    """A task source is unknown, empty, or has a broken row."""


class DecodingError(LabError, ValueError):
    """A decoding request is impossible, or a model gave logits that cannot be sampled."""


class SiteError(LabError, ValueError):
    """A site names a layer or stream the model does not have, or a hook at it never fired."""


class VectorError(LabError, ValueError):
    """A steering vector does not fit its model, or two vectors do not fit each other."""


class EstimateError(LabError, ValueError):
    """A statistic was asked of counts that cannot give it."""


class StorageError(LabError, OSError):
    """A file cannot be written or read whole, or an output directory belongs to another configuration."""


class WorkerError(LabError, RuntimeError):
    """No worker process can be had, or workers die of a piece of work."""
