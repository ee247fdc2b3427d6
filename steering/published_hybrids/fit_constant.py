"""fit_constant: the first rival's bias, and on top of it a vector for each category."""

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.fits.examples import Example
from steering.fits.gradient import Likelihood, read_examples
from steering.published_hybrids.material import Descent, Material, Moment, descend
from steering.published_hybrids.published_hybrids import ConstantVectors
from steering.published_hybrids.recipe import AllTokens, Disagreements, FittedOn, PublishedSettings
from steering.vector import SteeringVector

MORE_BY_SCORE = 4
"""Segments of the highest scores, for each one that is then taken for its surprise."""


def fit_constant(
    model: Model,
    site: Site,
    read: Material,
    taxonomy: Taxonomy,
    fitted_on: FittedOn,
    settings: PublishedSettings,
    *,
    seed: int,
) -> ConstantVectors:
    """Vectors of `model`, a base, that make the tuned model's text likely, after arXiv:2510.07364.

    The bias is fitted on whole completions, then, with the bias frozen, the vector of each category on its segments:
    of four times as many with the highest score, those that surprise the base most. Vectors act from the token before
    the completion or the segment on, and the loss is the mean over those of its tokens that `fitted_on` names. Starts
    are random unit vectors.

    Departures: the categories' vectors share batches; logits are not multiplied by 0.7; a segment is read behind the
    tuned model's own text before it. Raises VectorError where there is no target, or a loss is not finite.
    """
    match fitted_on:
        case AllTokens():
            targets = None
        case Disagreements():
            targets = frozenset(read.disagreements)
        case never:
            assert_never(never)
    bias = _bias(model, site, read, targets, settings, seed)
    return ConstantVectors(bias, _categories(model, bias, read, taxonomy, targets, settings, seed))


def _bias(
    model: Model,
    site: Site,
    read: Material,
    targets: frozenset[Moment] | None,
    settings: PublishedSettings,
    seed: int,
) -> SteeringVector:
    drawn = torch.randperm(len(read.rows), generator=torch_generator(seed, "traces"))[: settings.n_traces]
    found = [
        example_of(read, text, len(read.rows[text].context), len(read.tokens(text)), targets) for text in drawn.tolist()
    ]
    whole = [example for example in found if example is not None]
    if not whole:
        raise VectorError(
            "no token of the tuned model's traces to fit a bias on: the base would write all of them; draw more traces"
        )
    likelihood = read_examples(model, site, whole, batch_size=settings.bias.batch_size)
    owners = torch.zeros(len(whole), dtype=torch.long)
    (bias,) = _fitted(likelihood, owners, 1, None, settings.bias, torch_generator(seed, "bias"))
    scale = float(likelihood.streams.last().float().norm(dim=-1).mean())
    words = "all tokens" if targets is None else "tokens the base would not write"
    return SteeringVector({site: bias}, {site: scale}, f"bias of the first rival on {len(whole)} traces, {words}")


def _categories(
    model: Model,
    bias: SteeringVector,
    read: Material,
    taxonomy: Taxonomy,
    targets: frozenset[Moment] | None,
    settings: PublishedSettings,
    seed: int,
) -> tuple[SteeringVector, ...]:
    (site,) = bias.sites
    parts = [
        segment_examples(read, taxonomy, category, targets, settings.n_segments)
        for category in range(taxonomy.n_categories)
    ]
    vectors = torch.zeros(taxonomy.n_categories, taxonomy.d_model)
    if examples := [example for part in parts for example in part]:
        owners = torch.tensor([category for category, part in enumerate(parts) for _ in part])
        likelihood = read_examples(model, site, examples, batch_size=settings.categories.batch_size)
        below, generator = bias.directions[site], torch_generator(seed, "categories")
        learned = _fitted(likelihood, owners, taxonomy.n_categories, below, settings.categories, generator)
        vectors = learned * torch.tensor([len(part) > 0 for part in parts])[:, None]
    return tuple(
        SteeringVector(
            {site: vector}, bias.residual_norms, f"category {name!r} of the first rival on {len(part)} segments"
        )
        for vector, name, part in zip(vectors, taxonomy.names, parts, strict=True)
    )


def segment_examples(
    read: Material, taxonomy: Taxonomy, category: int, targets: frozenset[Moment] | None, n_most: int
) -> list[Example]:
    """Of `category`'s segments that have a target, those chosen to fit its vector on."""
    scores = taxonomy.scores(read.segments.means)
    members = (scores.argmax(dim=1) == category).nonzero()[:, 0]
    by_score = members[scores[members, category].argsort(descending=True, stable=True)].tolist()
    spans = read.segments.segments.select("text", "first", "last").rows()
    found: dict[int, Example] = {}
    for segment in by_score:
        text, first, last = spans[segment]
        example = example_of(read, text, first, last + 1, targets)
        if example is not None:
            found[segment] = example
    best = list(found)[: MORE_BY_SCORE * n_most]
    by_surprise = sorted(best, key=lambda segment: -read.surprise[segment])
    return [found[segment] for segment in by_surprise[:n_most]]


def example_of(read: Material, text: int, start: int, end: int, targets: frozenset[Moment] | None) -> Example | None:
    """The tokens from `start` to before `end` of a text as targets, or those of them that are in `targets`."""
    tokens = read.tokens(text)
    wanted = [place for place in range(start, end) if targets is None or Moment(text, place) in targets]
    if not wanted:
        return None
    return Example(tokens[: end - 1], start - 1, [place - 1 for place in wanted], [tokens[place] for place in wanted])


def _fitted(
    likelihood: Likelihood,
    owners: Int[Tensor, " example"],
    n_vectors: int,
    below: Float[Tensor, " d_model"] | None,
    descent: Descent,
    generator: torch.Generator,
) -> Float[Tensor, "vector d_model"]:
    """Vectors on top of `below`, each for the examples that it owns."""
    device, d_model = likelihood.first.device, likelihood.streams.tokens.shape[1]
    start = torch.nn.functional.normalize(torch.randn(n_vectors, d_model, generator=generator), dim=1)
    vectors = start.to(device).requires_grad_()
    owners = owners.to(device)
    base = torch.zeros(d_model, device=device) if below is None else below.to(device)
    descend(likelihood, lambda rows: base + vectors[owners[rows]], [vectors], descent, generator)
    return vectors.detach().cpu()
