"""effects: what every active feature adds to the contrast of a text, by each method, and over many texts."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.metrics.bootstrap import ratio_intervals
from lab.models.load import Model
from lab.records.errors import EstimateError
from lab.sampling.decoder import left_padded
from probes.attribution.contrast import Sides, contrast, read_sides, require_contrasts
from probes.capture.capture import LayersAbove, layers_above
from probes.sae.dictionary import Sae, require_fit
from probes.tables import EFFECTS, FEATURE_EFFECTS, TEXT_EFFECTS


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A few texts, read once, with an entry for each place and feature above zero, by row, place and feature."""

    rest: LayersAbove
    sides: Sides
    row: Int[Tensor, " entry"]
    """Which of the texts."""
    place: Int[Tensor, " entry"]
    """Which token of the text, from 0."""
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Activation, in the SAE's dtype."""
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
    clean = _contrast(rest, sides, rest.stream, torch.arange(len(contrasts), device=model.device))
    return Reading(rest, sides, row, place, feature, value, written, clean)


def _contrast(
    rest: LayersAbove, sides: Sides, stream: Float[Tensor, "edit pos d_model"], rows: Int[Tensor, " edit"]
) -> Float[Tensor, " edit"]:
    logits = rest.logits(stream, rest.lengths[rows, None] - 1)[:, 0]
    return contrast(logits, Sides(sides.toward[rows], sides.against[rows]))


@dataclass(frozen=True, slots=True)
class Ablation:
    """Exact: what is lost when one feature is set to zero at one place, all else kept as it was at the site."""

    name: ClassVar[str] = "ablation"


@dataclass(frozen=True, slots=True)
class JointAblation:
    """Exact: what is lost when one feature is set to zero at all places of the text at once.

    Effects at several places do not add up exactly, because the blocks above are not linear.
    """

    name: ClassVar[str] = "joint ablation"


@dataclass(frozen=True, slots=True)
class Gradient:
    """First order: the activation times the gradient of the contrast with respect to it."""

    name: ClassVar[str] = "gradient"


@dataclass(frozen=True, slots=True)
class Integrated:
    """The activation times the mean gradient while all features of the text grow together from zero.

    Integrated gradients (Sundararajan, Taly and Yan 2017) with a baseline of no features. What the SAE does not
    explain, and its b_dec, stay in the stream all the way. The effects sum to what all features add together, up to the
    error of the quadrature: Gauss-Legendre in the square root of the share of the features, because the norms above the
    site turn the stream fastest where there is little of it.
    """

    name: ClassVar[str] = "integrated"
    n_steps: int = 64

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise EstimateError(f"integrated gradients in {self.n_steps} steps: want at least 1, such as 64")


Method: TypeAlias = Ablation | JointAblation | Gradient | Integrated


class Effects(NamedTuple):
    """The entries of a reading with the effect of each, or, of a joint ablation, one for each text and feature."""

    row: Int[Tensor, " entry"]
    place: Int[Tensor, " entry"] | None
    """None for all at once; the value is then the sum of theirs."""
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    effect: Float[Tensor, " entry"]
    """In nats, in float32."""


def effects(reading: Reading, sae: Sae, method: Method, *, batch: int) -> Effects:
    """The effects of all active features of `reading`; at most `batch` streams pass the blocks above at once.

    An edit changes the stream by `(edited features - features) @ W_dec`, cast to the stream's dtype: the error of the
    SAE stays, and no change leaves the logits as they are. Gradients are taken with respect to features alone.
    """
    match method:
        case Ablation():
            alone = torch.arange(len(reading.row), device=reading.row.device)
            effect = _lost(reading, sae, alone, reading.row, batch)
        case JointAblation():
            pairs, together = (reading.row * sae.d_sae + reading.feature).unique(return_inverse=True)
            row, feature = pairs // sae.d_sae, pairs % sae.d_sae
            value = reading.value.new_zeros(len(pairs)).index_add(0, together, reading.value)
            return Effects(row, None, feature, value, _lost(reading, sae, together, row, batch))
        case Gradient():
            effect = _along(reading, sae, _mean_gradient(reading, np.ones(1), np.ones(1), batch))
        case Integrated(n_steps=n_steps):
            nodes, weights = np.polynomial.legendre.leggauss(n_steps)
            roots = (nodes + 1) / 2
            # The mean over shares s of g(s) is that over u of 2 u g(u^2); half the weights are for half the interval.
            effect = _along(reading, sae, _mean_gradient(reading, roots**2, weights * roots, batch))
        case never:
            assert_never(never)
    return Effects(reading.row, reading.place, reading.feature, reading.value, effect)


@torch.no_grad()
def _lost(
    reading: Reading, sae: Sae, edit_of: Int[Tensor, " entry"], rows: Int[Tensor, " edit"], batch: int
) -> Float[Tensor, " edit"]:
    """What the contrast of text `rows[i]` loses when all active entries with `edit_of` i are set to zero."""
    lost = torch.zeros(len(rows), device=rows.device)
    for first in range(0, len(rows), batch):
        chosen = rows[first : first + batch]
        stream = reading.rest.stream[chosen]
        entries = ((edit_of >= first) & (edit_of < first + batch)).nonzero()[:, 0]
        removed = reading.value[entries, None] * sae.W_dec[reading.feature[entries]]
        # A feature is active at a place once, so no element of the stream is written twice.
        stream[edit_of[entries] - first, reading.place[entries]] -= removed.to(stream.dtype)
        lost[first : first + batch] = reading.clean[chosen] - reading.contrast(stream, chosen)
    return lost


@torch.enable_grad()
def _mean_gradient(
    reading: Reading, shares: Float[np.ndarray, " node"], weights: Float[np.ndarray, " node"], batch: int
) -> Float[Tensor, "text pos d_model"]:
    """Weighted sum, in float32, of the contrast's gradients at the stream with `shares` of all features in it."""
    rest = reading.rest
    n_texts, n_nodes = len(rest.stream), len(shares)
    total = torch.zeros_like(rest.stream, dtype=torch.float32)
    rows = torch.arange(n_texts, device=total.device).repeat_interleave(n_nodes)
    missing, weight = (
        torch.tensor(values, dtype=torch.float32, device=total.device).repeat(n_texts)[:, None, None]
        for values in (1 - shares, weights)
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
    effect = torch.zeros(len(reading.row), device=slope.device)
    for row, of_text in enumerate(slope):
        mine = (reading.row == row).nonzero()[:, 0]
        of_features = of_text.to(sae.dtype) @ sae.W_dec.T
        along = of_features[reading.place[mine], reading.feature[mine]]
        effect[mine] = (reading.value[mine] * along).float()
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
            f"{method.name} in {str(model.dtype).removeprefix('torch.')}: differences of logits as rounded as "
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


CHUNK = 2**20
"""Rows of a lazy `EFFECTS` table that are read at once."""


class Completeness(NamedTuple):
    """How far the features' effects are from what all of them add together."""

    error: float
    """Mean absolute difference over texts, in nats."""
    total: float
    """Mean absolute effect of all features together, in nats."""
    share: float
    """error / total; NaN where that is 0."""


class Sums(NamedTuple):
    """Effects summed over the positions of each text, and over the texts of each problem."""

    features: Int[np.ndarray, " feature"]
    """Those that are active anywhere, ascending."""
    effects: Float[np.ndarray, "problem feature"]
    n_active: Int[np.ndarray, "problem feature"]
    """Texts of the problem in which the feature is active."""
    n_texts: Int[np.ndarray, " problem"]


def feature_effects(
    effects: pl.DataFrame | pl.LazyFrame,
    contrasts: pl.DataFrame,
    method: Method,
    weights: Int[np.ndarray, "boot problem"],
) -> pl.DataFrame:
    """`FEATURE_EFFECTS` rows: the mean over the texts of `contrasts` of the sum over positions of an `EFFECTS` table.

    A text in which a feature is not active counts as 0, and features that are active nowhere are absent. `weights` are
    those of `lab.metrics.bootstrap.resamples` for the problems of `contrasts` in order of first appearance; a problem
    of several texts is drawn with all of them. The interval is that of `ratio_intervals`: NaN with fewer than two
    problems, or where the mean is the same in every resample. Raises EstimateError where effects and contrasts, or
    contrasts and weights, are of other problems.
    """
    require_weights(contrasts, weights)
    sums = problem_sums(effects, contrasts)
    mean = ratio_intervals(sums.effects, sums.n_texts, weights)
    return FEATURE_EFFECTS.checked(
        pl.DataFrame(
            {
                "feature": sums.features,
                "method": [method.name] * len(sums.features),
                "effect": mean.value,
                "low": mean.low,
                "high": mean.high,
                "n_texts": sums.n_active.sum(axis=0),
            },
            schema=FEATURE_EFFECTS.dtypes,  # pyright: ignore[reportArgumentType]
        )
    )


def problem_sums(effects: pl.DataFrame | pl.LazyFrame, contrasts: pl.DataFrame) -> Sums:
    """The sums of an `EFFECTS` table by problem and feature; problems in the order in which `contrasts` names them.

    A lazy table is read three times, a part at a time, so memory does not grow with its places. Effects are added in
    the order of the rows, so that the sums are the same in every run, which a streamed `group_by` does not promise.
    Raises EstimateError where a text of `effects` is not a row of `contrasts` with the same problem.
    """
    counted = contrasts.group_by("problem_id", maintain_order=True).len().with_row_index("row")
    texts = contrasts.select(pl.int_range(pl.len(), dtype=pl.Int32).alias("text"), "problem_id")
    came = effects.lazy().select("text", "problem_id").unique().collect(engine="streaming")
    if len(strays := came.join(texts, on=["text", "problem_id"], how="anti").sort("text", "problem_id")):
        text, problem_id = strays.row(0)
        raise EstimateError(f"effects on text {text} of {problem_id!r} came with {len(texts)} other contrasts")
    active = (
        effects.lazy()
        .group_by("problem_id", "feature")
        .agg(pl.col("text").n_unique())
        .collect(engine="streaming")
        .join(counted, on="problem_id")
    )
    features = active["feature"].unique().sort().to_numpy()
    n_active = np.zeros((len(counted), len(features)), dtype=np.int64)
    n_active[active["row"].to_numpy(), np.searchsorted(features, active["feature"].to_numpy())] = active["text"]
    total = np.zeros(n_active.shape)
    row_of = texts.join(counted, on="problem_id", maintain_order="left")["row"].to_numpy()
    columns = effects.lazy().select("text", "feature", pl.col("effect").cast(pl.Float64))
    for part in columns.collect_batches(maintain_order=True, chunk_size=CHUNK, engine="streaming"):
        places = row_of[part["text"].to_numpy()], np.searchsorted(features, part["feature"].to_numpy())
        np.add.at(total.reshape(-1), np.ravel_multi_index(places, total.shape), part["effect"].to_numpy())
    return Sums(features, total, n_active, counted["len"].to_numpy().astype(np.int64))


def require_weights(contrasts: pl.DataFrame, weights: Int[np.ndarray, "boot problem"]) -> None:
    """EstimateError unless there is one weight for each problem of `contrasts`."""
    n_problems = contrasts["problem_id"].n_unique()
    if weights.shape[1] != n_problems:
        raise EstimateError(
            f"contrasts of {n_problems} problems came with weights for {weights.shape[1]}: make the weights with "
            "resamples(n_problems, ...) for the same problems"
        )


def completeness(texts: pl.DataFrame) -> Completeness:
    """The mean over the texts of a `TEXT_EFFECTS` table, each of which counts by the size of its contrast's change."""
    together = (texts["contrast"] - texts["without"]).to_numpy()
    error, total = float(np.abs(texts["explained"].to_numpy() - together).mean()), float(np.abs(together).mean())
    return Completeness(error, total, error / total if total else float("nan"))
