"""RivalSettings: sizes of the rivals' fits."""

from dataclasses import dataclass, field

from lab.errors import VectorError
from steering.rivals.descent import Descent


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalSettings:
    """How much each fit sees, and for how long: by default what a model of a few blocks needs on a CPU.

    The published sizes stand behind each field.
    """

    depth: float = 0.375
    """Block that the vectors act at, as a share of all; published: 10 of 28, 12 of 32, 18 of 48, 24 of 64."""
    n_categories: int = 6
    """Published: 5 to 50, chosen by a language model's marks."""
    n_traces: int = 128
    """Traces that the bias is fitted on, at most; published: 2048."""
    n_segments: int = 48
    """Segments that a category's vector is fitted on, at most; published: 2048."""
    n_decisions: int = 2048
    """Positions that the second rival is fitted on, at most; published: 64 in each of 9800 traces."""
    d_hidden: int = 64
    """Of the coefficient network; published: 512."""
    bias: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10))
    """Published: 50 epochs in batches of 1 to 4, rate 1e-2, patience 10."""
    categories: Descent = field(
        default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10)
    )
    """As for the bias."""
    scaled: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=64, learning_rate=0.1, patience=5))
    """Of vectors and coefficients together; published: 10 epochs, rate 1e-2, patience 5."""

    def __post_init__(self) -> None:
        names = ("n_categories", "n_traces", "n_segments", "n_decisions", "d_hidden")
        if low := {name: count for name in names if (count := getattr(self, name)) < 1}:
            raise VectorError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")
        if not 0 <= self.depth < 1:
            raise VectorError(f"a depth of {self.depth:g}: want a share of the blocks, from 0 to below 1")

    def layer(self, n_layers: int) -> int:
        """The block that the vectors act at, in a network of `n_layers`."""
        return min(round(self.depth * n_layers), n_layers - 1)
