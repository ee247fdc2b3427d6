"""Format: a way to write a vector for other programs, and to read theirs.

A new one is a frozen dataclass that inherits `Format`, in a file of its own, and an entry in
`steering.export.export.FORMATS`. It writes, and says in a card how programs take what it wrote; reading, and being
written for one model, are for those that can or must.
"""

import json
import re
import shlex
from abc import abstractmethod
from pathlib import Path
from typing import Protocol, runtime_checkable

from lab.models.load import Model
from steering.export.vector_file import Origin, VectorFile
from steering.vector import SteeringVector


@runtime_checkable
class Format(Protocol):
    """What a vector is written as."""

    @abstractmethod
    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """Writes `vector` to `path`, whole or not at all.

        Raises VectorError and SiteError for what the format cannot hold, with the reason.
        """
        ...

    @abstractmethod
    def use(self, path: Path, model: str, /) -> str:
        """Sections of Markdown on how programs take what was written to `path` of a vector of `model`."""
        ...

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """The vector in the file at `path`, None where its content is of another format; VectorError for damage."""
        del path

    @classmethod
    def for_model(cls, model: Model | None) -> "Format":
        """The format as it is written for `model`; VectorError where it needs one."""
        del model
        return cls()


def section(title: str, language: str, *lines: str) -> str:
    """A section of a card with one block of code."""
    return f"### {title}\n\n{fenced(language, *lines)}"


def fenced(language: str, *lines: str) -> str:
    """A block of code that nothing inside can end."""
    code = "\n".join(" ".join(line.splitlines()) for line in lines)
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def quoted(text: str | Path) -> str:
    """A literal of Python."""
    return json.dumps(str(text))


def shell(text: str | Path) -> str:
    """A word of a command line."""
    return shlex.quote(str(text))
