"""Taxonomy: categories of segments of text, as a model's stream at one site tells them apart; and how one is fitted."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import EstimateError, LabError, ModelError, StorageError, condensed
from lab.records.provenance import Provenance, canonical_json, require_intact
from lab.records.seeds import torch_generator
from lab.records.tables import UNREADABLE, replacing
from probes.capture.site import Site, check_site
from probes.taxonomy.segments import Parts, SegmentMeans


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taxonomy:
    """A clustering SAE: few latents, each of which is a category; it reads single tokens or means of several.

    Whatever reads a stream by it centres and normalises the stream in the same way as the fit did.
    """

    site: Site
    mean: Float[Tensor, " d_model"]
    """Mean segment of the fit, subtracted from all that is read."""
    W_enc: Float[Tensor, "d_model category"]
    b_enc: Float[Tensor, " category"]
    W_dec: Float[Tensor, "category d_model"]
    """Unit rows: the direction of each category."""
    b_dec: Float[Tensor, " d_model"]
    k: int
    """How many scores a reconstruction keeps."""
    names: tuple[str, ...]
    model: str
    model_digest: str

    def __post_init__(self) -> None:
        n = self.n_categories
        if len(self.names) != n or not 1 <= self.k <= n:
            raise ModelError(
                f"a taxonomy of {n} categories came with {len(self.names)} names and k = {self.k}: "
                f"want a name for each, and k from 1 to {n}"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise ModelError("a taxonomy holds NaN or infinity: the fit diverged or its file is damaged")

    @property
    def n_categories(self) -> int:
        return self.W_dec.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_dec.shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("mean", "W_enc", "b_enc", "W_dec", "b_dec")}

    def to(self, device: torch.device) -> "Taxonomy":
        """The same taxonomy with its tensors on `device`, where it reads streams."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def scores(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place category"]:
        """The latents' pre-activations on the centred and normalised stream; no ReLU, so of either sign."""
        return normalised(stream.to(self.mean.dtype), self.mean) @ self.W_enc + self.b_enc

    def category(self, stream: Float[Tensor, "*place d_model"]) -> Int[Tensor, "*place"]:
        """Number of the category with the highest score; the first of equals."""
        return self.scores(stream).argmax(dim=-1)

    def reconstruction(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        """The centred and normalised stream, as the `k` highest scores write it."""
        return sparse(self.scores(stream), self.k) @ self.W_dec + self.b_dec

    def squared_errors(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place"]:
        """Squared distance of each reconstruction from the centred and normalised stream."""
        wanted = normalised(stream.to(self.mean.dtype), self.mean)
        return (self.reconstruction(stream) - wanted).square().sum(dim=-1)


def normalised(
    stream: Float[Tensor, "*place d_model"], mean: Float[Tensor, " d_model"]
) -> Float[Tensor, "*place d_model"]:
    """`stream` less `mean`, at L2 norm 1; 0 where it equals the mean."""
    return torch.nn.functional.normalize(stream - mean, dim=-1)


def sparse(scores: Float[Tensor, "*place category"], k: int) -> Float[Tensor, "*place category"]:
    """The `k` highest scores of each place, and 0 for the others."""
    kept = scores.topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, kept.indices, kept.values)


def require_fit(taxonomy: Taxonomy, model: Model) -> None:
    """ModelError unless `taxonomy` learned from exactly this model, SiteError unless the model has its layer."""
    if taxonomy.d_model != model.anatomy.d_model:
        raise ModelError(
            f"a taxonomy of {taxonomy.model} reads streams of width {taxonomy.d_model}, and {model.name} has d_model "
            f"{model.anatomy.d_model}: want the model that it learned from"
        )
    if taxonomy.model_digest != model.digest:
        raise ModelError(
            f"a taxonomy learned from {taxonomy.model} with digest {taxonomy.model_digest}, and {model.name} has "
            f"{model.digest}: want that very model, or a taxonomy fitted to this one"
        )
    check_site(model, taxonomy.site)


FORMAT = "elicitation-lab.taxonomy.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "taxonomy"


def save_taxonomy(path: Path, taxonomy: Taxonomy, made_by: Provenance) -> None:
    """Writes `taxonomy` whole or not at all; equal work gives equal bytes."""
    described = {
        "format": FORMAT,
        "site": str(taxonomy.site),
        "k": taxonomy.k,
        "names": taxonomy.names,
        "model": taxonomy.model,
        "model_digest": taxonomy.model_digest,
        "provenance": made_by,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in taxonomy.tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: canonical_json(described)})


def load_taxonomy(path: Path) -> Taxonomy:
    """The inverse of `save_taxonomy`, on the CPU; StorageError for a file that is missing, damaged or no taxonomy."""
    try:
        require_intact(path)
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") == FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                _require_shapes(tensors)
                return Taxonomy(
                    site=Site.parse(described["site"]),
                    k=described["k"],
                    names=tuple(described["names"]),
                    model=described["model"],
                    model_digest=described["model_digest"],
                    **tensors,
                )
    except (*UNREADABLE, SafetensorError, LabError, KeyError, AttributeError) as error:
        raise StorageError(
            f"cannot read a taxonomy from {path}: {condensed(error)}; name another, or fit it again"
        ) from error
    raise StorageError(f"{path} is not a taxonomy: its format is {described.get('format')!r}, want {FORMAT!r}")


def _require_shapes(tensors: dict[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    n, d_model = shapes["W_dec"]
    wanted = {"mean": (d_model,), "W_enc": (d_model, n), "b_enc": (n,), "W_dec": (n, d_model), "b_dec": (d_model,)}
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if shapes != wanted or len(dtypes) > 1 or not tensors["mean"].is_floating_point():
        raise ValueError(f"its tensors are {shapes} of {dtypes}, want {wanted} of one floating point")


N_PIECES = 3


def category_names(
    segments: pl.DataFrame, categories: Int[np.ndarray, " segment"], n_categories: int
) -> tuple[str, ...]:
    """A name for each category, all different, from `SEGMENTS` rows and the category of each.

    The most common label of its segments; where no segment has a label, the pieces (words and marks) whose share of its
    segments is highest above their share of the others, in standard errors. An empty category is called `empty`. A name
    that comes again is numbered.
    """
    labels, words = segments["label"].to_list(), segments["words"].to_list()
    pieces = [frozenset(re.findall(r"\w+|[^\w\s]", text)) for text in words]
    everywhere = Counter(piece for found in pieces for piece in found)
    names: list[str] = []
    for category in range(n_categories):
        members = np.flatnonzero(categories == category).tolist()
        stated = Counter(labels[member] for member in members if labels[member] is not None)
        if stated:
            # Of equals the first by name, whatever the order of segments.
            names.append(min(stated, key=lambda label: (-stated[label], label)))
        elif members:
            inside = Counter(piece for member in members for piece in pieces[member])
            names.append(" ".join(_distinctive(inside, len(members), everywhere, len(words))))
        else:
            names.append("empty")
    n_before = [names[:category].count(name) for category, name in enumerate(names)]
    return tuple(f"{name} {n + 1}" if n else name for name, n in zip(names, n_before, strict=True))


def _distinctive(inside: Counter[str], n_inside: int, everywhere: Counter[str], n_segments: int) -> list[str]:
    """The pieces with the largest z of two proportions; `inside` and `everywhere` count segments."""
    n_outside = n_segments - n_inside

    def z(piece: str) -> float:
        share = everywhere[piece] / n_segments
        variance = share * (1 - share) * (1 / n_inside + 1 / n_outside) if n_outside else 0.0
        difference = inside[piece] / n_inside - (everywhere[piece] - inside[piece]) / max(1, n_outside)
        return difference / variance**0.5 if variance else 0.0

    return sorted(inside, key=lambda piece: (-z(piece), piece))[:N_PIECES]


N_STARTS = 8
"""The best of so many is taken: from a single start two clusters are often found as one."""
N_ROUNDS = 30


def k_means(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    """Unit centres that lie nearest to `units` in cosine: spherical k-means (Dhillon and Modha 2001).

    Starts are drawn as by greedy k-means++ (Arthur and Vassilvitskii 2007): a further one with a probability that grows
    with its squared distance to the nearest before, and of a few so drawn the one that leaves the least distance.
    """
    found = [_settled(units, _spread(units, n_clusters, generator)) for _ in range(N_STARTS)]
    return max(found, key=lambda centres: float((units @ centres.T).amax(dim=1).sum()))


def _spread(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    n_drawn = min(len(units), 2 + int(math.log(n_clusters)))
    chosen = [int(torch.randint(len(units), (1,), generator=generator))]
    distances = (2 - 2 * units @ units[chosen[0]]).clamp_min(0)
    while len(chosen) < n_clusters:
        # Where fewer differ than are wanted, all that is left is at 0.
        drawn = torch.multinomial(distances + 1e-9, n_drawn, generator=generator)
        left = torch.minimum(distances, (2 - 2 * units[drawn] @ units.T).clamp_min(0))
        best = int(left.sum(dim=1).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
    return units[chosen]


def _settled(
    units: Float[Tensor, "segment d_model"], centres: Float[Tensor, "cluster d_model"]
) -> Float[Tensor, "cluster d_model"]:
    for _ in range(N_ROUNDS):
        nearest = (units @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, units)
        # One without a member stays where it is.
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 0, torch.nn.functional.normalize(sums, dim=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteringSae:
    """A sparse autoencoder with a latent for each category, after Venhoff et al. (arXiv:2510.07364).

    Latents are the `k` highest pre-activations, of either sign; Adam runs at 2e-4 / sqrt(n / 2^14). Here it starts at
    the centres of `k_means` instead of at random, stops by the loss on problems that it does not learn from, keeps the
    weights of the best epoch, and centres by the mean of all segments. The loss is the mean squared error, which is the
    fraction of variance unexplained but for a constant; there the variance is that of each batch.
    """

    k: int = 3
    n_epochs: int = 300
    batch_size: int = 512
    patience: int = 10
    """Epochs without a better stopping loss, after which it ends."""

    @property
    def name(self) -> str:
        return f"sae-k{self.k}"


@dataclass(frozen=True, slots=True)
class KMeans:
    """The baseline: categories are the centres of `k_means`, scores are cosines."""

    name: ClassVar[str] = "k-means"


Method: TypeAlias = ClusteringSae | KMeans


class Fitted(NamedTuple):
    taxonomy: Taxonomy
    n_epochs: int
    n_dead: int
    """Categories that no segment of the fit belongs to."""


class _Weights(NamedTuple):
    W_enc: Float[Tensor, "d_model category"]
    b_enc: Float[Tensor, " category"]
    W_dec: Float[Tensor, "category d_model"]
    b_dec: Float[Tensor, " d_model"]


def fit(data: SegmentMeans, parts: Parts, n_categories: int, method: Method, *, seed: int) -> Fitted:
    """A taxonomy of `n_categories` of the segments in `data`; the judged part of them is not looked at.

    Equal arguments give equal bytes on one machine. Raises EstimateError for fewer segments to fit on than categories,
    or a `k` that is not 1 to `n_categories`.
    """
    learned_from = torch.from_numpy(parts.fit)
    n_segments = int(learned_from.sum())
    if not 1 <= n_categories <= n_segments:
        raise EstimateError(
            f"{n_categories} categories of {n_segments} segments to fit on: want at least 1 category, and a segment "
            "for each; give more texts or fewer categories"
        )
    mean = data.means[learned_from].mean(dim=0)
    units = normalised(data.means[learned_from], mean)
    centres = k_means(units, n_categories, torch_generator(seed, "centres", n_categories))
    match method:
        case KMeans():
            k, n_epochs = 1, 0
            weights = _begun(centres)
        case ClusteringSae(k=k):
            if not 1 <= k <= n_categories:
                raise EstimateError(f"k = {k} of {n_categories} categories: want 1 to the number of categories")
            stopping = normalised(data.means[torch.from_numpy(parts.stopping)], mean)
            generator = torch_generator(seed, "batches", n_categories)
            weights, n_epochs = _trained(units, stopping, _begun(centres), method, generator)
        case never:
            assert_never(never)
    categories = (units @ weights.W_enc + weights.b_enc).argmax(dim=1).numpy()
    taxonomy = Taxonomy(
        site=data.site,
        mean=mean,
        k=k,
        names=category_names(data.segments.filter(parts.fit), categories, n_categories),
        model=data.model,
        model_digest=data.model_digest,
        **weights._asdict(),
    )
    return Fitted(taxonomy, n_epochs, n_categories - len(set(categories.tolist())))


def _begun(centres: Float[Tensor, "category d_model"]) -> _Weights:
    n, d_model = centres.shape
    return _Weights(centres.T.clone(), torch.zeros(n), centres.clone(), torch.zeros(d_model))


def _trained(
    units: Float[Tensor, "segment d_model"],
    stopping: Float[Tensor, "stopping d_model"],
    weights: _Weights,
    method: ClusteringSae,
    generator: torch.Generator,
) -> tuple[_Weights, int]:
    """The weights of the epoch with the lowest loss on `stopping`, and how many epochs there were."""
    weights = _Weights(*(tensor.requires_grad_() for tensor in weights))
    optimiser = torch.optim.Adam(weights, lr=2e-4 * (2**14 / len(weights.b_enc)) ** 0.5, fused=True)
    best, lowest, best_epoch, epoch = _copied(weights), _error(weights, stopping, method.k).item(), 0, 0
    while epoch < method.n_epochs and epoch - best_epoch < method.patience:
        epoch += 1
        for batch in torch.randperm(len(units), generator=generator).split(method.batch_size):
            loss = _error(weights, units[batch], method.k)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                weights.W_dec.div_(weights.W_dec.norm(dim=1, keepdim=True))
        if (stopped := _error(weights, stopping, method.k).item()) < lowest:
            best, lowest, best_epoch = _copied(weights), stopped, epoch
    return best, epoch


def _copied(weights: _Weights) -> _Weights:
    return _Weights(*(tensor.detach().clone() for tensor in weights))


def _error(weights: _Weights, units: Float[Tensor, "segment d_model"], k: int) -> Float[Tensor, ""]:
    """Mean squared distance of the reconstructions from `units`."""
    written = sparse(units @ weights.W_enc + weights.b_enc, k) @ weights.W_dec + weights.b_dec
    return (written - units).square().sum(dim=1).mean()
