"""effects: what every active feature of a reading adds to its contrast, by each method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import EstimateError
from lab.sampling.decoder import left_padded
from probes.attribution.contrast import Sides, contrast, read_sides, require_contrasts
from probes.capture.capture import LayersAbove, layers_above
from probes.sae.dictionary import Sae, require_fit
from probes.tables import EFFECTS, TEXT_EFFECTS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Active:
    """Every place and feature above zero, by row, place and feature."""

    row: Int[Tensor, " entry"]
    """Which text of the reading."""
    place: Int[Tensor, " entry"]
    """Which token of the text, from 0."""
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Activation, in the SAE's dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """A few texts, read once."""

    rest: LayersAbove
    sides: Sides
    active: Active
    written: Float[Tensor, "text pos d_model"]
    """What the features add to the stream: `features @ W_dec`, in the stream's dtype; 0 behind a text's end."""
    clean: Float[Tensor, " text"]
    """The contrast of each text as the model has it, in nats."""

    def contrast(self, stream: Float[Tensor, "edit pos d_model"], rows: Int[Tensor, " edit"]) -> Float[Tensor, " edit"]:
        """The contrasts, in nats, of edited streams, each of which is one of the text `rows`; gradients pass."""
        return _contrast(self.rest, self.sides, stream, rows)


@torch.no_grad()
def read(model: Model, sae: Sae, contrasts: pl.DataFrame) -> Reading:
    """Reads the texts of a `CONTRASTS` table as one batch, and encodes them one by one."""
    padded = left_padded(model, contrasts["tokens"].to_list())
    rest = layers_above(model, sae.site, padded.tokens, padded.mask)
    sides = read_sides(contrasts, model.device)
    written = torch.zeros_like(rest.stream)
    entries: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for row, n_tokens in enumerate(rest.lengths.tolist()):
        features = sae.encode(rest.stream[row, :n_tokens])
        written[row, :n_tokens] = (features @ sae.W_dec).to(rest.stream.dtype)
        place, feature = features.nonzero(as_tuple=True)
        entries.append((torch.full_like(place, row), place, feature, features[place, feature]))
    row, place, feature, value = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return Reading(
        rest=rest,
        sides=sides,
        active=Active(row=row, place=place, feature=feature, value=value),
        written=written,
        clean=_contrast(rest, sides, rest.stream, torch.arange(len(contrasts), device=model.device)),
    )


def _contrast(
    rest: LayersAbove, sides: Sides, stream: Float[Tensor, "edit pos d_model"], rows: Int[Tensor, " edit"]
) -> Float[Tensor, " edit"]:
    logits = rest.logits(stream, rest.lengths[rows, None] - 1)[:, 0]
    return contrast(logits, Sides(sides.toward[rows], sides.against[rows]))


@dataclass(frozen=True, slots=True)
class Ablation:
    """Exact: what is lost when one feature is set to zero at one place, all else kept as it was at the site."""


@dataclass(frozen=True, slots=True)
class JointAblation:
    """Exact: what is lost when one feature is set to zero at all places of the text at once.

    Effects at several places do not add up exactly, because the blocks above are not linear.
    """


@dataclass(frozen=True, slots=True)
class Gradient:
    """First order: the activation times the gradient of the contrast with respect to it."""


@dataclass(frozen=True, slots=True)
class Integrated:
    """The activation times the mean gradient while all features of the text grow together from zero.

    Integrated gradients (Sundararajan, Taly and Yan 2017) with a baseline of no features. What the SAE does not
    explain, and its b_dec, stay in the stream all the way. The effects sum to what all features add together, up to the
    error of the quadrature: Gauss-Legendre in the square root of the share of the features, because the norms above the
    site turn the stream fastest where there is little of it.
    """

    n_steps: int = 64

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise EstimateError(f"integrated gradients in {self.n_steps} steps: want at least 1, such as 64")


Method: TypeAlias = Ablation | JointAblation | Gradient | Integrated


def method_name(method: Method) -> str:
    """As tables write it."""
    match method:
        case Ablation():
            return "ablation"
        case JointAblation():
            return "joint ablation"
        case Gradient():
            return "gradient"
        case Integrated():
            return "integrated"
        case never:
            assert_never(never)


class Effects(NamedTuple):
    """One entry for each active place and feature, or, of a joint ablation, for each text and feature."""

    row: Int[Tensor, " entry"]
    """Which text of the reading."""
    place: Int[Tensor, " entry"] | None
    """Which token of the text; None for all at once."""
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Activation, or the sum of those at all places."""
    effect: Float[Tensor, " entry"]
    """In nats, in float32."""


def effects(reading: Reading, sae: Sae, method: Method, *, batch: int) -> Effects:
    """The effects of all active features of `reading`; at most `batch` streams pass the blocks above at once.

    An edit changes the stream by `(edited features - features) @ W_dec`, cast to the stream's dtype: the error of the
    SAE stays, and no change leaves the logits as they are. Gradients are taken with respect to features alone.
    """
    active = reading.active
    match method:
        case Ablation():
            alone = torch.arange(len(active.row), device=active.row.device)
            lost = _lost(reading, sae, alone, active.row, batch)
            return Effects(active.row, active.place, active.feature, active.value, lost)
        case JointAblation():
            pairs, together = (active.row * sae.d_sae + active.feature).unique(return_inverse=True)
            row, feature = pairs // sae.d_sae, pairs % sae.d_sae
            value = active.value.new_zeros(len(pairs)).index_add(0, together, active.value)
            return Effects(row, None, feature, value, _lost(reading, sae, together, row, batch))
        case Gradient():
            slope = _mean_gradient(reading, [1.0], [1.0], batch)
        case Integrated(n_steps=n_steps):
            nodes, weights = np.polynomial.legendre.leggauss(n_steps)
            roots = (nodes + 1) / 2
            # The mean over shares s of g(s) is that over u of 2 u g(u^2); half the weights are for half the interval.
            slope = _mean_gradient(reading, roots**2, weights * roots, batch)
        case never:
            assert_never(never)
    return Effects(active.row, active.place, active.feature, active.value, _along(reading, sae, slope))


@torch.no_grad()
def _lost(
    reading: Reading, sae: Sae, edit_of: Int[Tensor, " entry"], rows: Int[Tensor, " edit"], batch: int
) -> Float[Tensor, " edit"]:
    """What the contrast of text `rows[i]` loses when all active entries with `edit_of` i are set to zero."""
    active = reading.active
    lost = torch.zeros(len(rows), device=rows.device)
    for first in range(0, len(rows), batch):
        chosen = rows[first : first + batch]
        stream = reading.rest.stream[chosen]
        entries = ((edit_of >= first) & (edit_of < first + batch)).nonzero()[:, 0]
        removed = active.value[entries, None] * sae.W_dec[active.feature[entries]]
        # A feature is active at a place once, so no element of the stream is written twice.
        stream[edit_of[entries] - first, active.place[entries]] -= removed.to(stream.dtype)
        lost[first : first + batch] = reading.clean[chosen] - reading.contrast(stream, chosen)
    return lost


@torch.enable_grad()
def _mean_gradient(
    reading: Reading, shares: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray, batch: int
) -> Float[Tensor, "text pos d_model"]:
    """Weighted sum, in float32, of the contrast's gradients at the stream with `shares` of all features in it."""
    rest = reading.rest
    n_texts, n_nodes = len(rest.stream), len(shares)
    total = torch.zeros_like(rest.stream, dtype=torch.float32)
    rows = torch.arange(n_texts, device=total.device).repeat_interleave(n_nodes)
    missing, weight = (
        torch.tensor(values, dtype=torch.float32, device=total.device).repeat(n_texts)[:, None, None]
        for values in (1 - np.asarray(shares), weights)
    )
    for edits in torch.arange(len(rows), device=rows.device).split(batch):
        chosen = rows[edits]
        stream = rest.stream[chosen] - missing[edits].to(rest.stream.dtype) * reading.written[chosen]
        stream.requires_grad_()
        (gradient,) = torch.autograd.grad(reading.contrast(stream, chosen).sum(), stream)
        total.index_add_(0, chosen, weight[edits] * gradient.float())
    return total


@torch.no_grad()
def _along(reading: Reading, sae: Sae, slope: Float[Tensor, "text pos d_model"]) -> Float[Tensor, " entry"]:
    """Activation times the slope along the feature's direction, text by text, as dense features are large."""
    active = reading.active
    effect = torch.zeros(len(active.row), device=slope.device)
    for row, of_text in enumerate(slope):
        mine = (active.row == row).nonzero()[:, 0]
        of_features = of_text.to(sae.dtype) @ sae.W_dec.T
        along = of_features[active.place[mine], active.feature[mine]]
        effect[mine] = (active.value[mine] * along).float()
    return effect


class Attribution(NamedTuple):
    """What was found."""

    effects: pl.DataFrame
    """`EFFECTS`: active features only, by text, position and feature."""
    texts: pl.DataFrame
    """`TEXT_EFFECTS`: one row a text."""


def attribute(model: Model, sae: Sae, contrasts: pl.DataFrame, method: Method, *, batch: int = 64) -> Attribution:
    """The effect of every active feature of `sae` on the contrasts of a `CONTRASTS` table, by `method`.

    `batch` bounds memory: so many texts are read, and so many streams pass the blocks above the site, at once. Raises
    ModelError for an SAE of another width, SiteError for a layer out of range, and EstimateError for a batch below 1,
    an ablation in less than float32, and as `require_contrasts` does.
    """
    require_attributable(model, sae, contrasts, method, batch)
    lengths = contrasts["tokens"].list.len().to_list()
    # Texts of like length share a batch, which keeps the padding short.
    order = np.array(sorted(range(len(contrasts)), key=lengths.__getitem__), dtype=np.int32)
    problem_ids = contrasts["problem_id"].to_numpy()
    entries, totals = [], []
    for first in range(0, len(order), batch):
        texts = order[first : first + batch]
        reading = read(model, sae, contrasts[texts])
        found = effects(reading, sae, method, batch=batch)
        entries.append(_entries(found, texts, problem_ids))
        totals.append(_totals(reading, found, texts, problem_ids))
    return Attribution(
        EFFECTS.checked(pl.concat(entries).sort("text", "position", "feature")),
        TEXT_EFFECTS.checked(pl.concat(totals).sort("text")),
    )


def require_attributable(model: Model, sae: Sae, contrasts: pl.DataFrame, method: Method, batch: int) -> None:
    """Raises what `attribute` raises, before any work."""
    if batch < 1:
        raise EstimateError(f"batches of {batch} texts: want at least 1")
    if isinstance(method, Ablation | JointAblation) and model.dtype.itemsize < torch.float32.itemsize:
        # Measured on an organism in bfloat16: 96 % of the differences round to 0.
        raise EstimateError(
            f"{method_name(method)} in {str(model.dtype).removeprefix('torch.')}: differences of logits as rounded as "
            "that are mostly 0; load the model in float32, or take gradients"
        )
    require_fit(sae, model)
    require_contrasts(model, contrasts)


def _entries(found: Effects, texts: np.ndarray, problem_ids: np.ndarray) -> pl.DataFrame:
    text = texts[found.row.cpu().numpy()]
    place = None if found.place is None else found.place.int().cpu().numpy()
    return pl.DataFrame(
        {
            "text": text,
            "problem_id": problem_ids[text],
            "position": pl.Series(np.full(len(text), None) if place is None else place, dtype=pl.Int32),
            "feature": found.feature.int().cpu().numpy(),
            "activation": found.value.float().cpu().numpy(),
            "effect": found.effect.cpu().numpy(),
        },
        schema=EFFECTS.dtypes,  # pyright: ignore[reportArgumentType]
    )


@torch.no_grad()
def _totals(reading: Reading, found: Effects, texts: np.ndarray, problem_ids: np.ndarray) -> pl.DataFrame:
    rows = torch.arange(len(texts), device=reading.clean.device)
    without = reading.contrast(reading.rest.stream - reading.written, rows)
    explained = np.bincount(found.row.cpu().numpy(), weights=found.effect.cpu().numpy(), minlength=len(texts))
    return pl.DataFrame(
        {
            "text": texts,
            "problem_id": problem_ids[texts],
            "contrast": reading.clean.double().cpu().numpy(),
            "without": without.double().cpu().numpy(),
            "explained": explained,
        },
        schema=TEXT_EFFECTS.dtypes,  # pyright: ignore[reportArgumentType]
    )
