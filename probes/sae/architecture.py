"""architecture: what kind of SAE to train, how a user writes it, and what the files of one may say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import polars as pl
import torch
from torch import Tensor

from lab.records.errors import ModelError, SiteError
from lab.records.seeds import child_seed
from probes.capture.site import Site
from probes.storage.store import Store


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest features of every token (Gao et al. 2024, arXiv 2406.04093)."""

    k: int

    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def __str__(self) -> str:
        return f"topk:{self.k}"


@dataclass(frozen=True, slots=True)
class BatchTopK:
    """k features a token on average over a batch; read with a threshold (Bussmann et al. 2024, arXiv 2412.06410)."""

    k: int

    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def __str__(self) -> str:
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
        return f"matryoshka:{self.k}" + (f":{','.join(map(str, self.widths))}" if self.widths else "")


@dataclass(frozen=True, slots=True)
class JumpReLU:
    """A learnt threshold for every feature, under a penalty on how many are above it (arXiv 2407.14435)."""

    l0_coefficient: float

    def __post_init__(self) -> None:
        _require_positive("coefficient", self.l0_coefficient)

    def __str__(self) -> str:
        return f"jumprelu:{self.l0_coefficient!r}".removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Standard:
    """ReLU features under an L1 penalty that is weighted by the norms of their decoder rows."""

    l1_coefficient: float

    def __post_init__(self) -> None:
        _require_positive("coefficient", self.l1_coefficient)

    def __str__(self) -> str:
        return f"standard:{self.l1_coefficient!r}".removesuffix(".0")


Architecture: TypeAlias = TopK | BatchTopK | Matryoshka | JumpReLU | Standard


def parse_architecture(text: str) -> Architecture:
    """The inverse of `str`; raises ModelError."""
    try:
        match text.split(":"):
            case ["topk", k]:
                return TopK(int(k))
            case ["batchtopk", k]:
                return BatchTopK(int(k))
            case ["matryoshka", k]:
                return Matryoshka(int(k))
            case ["matryoshka", k, widths]:
                return Matryoshka(int(k), tuple(map(int, widths.split(","))))
            case ["jumprelu", coefficient]:
                return JumpReLU(float(coefficient))
            case ["standard", coefficient]:
                return Standard(float(coefficient))
            case others:
                raise ValueError(others)
    except ModelError:
        raise
    except (ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"no SAE is trained as {text!r}: want topk:K, batchtopk:K, matryoshka:K, matryoshka:K:WIDTH,WIDTH, "
            "jumprelu:L0_COEFFICIENT or standard:L1_COEFFICIENT, such as topk:16"
        ) from error


CONFIG = "cfg.json"
_ALIASES = {"hook_in": "hook_resid_pre", "hook_out": "hook_resid_post"}


OURS = "elicitation_lab"
"""What this project adds to an SAE's metadata: `provenance`, `model_digest` and `architecture`."""


def require_told(described: Mapping[str, Any]) -> None:
    """ModelError where a configuration says what SAELens would pass over, and read another SAE."""
    activation = described.get("activation_fn_str", described.get("activation_fn", "relu"))
    if activation not in ("relu", "topk"):
        raise ModelError(f"its activation is {activation!r}, want relu or topk: read it with the program that made it")
    for name in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(described.get(name, True), bool):
            raise ModelError(f"its {name} is {described[name]!r}, want true or false: save it again")
    # Of a name that is misspelt SAELens takes its own value; of SAEs of other makers it may be right.
    metadata = described.get("metadata")
    if isinstance(metadata, dict) and OURS in metadata:
        wanted = ("apply_b_dec_to_input", *["rescale_acts_by_decoder_norm"] * (described.get("architecture") == "topk"))
        if lost := [name for name in wanted if name not in described]:
            raise ModelError(f"its {CONFIG} lacks {lost[0]}, which it was written with: put it back from a copy")
    given = described.get("activation_fn_kwargs")
    k = described.get("k", given.get("k") if isinstance(given, dict) else None)
    if "topk" in (described.get("architecture"), activation) and type(k) is not int:
        raise ModelError(f"its k is {k!r}, want a whole number: put it into its {CONFIG}, as it was trained")


def require_meant(label: str, kind: str, k: int | None, name: str) -> None:
    """ModelError unless what was trained as `label` is an SAE of that kind, as SAELens calls those that read."""
    match parse_architecture(label):
        case TopK(k=told):
            wanted = "topk", told
        case BatchTopK() | Matryoshka() | JumpReLU():
            wanted = "jumprelu", None
        case Standard():
            wanted = "standard", None
        case never:
            assert_never(never)
    if (kind, k) != wanted:
        held = kind if k is None else f"{kind} with k {k}"
        raise ModelError(f"{name} says that it is {label}, and its files hold {held}: train it again")


def site_of(hook_name: str | None, name: str) -> Site:
    """Where the SAE `name` reads; SiteError for anything but a residual stream."""
    if hook_name is None:
        raise SiteError(f"{name} does not say what it reads: want metadata.hook_name in its {CONFIG}")
    block, _, hook = hook_name.rpartition(".")
    try:
        return Site.parse(f"{block}.{_ALIASES.get(hook, hook)}")
    except SiteError as error:
        raise SiteError(
            f"{name} reads {hook_name!r}: want the residual stream, blocks.N.hook_resid_pre, "
            "blocks.N.hook_resid_mid or blocks.N.hook_resid_post (blocks.N.hook_in, blocks.N.hook_out)"
        ) from error


@torch.no_grad()
def centre(weights: Mapping[str, Tensor], takes_b_dec: bool, name: str) -> None:
    """Folds the mean that is to be taken off a stream into the encoder: with P that projection, x P W = x (P W).

    Where b_dec is taken off first, (x P - b_dec) W = (x - b_dec) P W + (b_dec P - b_dec) W.
    """
    if not {"W_enc", "b_enc", "b_dec"} <= {*weights}:
        raise ModelError(f"{name} learnt streams of centred weights, which its kind cannot be told: want another SAE")
    if takes_b_dec:
        weights["b_enc"].sub_(weights["b_dec"].mean() * weights["W_enc"].sum(dim=0))
    weights["W_enc"].sub_(weights["W_enc"].mean(dim=0))


def _require_positive(what: str, value: float | int) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ModelError(f"{what} {value:g} of an SAE: want a number above 0")


QUALITY_FILE = "quality.parquet"
"""Where the quality of the SAEs of a run lies in its directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How long and how fast an SAE learns, with Adam, and which problems it never sees."""

    n_tokens: int = 500_000
    """Activations it learns from, those of repeated epochs counted again; cut to whole batches."""
    batch_size: int = 1024
    """Activations a step."""
    lr: float | None = None
    """Highest learning rate, on activations scaled to a mean norm of sqrt(d_model); 5e-4 * sqrt(16384 / size) when not
    given."""
    warm_up_share: float = 0.05
    """Share of the steps over which the learning rate rises from 0, and a coefficient of sparsity too."""
    decay_share: float = 0.2
    """Share of the steps, the last ones, over which the learning rate falls to 0."""
    dead_after: int = 200
    """Steps without firing after which a feature is dead, and learns from what the others leave."""
    held_out_share: float = 0.1
    """Share of the problems whose activations are kept back, to judge by (`is_held_out`)."""
    seed: int = 0
    """Decides weights and batches."""

    def __post_init__(self) -> None:
        shares = (self.warm_up_share, self.decay_share, self.held_out_share)
        if self.batch_size < 1 or self.n_tokens < self.batch_size or self.dead_after < 1:
            raise ModelError(
                f"{self.n_tokens} activations in batches of {self.batch_size}, dead after {self.dead_after} steps: "
                "want at least one whole batch, and one step"
            )
        if not ((self.lr is None or self.lr > 0) and all(0 <= share < 1 for share in shares) and sum(shares[:2]) <= 1):
            raise ModelError(
                f"learning rate {self.lr}, shares {shares} of warm-up, decay and held-out problems: want a rate above "
                "0, shares from 0 to below 1, and no more than 1 of warm-up and decay together"
            )

    @property
    def n_steps(self) -> int:
        return self.n_tokens // self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One SAE to train."""

    site: Site
    architecture: Architecture
    d_sae: int
    training: Training

    def __post_init__(self) -> None:
        match self.architecture:
            case Matryoshka(k=k) as nested:
                least = max(k, *(width + 1 for width in nested.inner_widths(self.d_sae)))
            case TopK(k=k) | BatchTopK(k=k):
                least = k
            case JumpReLU() | Standard():
                least = 1
            case never:
                assert_never(never)
        if self.d_sae < least:
            raise ModelError(f"{self.architecture} with {self.d_sae} features: want at least {least}")

    @property
    def lr(self) -> float:
        """The highest learning rate; if none is given, 5e-4 at 2^14 features, and as 1 / sqrt(d_sae) at others.

        The root is that of Gao et al. 2024 (arXiv 2406.04093).
        """
        return self.training.lr or 5e-4 * (2**14 / self.d_sae) ** 0.5

    @property
    def name(self) -> str:
        """Its directory below that of a run, for example `blocks.1.hook_resid_post/topk-16-512`."""
        kind = str(self.architecture).replace(":", "-").replace(",", "-")
        return f"{self.site}/{kind}-{self.d_sae}"


def is_held_out(problem_id: str, share: float) -> bool:
    """Whether a problem is among the held-out `share` in [0, 1] of all problems.

    A hash of its name decides, so every store, site and seed holds out the same problems, and a larger share holds out
    those of a smaller one and more.
    """
    return child_seed(0, "held out", problem_id) < share * 2**63


def count_rows(store: Store, share: float) -> tuple[int, int]:
    """(rows to learn from, held-out rows) of a store; StorageError where a part of its index is missing."""
    sizes = store.index().group_by("problem_id").agg(pl.len().alias("n_rows")).collect()
    held_out = [is_held_out(problem_id, share) for problem_id in sizes["problem_id"]]
    n_held_out = int(sizes["n_rows"].filter(pl.Series(held_out, dtype=pl.Boolean)).sum())
    return store.n_rows - n_held_out, n_held_out
