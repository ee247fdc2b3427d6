"""fit_gradient: a vector that makes chosen tokens likely where it will be used; one vector, or a table in one loop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.fit import Completions, Disagreements, Example, Fit, Streams, Taught, listed, read_streams
from steering.vector import SteeringVector

IGNORED = -100
"""Stands where an example has fewer targets than another."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Likelihood:
    """Examples that were read up to a site."""

    streams: Streams
    first: Int[Tensor, " example"]
    """The first position of each that a vector acts at."""
    places: Int[Tensor, "example place"]
    targets: Int[Tensor, "example place"]

    def losses(self, rows: Int[Tensor, " row"], vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """Cross-entropy of each row's targets under its own vector, in nats, added up over targets; gradients pass."""
        stream = self.streams.batch(rows)
        acts = torch.arange(stream.shape[1], device=stream.device) >= self.first[rows, None]
        edited = stream + acts[:, :, None] * vectors.to(stream.dtype)[:, None]
        logits = self.streams.logits(edited, self.places[rows]).float()
        return torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), self.targets[rows], ignore_index=IGNORED, reduction="none"
        ).sum(dim=1)

    def n_targets(self, rows: Int[Tensor, " row"]) -> int:
        """Tokens at stake in some rows together."""
        return int((self.targets[rows] != IGNORED).sum())


def read_examples(model: Model, site: Site, examples: Sequence[Example], *, batch_size: int) -> Likelihood:
    """Reads the texts of at least one example once, `batch_size` at a time; SiteError for a layer out of range."""
    places = pad_sequence([torch.tensor(example.places) for example in examples], batch_first=True)
    targets = [torch.tensor(example.targets) for example in examples]
    return Likelihood(
        streams=read_streams(model, site, [example.text for example in examples], batch_size=batch_size),
        first=torch.tensor([example.first for example in examples], device=model.device),
        places=places.to(model.device),
        targets=pad_sequence(targets, batch_first=True, padding_value=IGNORED).to(model.device),
    )


MOST_ROWS = 256
"""Examples that go through the blocks at once; the gradients of more add up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientFit:
    """How to look for the vector."""

    n_steps: int = 100
    """Steps of Adam."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 0.1
    """Adam's rate, in units of the mean residual norm divided by the square root of d_model."""
    max_dose: float = 1.0
    """Cap on the vector's norm, in units of the mean residual norm at the site."""
    check_every: int = 10
    """Steps between two looks at the held-out loss, where examples are held out."""
    patience: int = 3
    """Looks in a row without a lower held-out loss, after which a fit stops."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Category:
    """What one vector is fitted on."""

    examples: Disagreements | Completions
    generator: torch.Generator
    """Draws the examples of each step."""
    description: str
    """Of the vector."""
    held_out: Disagreements | Completions | None = None
    """Examples of other problems (`split_by_problem`), whose loss says when to stop and which vector to keep."""


@dataclass(slots=True, eq=False)
class _Fitting:
    """A vector on its way."""

    category: Category
    rows: Int[Tensor, " example"]
    """Its examples among those of the whole table."""
    held_out: Int[Tensor, " held"]
    scale: float
    """Mean residual norm at the last token of its texts."""
    vector: Float[Tensor, " d_model"]
    best: Float[Tensor, " d_model"]
    """The vector of the lowest held-out loss so far."""
    lowest: float = float("inf")
    n_worse: int = 0
    """Looks in a row without a lower held-out loss."""


def fit_gradient(
    model: Model,
    site: Site,
    examples: Disagreements | Completions,
    fit: GradientFit,
    generator: torch.Generator,
    *,
    description: str,
    held_out: Disagreements | Completions | None = None,
) -> SteeringVector:
    """One vector; `fit_gradients` says how it is found and what is raised."""
    alone = Category(examples=examples, generator=generator, description=description, held_out=held_out)
    return fit_gradients(model, site, {description: alone}, fit)[description]


@torch.enable_grad()
def fit_gradients(
    model: Model, site: Site, table: Mapping[str, Category], fit: GradientFit
) -> dict[str, SteeringVector]:
    """A vector at `site` for each category, all in one loop, each as if it were fitted alone.

    Minimises the mean cross-entropy of the targets: of disagreements with the vector at the last position of each
    context, of completions with the vector at every position. Starts from zero, is projected back onto the ball of
    `max_dose` after every step of Adam, and the model stays frozen. What lies below the vector is computed once, and a
    step runs the blocks above alone. Where examples are held out, the vector of the lowest loss on them is kept; zero
    is one. Raises VectorError where a category has no example, or a loss is not finite.
    """
    likelihood, fittings = _opened(model, site, table, fit)
    optimiser = torch.optim.Adam(
        {"params": [one.vector], "lr": fit.learning_rate * one.scale / model.anatomy.d_model**0.5} for one in fittings
    )
    for step in range(fit.n_steps):
        if step % fit.check_every == 0:
            _look(likelihood, fittings)
        running = [one for one in fittings if one.n_worse < fit.patience]
        if not running:
            break
        optimiser.zero_grad()
        _descend(likelihood, running, fit.batch_size)
        # Vectors that have stopped have no gradient, and stay.
        optimiser.step()
        with torch.no_grad():
            for one in running:
                one.vector *= min(1.0, fit.max_dose * one.scale / max(float(one.vector.norm()), 1e-12))
    _look(likelihood, fittings)
    kept = [one.best if len(one.held_out) else one.vector for one in fittings]
    return {
        name: SteeringVector({site: vector}, {site: one.scale}, one.category.description)
        for name, one, vector in zip(table, fittings, kept, strict=True)
    }


@dataclass(frozen=True, slots=True)
class TextGradient(Fit[Taught]):
    """A vector at every token under which the texts to move towards are likely."""

    settings: GradientFit = GradientFit()
    n_texts: int = 512
    """How many texts, at most; drawn at random from all."""

    @property
    def learns_from(self) -> Literal["tokens"]:
        return "tokens"

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """At the one site, as `fit_gradient`."""
        (site,) = sites
        texts = taught.texts(model, self.n_texts, torch_generator(seed, "examples"))
        found = f"gradient on {len(texts.tokens)} completions, {taught.description}"
        return fit_gradient(model, site, texts, self.settings, torch_generator(seed, "fit"), description=found)


@dataclass(frozen=True, slots=True)
class FirstTokenGradient(Fit[Taught]):
    """A vector at the prompt's last token under which the first token is what the other model would write."""

    settings: GradientFit = GradientFit()

    @property
    def learns_from(self) -> Literal["tokens"]:
        return "tokens"

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """At the one site, as `fit_gradient`."""
        (site,) = sites
        first = taught.first_tokens(model, torch_generator(seed, "examples"))
        found = f"gradient on {len(first.targets)} disagreements at the first token, {taught.description}"
        return fit_gradient(model, site, first, self.settings, torch_generator(seed, "fit"), description=found)


def _opened(
    model: Model, site: Site, table: Mapping[str, Category], fit: GradientFit
) -> tuple[Likelihood, list[_Fitting]]:
    """Everything read up to the site, and a zero vector for each category."""
    examples, sides = [], []
    for category in table.values():
        for side in (category.examples, category.held_out):
            before = len(examples)
            examples += [] if side is None else listed(side)
            sides.append(torch.arange(before, len(examples), device=model.device))
    for name, rows in zip(table, sides[::2], strict=True):
        if not len(rows):
            raise VectorError(
                f"{name!r}: no disagreement to fit a vector on; either the two models never disagree on these "
                "problems, or nothing was solved: draw more fitting traces"
            )
    likelihood = read_examples(model, site, examples, batch_size=fit.batch_size)
    norms = likelihood.streams.last().float().norm(dim=-1)
    fittings = [
        _Fitting(
            category=category,
            rows=rows,
            held_out=held_out,
            scale=float(norms[rows].mean()),
            vector=torch.zeros(model.anatomy.d_model, device=model.device, requires_grad=True),
            best=torch.zeros(model.anatomy.d_model, device=model.device),
        )
        for category, rows, held_out in zip(table.values(), sides[::2], sides[1::2], strict=True)
    ]
    return likelihood, fittings


def _descend(likelihood: Likelihood, running: Sequence[_Fitting], batch_size: int) -> None:
    """Adds to each vector the gradient of its mean loss on a draw of its examples."""
    drawn = [
        one.rows[torch.randint(len(one.rows), (min(batch_size, len(one.rows)),), generator=one.category.generator)]
        for one in running
    ]
    owners = torch.cat([torch.full_like(rows, index) for index, rows in enumerate(drawn)])
    weights = torch.tensor([1 / likelihood.n_targets(rows) for rows in drawn], device=owners.device)
    total = 0.0
    for rows, owner in zip(torch.cat(drawn).split(MOST_ROWS), owners.split(MOST_ROWS), strict=True):
        vectors = torch.stack([one.vector for one in running])[owner]
        loss = (likelihood.losses(rows, vectors) * weights[owner]).sum()
        loss.backward()
        total += float(loss.detach())
    if not math.isfinite(total):
        raise VectorError(f"the loss became {total}: lower the learning rate or use --dtype float32")


@torch.no_grad()
def _look(likelihood: Likelihood, fittings: Sequence[_Fitting]) -> None:
    """Takes note of the held-out loss of every vector that still moves and has any."""
    for one in fittings:
        if not len(one.held_out):
            continue
        losses = [likelihood.losses(rows, one.vector.expand(len(rows), -1)) for rows in one.held_out.split(MOST_ROWS)]
        loss = float(torch.cat(losses).sum()) / likelihood.n_targets(one.held_out)
        one.n_worse = 0 if loss < one.lowest else one.n_worse + 1
        if loss < one.lowest:
            one.lowest, one.best = loss, one.vector.detach().clone()
