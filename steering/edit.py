"""Edits of the residual stream, and `apply`, which puts them into a model and takes them out again."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias, assert_never

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from lab.models.load import Model
from lab.records.errors import SiteError, VectorError
from lab.records.seeds import child_seed
from lab.sampling.decoder import Batch, CachedDecoder, OpenDecoder, Proposal
from probes.capture.site import Site, hook_site
from probes.sae.dictionary import Sae, require_fit
from steering.gate import EVERYWHERE, Everywhere, Gate, Opened, opened_gates
from steering.vector import (
    Coefficient,
    SteeringVector,
    StreamChange,
    ablation,
    addition,
    clamping,
    rotation,
    scaled_addition,
)


@dataclass(frozen=True, slots=True)
class Add:
    """Adds `dose * vector`.

    >>> el.Add(el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine"), dose=2.0).dose
    2.0
    """

    vector: SteeringVector
    dose: float = 1.0
    where: Gate = EVERYWHERE

    def __post_init__(self) -> None:
        _require_sound("dose", self.dose, self.vector)


@dataclass(frozen=True, slots=True)
class AddScaled:
    """Adds `dose * c * vector` with c what `coefficient` makes of the token's own stream; with c = 1 it is `Add`.

    The vector has one site, since a coefficient reads the stream of the site that it was fitted at.
    """

    vector: SteeringVector
    coefficient: Coefficient
    dose: float = 1.0
    where: Gate = EVERYWHERE

    def __post_init__(self) -> None:
        _require_sound("dose", self.dose, self.vector)
        if len(self.vector.sites) != 1 or self.vector.d_model != self.coefficient.d_model:
            raise VectorError(
                f"a coefficient that reads streams of width {self.coefficient.d_model}, and a vector of width "
                f"{self.vector.d_model} at {', '.join(map(str, self.vector.sites))}: want a vector of that width at "
                "one site"
            )


@dataclass(frozen=True, slots=True)
class Ablate:
    """Takes away what the stream has along the vector's directions, at the vector's own sites.

    Directional ablation (Arditi et al. 2024, arXiv 2406.11717): h - (h . u) u with u the direction over its norm. To
    ablate one direction in the whole network, give the vector all sites.

    >>> el.Ablate(el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")).where
    Everywhere()
    """

    vector: SteeringVector
    where: Gate = EVERYWHERE

    def __post_init__(self) -> None:
        if zero := [str(site) for site, norm in self.vector.norms.items() if norm == 0]:
            raise VectorError(f"the direction at {', '.join(zero)} is zero: there is nothing to ablate along it")


@dataclass(frozen=True, slots=True)
class ClampFeature:
    """Sets a feature of an SAE to `value`, 0 to ablate it, and keeps all else, also what the SAE does not explain.

    The stream becomes h + (value - f(h)) * W_dec[feature] with f(h) the feature's activation (Templeton et al. 2024,
    Scaling Monosemanticity, who also keep the SAE's error). Read afresh, the feature need not have exactly that value:
    encoders are not inverse to decoders.

    >>> silenced = [el.ClampFeature(sae, feature, 0.0) for feature in (3, 5)]
    >>> el.next_token(base, "<8-1+9?", ["T"], edits=silenced)["arm"].to_list()
    ['zero-base']
    """

    sae: Sae
    feature: int
    value: float
    where: Gate = EVERYWHERE

    def __post_init__(self) -> None:
        _require_sound("value", self.value)
        if not 0 <= self.feature < self.sae.d_sae:
            raise VectorError(
                f"feature {self.feature} of SAE {self.sae.name}, which has {self.sae.d_sae}: want 0 to "
                f"{self.sae.d_sae - 1}"
            )


@dataclass(frozen=True, slots=True)
class Rotate:
    """Turns the stream by `angle` radians in the plane of two vectors, from the first towards the second.

    What is orthogonal to the plane stays, and so does the norm. Both vectors need the same sites.
    """

    vector_from: SteeringVector
    vector_to: SteeringVector
    angle: float
    where: Gate = EVERYWHERE

    def __post_init__(self) -> None:
        _require_sound("angle", self.angle, self.vector_from, self.vector_to)
        ours, theirs = self.vector_from, self.vector_to
        if ours.sites != theirs.sites or ours.d_model != theirs.d_model:
            raise VectorError(
                f"a rotation from a vector of width {ours.d_model} at {', '.join(map(str, ours.sites))} to one of "
                f"width {theirs.d_model} at {', '.join(map(str, theirs.sites))}: want the same sites of one model"
            )
        for site in ours.sites:
            both = torch.stack([ours.directions[site], theirs.directions[site]]).double()
            if torch.linalg.matrix_rank(normalize(both, dim=1), rtol=1e-6) < 2:
                raise VectorError(f"the vectors lie on one line at {site}: want two that span a plane")


Edit: TypeAlias = Add | AddScaled | Ablate | ClampFeature | Rotate
"""What happens to the stream at one or more sites, at the tokens where its gate `where` is open."""


def _require_sound(name: str, number: float, *vectors: SteeringVector) -> None:
    if strange := [one for one in vectors if not isinstance(one, SteeringVector)]:
        raise VectorError(f"an edit by {strange[0]!r}: want a vector, such as el.load_vector(path)")
    if not isfinite(number):
        raise VectorError(f"an edit with {name} {number}: want a finite number")


def edit_sites(edit: Edit) -> tuple[Site, ...]:
    """Where `edit` acts, in order of layer."""
    match edit:
        case Add(vector=vector) | AddScaled(vector=vector) | Ablate(vector=vector) | Rotate(vector_from=vector):
            return vector.sites
        case ClampFeature(sae=sae):
            return (sae.site,)
        case never:
            assert_never(never)


@contextmanager
def apply(model: Model, *edits: Edit, n_prompt: Int[Tensor, " batch"] | None = None) -> Iterator[None]:
    """Within the block, every forward pass of `model` is edited; afterwards, also after an exception, none is.

    No weight is touched. Edits act on each token as it is read, so cached and uncached decoding agree, whatever the
    padding and the batch; several edits at a site act in the order given, those of an outer block first. They compute
    in single precision or better (`Add` in the stream's dtype) and the result has the stream's dtype.

    Gates other than `Everywhere` ask where a token stands in its text: the network's caller passes `position_ids` or a
    two-dimensional `attention_mask`. Where its prompt ends is known while `lab.sampling` decodes; for other passes,
    such as full ones over prompts and completions or the network's own `generate`, `n_prompt` gives the tokens of each
    row's prompt.

    Raises VectorError for a vector of another width, ModelError for an SAE of another width, SiteError for a layer out
    of range, for a pass that does not say what a gate has to know or, on a clean exit, for an edit whose hook never
    fired although the model ran.

    >>> vector = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")
    >>> with el.apply(base, el.Add(vector)):
    ...     steered = el.capture(base, "<1+2?", el.Site(1))
    >>> plain = el.capture(base, "<1+2?", el.Site(1))
    >>> torch.allclose(steered[el.Site(1)] - plain[el.Site(1)], torch.ones(128), atol=1e-5)
    True
    """
    if strange := [edit for edit in edits if not isinstance(edit, Edit)]:
        raise VectorError(f"{strange[0]!r} among the edits: want a change by a vector, such as el.Add(vector)")
    for edit in edits:
        check_fit(model, edit)
    silent = dict.fromkeys(site for edit in edits for site in edit_sites(edit))
    passes = Counter[str]()

    def add(site: Site, change: StreamChange) -> None:
        def act(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            silent.pop(site, None)
            return change(stream)

        stack.callback(hook_site(model, site, act).remove)

    with ExitStack() as stack:
        stack.callback(model.network.register_forward_hook(lambda *_: passes.update(["all"])).remove)
        opened = stack.enter_context(opened_gates(model, {edit.where for edit in edits}, n_prompt))
        for edit in edits:
            for site in edit_sites(edit):
                add(site, _gated(_change(model, edit, site), edit.where, opened))
        yield
    if silent and passes:
        raise SiteError(f"edits at {', '.join(map(str, silent))} never acted in {passes['all']} passes of {model.name}")


@contextmanager
def apply_each(
    model: Model,
    edits: Sequence[Edit],
    chosen: Int[Tensor, " batch"],
    *,
    n_prompt: Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """As `apply`, but row i of every batch gets `edits[chosen[i]]` alone.

    A site that only some of the edits have is left alone in the other rows. Raises as `apply` does, though not for
    hooks that never fire nor for layers of an edit that no row has, and SiteError for a batch of another number of rows
    than `chosen` has.
    """
    for edit in edits:
        check_fit(model, edit)

    def add(site: Site, change: StreamChange) -> None:
        def act(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            if len(stream) != len(chosen):
                raise SiteError(f"edits for {len(chosen)} rows and a pass over {len(stream)}: want one edit a row")
            return change(stream)

        stack.callback(hook_site(model, site, act).remove)

    chosen = chosen.cpu()
    acting: dict[Site, dict[int, Edit]] = {}
    for index in sorted(set(chosen.tolist())):
        for site in edit_sites(edits[index]):
            acting.setdefault(site, {})[index] = edits[index]
    gates = {edit.where for here in acting.values() for edit in here.values()}
    with ExitStack() as stack:
        opened = stack.enter_context(opened_gates(model, gates, n_prompt))
        for site, here in acting.items():
            add(site, _by_row(model, site, here, chosen, opened))
        yield


def check_fit(model: Model, edit: Edit) -> None:
    """VectorError or ModelError unless `edit` is as wide as the model's residual stream."""
    match edit:
        case Add(vector=vector) | AddScaled(vector=vector) | Ablate(vector=vector) | Rotate(vector_from=vector):
            if vector.d_model != model.anatomy.d_model:
                raise VectorError(
                    f"a vector of width {vector.d_model} does not fit {model.name}, whose d_model is "
                    f"{model.anatomy.d_model}: use the model it was fitted on"
                )
        case ClampFeature(sae=sae):
            require_fit(sae, model)
        case never:
            assert_never(never)


def _change(model: Model, edit: Edit, site: Site) -> StreamChange:
    """What `edit` does at `site`, one of its own, where its gate is open."""
    match edit:
        case Add(vector=vector, dose=dose):
            return addition(model, dose * vector.directions[site])
        case AddScaled(vector=vector, coefficient=coefficient, dose=dose):
            return scaled_addition(model, dose * vector.directions[site], coefficient)
        case Ablate(vector=vector):
            return ablation(model, vector.directions[site])
        case ClampFeature(sae=sae, feature=feature, value=value):
            return clamping(sae, feature, value)
        case Rotate(vector_from=start, vector_to=end, angle=angle):
            return rotation(model, start.directions[site], end.directions[site], angle)
        case never:
            assert_never(never)


def _gated(
    change: StreamChange, gate: Gate, opened: Opened, rows: Int[Tensor, " chosen"] | slice = slice(None)
) -> StreamChange:
    """`change` at the tokens where `gate` is open, of a stream that holds some rows of the pass."""
    if isinstance(gate, Everywhere):
        return change

    def change_where_open(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return torch.where(opened(gate)[rows][..., None], change(stream), stream)

    return change_where_open


def _by_row(
    model: Model, site: Site, edits: Mapping[int, Edit], chosen: Int[Tensor, " batch"], opened: Opened
) -> StreamChange:
    """Row i gets what `edits[chosen[i]]`, where there is such an edit, does at `site`; `chosen` lies on the CPU."""
    gates = {edit.where for edit in edits.values()}
    adds = {index: edit.dose * edit.vector.directions[site] for index, edit in edits.items() if isinstance(edit, Add)}
    if len(gates) == 1 and len(adds) == len(edits):
        # One sum for all rows, since a control has hundreds of vectors.
        nothing = torch.zeros(model.anatomy.d_model)
        added = torch.stack([adds.get(index, nothing) for index in chosen.tolist()])
        change = addition(model, rearrange(added, "batch d_model -> batch 1 d_model"))
        return _gated(change, gates.pop(), opened)
    changes = []
    for index, edit in edits.items():
        rows = (chosen == index).nonzero()[:, 0].to(model.device)
        changes.append((rows, _gated(_change(model, edit, site), edit.where, opened, rows)))

    def change_rows(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        for rows, change in changes:
            stream = stream.index_copy(0, rows, change(stream[rows]))
        return stream

    return change_rows


@dataclass(frozen=True, slots=True)
class Edited:
    """Each prompt has one of `edits`, as under `apply`; an interval over problems so holds the spread between them."""

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        if not self.edits:
            raise VectorError("no edit to write under: want at least one")


def open_edited(model: Model, edited: Edited) -> OpenDecoder:
    """A decoder for `lab.sampling.sample`. Raises as `apply_each` does, once it reads."""
    return lambda batch: EditedDecoder(model, edited.edits, batch)


class EditedDecoder:
    """A cached model, edited in every pass; which edit a prompt has is a hash of its tokens, whatever its batch."""

    def __init__(self, model: Model, edits: Sequence[Edit], batch: Batch) -> None:
        self.model, self.edits = model, edits
        of_prompts = chosen_edits(batch, len(edits))
        with apply_each(model, edits, of_prompts):
            self.rows = CachedDecoder(model, batch)
        self.chosen = of_prompts[batch.owner.cpu()]

    def propose(self) -> Proposal:
        return self.rows.propose()

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        with apply_each(self.model, self.edits, self.chosen):
            self.rows.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.rows.keep(rows)
        self.chosen = self.chosen[rows.cpu()]


def chosen_edits(batch: Batch, n_edits: int) -> Int[Tensor, " prompt"]:
    """Which edit each prompt of `batch` has."""
    texts = [prompt[kept].tolist() for prompt, kept in zip(batch.prompts, batch.mask, strict=True)]
    return torch.tensor([child_seed(0, "edit", *text) % n_edits for text in texts])
