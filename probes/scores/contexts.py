"""contexts: where features are most active, with the tokens around."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lab.metrics.bootstrap import ratio_intervals
from lab.models.anatomy import alike, spread
from lab.models.load import Model
from lab.records.errors import ModelError, SiteError, StorageError
from probes.sae.dictionary import Sae, require_fit
from probes.scores.labels import require_features, shard_features
from probes.storage.store import Store, read_index, read_texts
from probes.tables import CONTEXTS, DIFFERENCES, LOGIT_EFFECTS


class _Top(NamedTuple):
    """The best contexts so far, the best first; those of value 0 are none."""

    values: Float[Tensor, "rank feature"]
    texts: Int[Tensor, "rank feature"]
    positions: Int[Tensor, "rank feature"]
    windows: Float[Tensor, "rank feature place"]
    """Activations from `before` places in front of the position to `after` behind it; NaN where none is stored."""


class _Read(NamedTuple):
    """One text of the store."""

    text: int
    positions: Int[Tensor, " row"]
    active: Float[Tensor, "row feature"]


def contexts(
    store: Store,
    sae: Sae,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[int],
    *,
    n_contexts: int = 10,
    before: int = 10,
    after: int = 5,
) -> pl.DataFrame:
    """`CONTEXTS` rows: for each of `features` the `n_contexts` texts with its largest activations, by its largest one.

    One pass for all features, in which the best so far stay on the SAE's device; memory does not grow with the tokens.
    Of equal activations the one of the earlier text comes first, and in a text the earlier token. A feature that never
    fires has no context. Tokens are decoded one by one, so that a piece of a character shows as a mark.

    Raises SiteError for a feature that the SAE does not have or a window of nothing, and as `shard_features` does.
    """
    require_features(sae, features)
    if n_contexts < 1 or before < 0 or after < 0:
        raise SiteError(
            f"{n_contexts} contexts of {before} tokens before and {after} after: want 1 context or more, and no window "
            "below 0"
        )
    device, n_places = sae.W_dec.device, before + 1 + after
    shape = (n_contexts, len(features))
    top = _Top(
        values=torch.zeros(shape, dtype=torch.float64, device=device),
        texts=torch.zeros(shape, dtype=torch.long, device=device),
        positions=torch.zeros(shape, dtype=torch.long, device=device),
        windows=torch.full((*shape, n_places), torch.nan, device=device),
    )
    columns = torch.tensor(list(features), device=device)
    for number in range(len(store.portions)):
        for read in _texts(store, sae, columns, number):
            top = _better(top, read, before, after)
    return _table(store, tokenizer, features, top, before)


def _texts(store: Store, sae: Sae, columns: Int[Tensor, " feature"], number: int) -> Iterator[_Read]:
    """The texts of a shard, each whole, though rows are encoded in batches."""
    index = read_index(store, number)
    texts = index["text"].to_numpy()
    positions = torch.tensor(index["position"].to_numpy(), dtype=torch.long, device=columns.device)
    ends = [*(np.flatnonzero(np.diff(texts)) + 1).tolist(), len(texts)]
    held, first, n_ended = torch.empty(0, len(columns), device=columns.device), 0, 0
    for chosen, active in shard_features(store, sae, number):
        held = torch.cat([held, active[:, columns].float()])
        while n_ended < len(ends) and ends[n_ended] <= chosen.stop:
            end = ends[n_ended]
            yield _Read(int(texts[first]), positions[first:end], held[: end - first])
            held, first, n_ended = held[end - first :], end, n_ended + 1


def _better(top: _Top, read: _Read, before: int, after: int) -> _Top:
    """`top` with the text's largest activation of each feature put where it belongs, behind its equals."""
    best, at = read.active.max(dim=0)
    # As a rule most features have seen better, so only the others are sorted.
    (rising,) = (best > top.values[-1]).nonzero(as_tuple=True)
    if not len(rising):
        return top
    positions = read.positions[at[rising]]
    values = torch.cat([top.values[:, rising], best[rising].double()[None]])
    values, order = values.sort(dim=0, descending=True, stable=True)
    order = order[:-1]

    def merged(old: Tensor, new: Tensor) -> Tensor:
        together = torch.cat([old[:, rising], new[None]])
        places = order.reshape(*order.shape, *[1] * (together.ndim - 2)).expand(-1, -1, *together.shape[2:])
        return old.index_copy(1, rising, together.gather(0, places))

    return _Top(
        values=top.values.index_copy(1, rising, values[:-1]),
        texts=merged(top.texts, torch.full_like(positions, read.text)),
        positions=merged(top.positions, positions),
        windows=merged(top.windows, _windows(read, rising, positions, before, after)),
    )


def _windows(
    read: _Read, rising: Int[Tensor, " some"], positions: Int[Tensor, " some"], before: int, after: int
) -> Float[Tensor, "some place"]:
    """Activations around a position of each feature; NaN where none is stored."""
    start = int(read.positions[0]) - before
    n_places = int(read.positions[-1]) + after + 1 - start
    by_place = torch.full((n_places, len(rising)), torch.nan, device=read.active.device)
    by_place[read.positions - start] = read.active[:, rising]
    offsets = torch.arange(-before, after + 1, device=positions.device)
    return by_place.gather(0, (positions - start)[None] + offsets[:, None]).T


def _table(
    store: Store, tokenizer: PreTrainedTokenizerBase, features: Sequence[int], top: _Top, before: int
) -> pl.DataFrame:
    texts = read_texts(store)
    n_places = top.windows.shape[2]
    spelled = functools.cache(lambda token: str(tokenizer.decode([token])))
    values, of_text, positions = top.values.tolist(), top.texts.tolist(), top.positions.tolist()
    windows = top.windows.cpu()
    rows: list[dict[str, object]] = []
    for column, feature in enumerate(features):
        for rank in range(len(values)):
            if not values[rank][column]:
                break
            text, position = texts.row(of_text[rank][column], named=True), positions[rank][column]
            tokens = [*text["prompt"], *text["completion"]]
            first, end = max(0, position - before), min(len(tokens), position - before + n_places)
            shown = windows[rank, column, first - (position - before) : end - (position - before)]
            rows.append(
                {
                    "feature": feature,
                    "rank": rank,
                    "problem_id": text["problem_id"],
                    "sample_index": text["sample_index"],
                    "position": position,
                    "activation": values[rank][column],
                    "first": first,
                    "tokens": [spelled(token) for token in tokens[first:end]],
                    "activations": shown.tolist(),
                }
            )
    return CONTEXTS.frame(rows)


_TOGETHER = 2**24
"""Effects that are held at once."""


@torch.no_grad()
def logit_effects(model: Model, sae: Sae, features: Sequence[int], n_tokens: int = 10) -> pl.DataFrame:
    """`LOGIT_EFFECTS` rows: for each of `features` the `n_tokens` tokens it raises most, and those it lowers most.

    The effect of a feature on a token is (W_dec * gain) @ W_U, minus its mean over the vocabulary. `gain` is the final
    norm's weight (1 + weight in Gemma), and a LayerNorm's centring of the row comes before it. The division by the
    stream's size is left out, as if that were 1: it differs from token to token, and is the same for all tokens of the
    vocabulary. So the order of tokens is right, and effects compare between features of one place; biases cancel.
    Gemma 2's soft cap on the logits is left out too, and keeps their order. What later blocks make of the feature is no
    part of this.

    Tokens that the tokenizer does not have are left out. The vocabulary is read in parts. Raises ModelError or
    SiteError where the SAE does not fit the model, and SiteError for a feature that it does not have.
    """
    require_fit(sae, model)
    require_features(sae, features)
    written = directions(model, sae.W_dec[list(features)].to(model.device))
    unembed = model.anatomy.unembed.weight
    assert isinstance(unembed, Tensor)
    n_vocab = min(len(model.tokenizer), model.anatomy.d_vocab)
    unembed = unembed[:n_vocab]
    centre = unembed.float().mean(dim=0)
    rows: list[dict[str, object]] = []
    for side, sign in (("up", 1.0), ("down", -1.0)):
        strengths, tokens = _strongest(sign * written, unembed, centre, min(n_tokens, n_vocab))
        for feature, found, effects in zip(features, tokens.tolist(), (sign * strengths).tolist(), strict=True):
            rows += [
                {
                    "feature": feature,
                    "side": side,
                    "rank": rank,
                    "token": token,
                    "text": str(model.tokenizer.decode([token])),
                    "effect": effect,
                }
                for rank, (token, effect) in enumerate(zip(found, effects, strict=True))
            ]
    return LOGIT_EFFECTS.frame(rows).sort("feature", "side", "rank", descending=[False, True, False])


def directions(model: Model, written: Float[Tensor, "feature d_model"]) -> Float[Tensor, "feature d_model"]:
    """What the unembedding reads of vectors that are added to the last stream, but for the division by its size."""
    gain, written = norm_gain(model.anatomy.final_norm, model.anatomy.d_model), written.float()
    if gain.centres:
        written = written - written.mean(dim=1, keepdim=True)
    return written * gain.weight


class Gain(NamedTuple):
    """What a norm makes of a stream, but for the division by its size and its bias."""

    weight: Float[Tensor, " d_model"]
    """It is multiplied by this; in fp32."""
    centres: bool
    """Whether its mean is taken off first."""


@torch.no_grad()
def norm_gain(norm: nn.Module, d_model: int) -> Gain:
    """Measured: whether a norm centres, and whether it multiplies by its weight, by 1 + weight or by nothing.

    ModelError where it is neither.
    """
    told = getattr(norm, "weight", None)
    like = told if isinstance(told, Tensor) else torch.empty(d_model)
    raw = spread(like.new_empty(1, d_model))
    nothing = norm(torch.zeros_like(raw))
    given, shifted = norm(raw) - nothing, norm(raw + 8.0) - nothing
    centres = alike(shifted.float(), given.float(), digits=0.2)
    stream = raw.double() - (raw.double().mean() if centres else 0.0)
    unit = stream / stream.square().mean().sqrt()
    none = torch.ones_like(unit[0])
    weights = (none,) if told is None else (like.double(), 1 + like.double(), none)
    weight = min(weights, key=lambda weight: float((unit * weight - given).abs().mean()))
    # Not in double precision, of which the number that keeps the norm from dividing by zero is a part.
    dtype = torch.float32 if raw.dtype == torch.float64 else raw.dtype
    if not alike((unit * weight).to(dtype), given.to(dtype)):
        raise ModelError(f"what a {type(norm).__name__} multiplies by is neither its weight nor 1 + weight")
    return Gain(weight.float(), centres)


def _strongest(
    written: Float[Tensor, "feature d_model"],
    unembed: Float[Tensor, "vocab d_model"],
    centre: Float[Tensor, " d_model"],
    n_tokens: int,
) -> tuple[Float[Tensor, "feature rank"], Int[Tensor, "feature rank"]]:
    """The largest effects, centred, and the tokens they are on, from parts of the vocabulary."""
    strengths = torch.empty(len(written), 0, device=written.device)
    tokens = torch.empty(len(written), 0, dtype=torch.long, device=written.device)
    n_together = max(n_tokens, _TOGETHER // len(written))
    for first in range(0, len(unembed), n_together):
        part = unembed[first : first + n_together].float() - centre
        here = torch.arange(first, first + len(part), device=written.device).expand(len(written), -1)
        strengths, tokens = torch.cat([strengths, written @ part.T], dim=1), torch.cat([tokens, here], dim=1)
        strengths, kept = strengths.topk(min(n_tokens, strengths.shape[1]), dim=1)
        tokens = tokens.gather(1, kept)
    return strengths, tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProblemSums:
    """What all features add up to in the tokens of each problem that has a stored one."""

    problems: tuple[str, ...]
    """Ids, in the order of the texts."""
    n_tokens: Int64[np.ndarray, " problem"]
    activation: Float64[np.ndarray, "problem d_sae"]
    squared: Float64[np.ndarray, " d_sae"]
    """Squared activation at all tokens."""


def differences(base: Store, tuned: Store, sae: Sae, weights: Int[np.ndarray, "boot problem"]) -> pl.DataFrame:
    """`DIFFERENCES` rows, one a feature, of two stores of the same tokens, each read once.

    Means are over tokens. `weights` are `lab.metrics.bootstrap.resamples` of the problems in the order of the texts:
    a resample's difference is that of the sums over its problems, divided by their tokens, so that both models see the
    same resample. The effect size divides by sqrt((var_base + var_tuned) / 2) over tokens. An interval is NaN with
    fewer than two problems, and where no resample differs, as of a feature that never fires.

    Memory does not grow with the tokens: it holds 3 * n_problems * d_sae numbers. Raises StorageError for stores of
    other texts or positions, and for weights of other problems, and as `shard_features` does.
    """
    if (base.plan.texts, base.plan.positions) != (tuned.plan.texts, tuned.plan.positions):
        raise StorageError(
            f"{base.path} and {tuned.path} hold other tokens: want one capture of the same texts at the same positions "
            "by the base model and one by the tuned model"
        )
    before, after = problem_sums(base, sae), problem_sums(tuned, sae)
    n_tokens = before.n_tokens
    if weights.shape[1] != len(n_tokens):
        raise StorageError(
            f"the texts answer {len(n_tokens)} problems and the resamples are of {weights.shape[1]}: make them with "
            "resamples(n_problems, ...) for the problems that have a stored token"
        )
    n_all = n_tokens.sum()
    means = [side.activation.sum(axis=0) / n_all for side in (before, after)]
    spreads = [side.squared / n_all - mean**2 for side, mean in zip((before, after), means, strict=True)]
    # A variance may come out a hair below 0.
    pooled = np.sqrt(np.maximum(spreads[0] + spreads[1], 0.0) / 2)
    difference = means[1] - means[0]
    drawn = ratio_intervals(after.activation - before.activation, n_tokens, weights)
    return DIFFERENCES.checked(
        pl.DataFrame(
            {
                "feature": np.arange(sae.d_sae, dtype=np.int32),
                "base_mean": means[0],
                "tuned_mean": means[1],
                "difference": difference,
                "low": drawn.low,
                "high": drawn.high,
                "effect_size": np.divide(difference, pooled, out=np.full(sae.d_sae, np.nan), where=pooled > 0),
            }
        )
    )


def problem_sums(store: Store, sae: Sae) -> ProblemSums:
    """Shards are added up one by one, and then together in their order, in float64."""
    order = read_texts(store)["problem_id"].unique(maintain_order=True).to_numpy()
    n_tokens = np.zeros(len(order), dtype=np.int64)
    activation, squared = np.zeros((len(order), sae.d_sae)), np.zeros(sae.d_sae)
    place, device = {problem: number for number, problem in enumerate(order)}, sae.W_dec.device
    for number in range(len(store.portions)):
        places, rows = np.unique([place[name] for name in read_index(store, number)["problem_id"]], return_inverse=True)
        of_row = torch.from_numpy(rows).to(device)
        here = torch.zeros(len(places), sae.d_sae, dtype=torch.float64, device=device)
        squares = torch.zeros(sae.d_sae, dtype=torch.float64, device=device)
        for chosen, features in shard_features(store, sae, number):
            exact = features.double()
            for problem in of_row[chosen].unique():
                here[problem] += exact[of_row[chosen] == problem].sum(dim=0)
            squares += exact.square().sum(dim=0)
        n_tokens[places] += np.bincount(rows)
        activation[places] += here.cpu().numpy()
        squared += squares.cpu().numpy()
    there = n_tokens > 0
    return ProblemSums(
        problems=tuple(order[there].tolist()),
        n_tokens=n_tokens[there],
        activation=activation if there.all() else activation[there],
        squared=squared,
    )
