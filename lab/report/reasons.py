"""Reasons: why values were refused, numbered where they are used and spelt out once below."""

from collections.abc import Iterable
from dataclasses import dataclass

from lab.report.markup import escaped


@dataclass(frozen=True, slots=True)
class Reasons:
    """Distinct reasons in order of first appearance; any of them may come from anyone."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Reasons":
        """Each reason once."""
        return cls(tuple(dict.fromkeys(texts)))

    def marks(self, texts: Iterable[str]) -> str:
        """The numbers of some of the reasons, as HTML."""
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return f"<sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""

    def notes(self) -> str:
        """The numbered list, as HTML; empty where there is no reason."""
        items = "".join(f"<li>{escaped(text)}</li>" for text in self.texts)
        return f'<div class="refusals"><p>Why a value is refused:</p><ol>{items}</ol></div>' if items else ""
