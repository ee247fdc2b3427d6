"""architecture: what kind of SAE to train, and how a user writes it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from lab.records.errors import ModelError


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest features of every token (Gao et al. 2024, arXiv 2406.04093)."""

    k: int

    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def __str__(self) -> str:
        """For example `topk:16`."""
        return f"topk:{self.k}"


@dataclass(frozen=True, slots=True)
class BatchTopK:
    """k features a token on average over a batch; read with a threshold (Bussmann et al. 2024, arXiv 2412.06410)."""

    k: int

    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def __str__(self) -> str:
        """For example `batchtopk:16`."""
        return f"batchtopk:{self.k}"


@dataclass(frozen=True, slots=True)
class Matryoshka:
    """BatchTopK whose first features must reconstruct the stream alone (Bussmann et al. 2025, arXiv 2503.17547)."""

    k: int
    widths: tuple[int, ...] = ()
    """How many features each inner reconstruction has, growing; empty for an eighth, a quarter and a half of d_sae."""

    def __post_init__(self) -> None:
        _require_positive("k", self.k)
        if any(low >= high for low, high in zip((0, *self.widths), self.widths, strict=False)):
            raise ModelError(f"inner widths {', '.join(map(str, self.widths))}: want whole numbers that grow, from 1")

    def inner_widths(self, d_sae: int) -> tuple[int, ...]:
        """`widths`, or where it is empty those of an SAE of `d_sae` features."""
        return self.widths or tuple(sorted({max(1, d_sae // part) for part in (8, 4, 2)}))

    def __str__(self) -> str:
        """For example `matryoshka:16` or `matryoshka:16:64,128`."""
        return f"matryoshka:{self.k}" + (f":{','.join(map(str, self.widths))}" if self.widths else "")


@dataclass(frozen=True, slots=True)
class JumpReLU:
    """A learnt threshold for every feature, under a penalty on how many are above it (arXiv 2407.14435)."""

    l0_coefficient: float

    def __post_init__(self) -> None:
        _require_positive("coefficient", self.l0_coefficient)

    def __str__(self) -> str:
        """For example `jumprelu:1`."""
        return f"jumprelu:{_written(self.l0_coefficient)}"


@dataclass(frozen=True, slots=True)
class Standard:
    """ReLU features under an L1 penalty that is weighted by the norms of their decoder rows."""

    l1_coefficient: float

    def __post_init__(self) -> None:
        _require_positive("coefficient", self.l1_coefficient)

    def __str__(self) -> str:
        """For example `standard:5`."""
        return f"standard:{_written(self.l1_coefficient)}"


Architecture: TypeAlias = TopK | BatchTopK | Matryoshka | JumpReLU | Standard


def parse_architecture(text: str) -> Architecture:
    """The inverse of `str`; raises ModelError."""
    name, _, arguments = text.partition(":")
    reader = _READERS.get(name)
    try:
        if reader is None:
            raise ValueError
        return reader(arguments)
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(
            f"no SAE is trained as {text!r}: want topk:K, batchtopk:K, matryoshka:K, matryoshka:K:WIDTH,WIDTH, "
            "jumprelu:L0_COEFFICIENT or standard:L1_COEFFICIENT, such as topk:16"
        ) from error


def _matryoshka(arguments: str) -> Matryoshka:
    k, colon, widths = arguments.partition(":")
    return Matryoshka(int(k), tuple(map(int, widths.split(","))) if colon else ())


_READERS: dict[str, Callable[[str], Architecture]] = {
    "topk": lambda arguments: TopK(int(arguments)),
    "batchtopk": lambda arguments: BatchTopK(int(arguments)),
    "matryoshka": _matryoshka,
    "jumprelu": lambda arguments: JumpReLU(float(arguments)),
    "standard": lambda arguments: Standard(float(arguments)),
}


def _written(coefficient: float) -> str:
    return repr(coefficient).removesuffix(".0")


def _require_positive(what: str, value: float | int) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ModelError(f"{what} {value:g} of an SAE: want a number above 0")
