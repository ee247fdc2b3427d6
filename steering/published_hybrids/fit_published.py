"""fit_published: both published methods, fitted to the tuned model's traces of training problems.

`fit_constant` finds what P1 adds, a bias and on top of it a vector for each category; `fit_scaled` what P2 adds,
vectors and the network that says how much of each.
"""

from collections.abc import Mapping

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, normalize, softplus

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import VectorError
from lab.records.seeds import child_seed, torch_generator
from lab.tasks.problem import Problem
from probes.capture.site import Site
from probes.taxonomy.segments import Rule, parts
from probes.taxonomy.taxonomy import ClusteringSae, Taxonomy, fit
from steering.fits.fit import Example
from steering.fits.gradient import Likelihood, read_examples
from steering.published_hybrids.material import Descent, Material, Moment, PublishedSettings, descend, material
from steering.published_hybrids.published_hybrids import ConstantVectors, FittedOn, PublishedHybrids, ScaledVectors
from steering.vector import Coefficient, SteeringVector

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
    targets = None if fitted_on == FittedOn.ALL_TOKENS else frozenset(read.disagreements)
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
    owners, nothing = torch.zeros(len(whole), dtype=torch.long), torch.zeros(model.anatomy.d_model)
    (bias,) = _fitted(likelihood, owners, 1, nothing, settings.bias, torch_generator(seed, "bias"))
    norms = {site: float(likelihood.streams.last().float().norm(dim=-1).mean())}
    words = "all tokens" if targets is None else "tokens the base would not write"
    segments = [
        segment_examples(read, taxonomy, category, targets, settings.n_segments)
        for category in range(taxonomy.n_categories)
    ]
    vectors = torch.zeros(taxonomy.n_categories, taxonomy.d_model)
    if examples := [example for part in segments for example in part]:
        owners = torch.tensor([category for category, part in enumerate(segments) for _ in part])
        likelihood = read_examples(model, site, examples, batch_size=settings.categories.batch_size)
        generator = torch_generator(seed, "categories")
        learned = _fitted(likelihood, owners, taxonomy.n_categories, bias, settings.categories, generator)
        vectors = learned * torch.tensor([len(part) > 0 for part in segments])[:, None]
    return ConstantVectors(
        SteeringVector({site: bias}, norms, f"bias of P1 on {len(whole)} traces, {words}"),
        tuple(
            SteeringVector({site: vector}, norms, f"category {name!r} of P1 on {len(part)} segments")
            for vector, name, part in zip(vectors, taxonomy.names, segments, strict=True)
        ),
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
    below: Float[Tensor, " d_model"],
    descent: Descent,
    generator: torch.Generator,
) -> Float[Tensor, "vector d_model"]:
    """Vectors on top of `below`, each for the examples that it owns."""
    device, d_model = likelihood.first.device, likelihood.streams.tokens.shape[1]
    start = normalize(torch.randn(n_vectors, d_model, generator=generator), dim=1)
    vectors = start.to(device).requires_grad_()
    owners, below = owners.to(device), below.to(device)
    descend(likelihood, lambda rows: below + vectors[owners[rows]], [vectors], descent, generator)
    return vectors.detach().cpu()


def fit_scaled(
    model: Model, site: Site, read: Material, taxonomy: Taxonomy, settings: PublishedSettings, *, seed: int
) -> ScaledVectors:
    """Vectors of `model`, a base, and their coefficients, fitted together where the base would write another token.

    Each such token of the tuned model's traces is a target, in the category that the tuned model's stream at the token
    before it falls in, and softplus(MLP_c(h)) * V[c] is added there alone, with h the base's own stream.

    Departures: of the tokens a number is drawn over all traces, not for each; training stops by the training loss.
    Raises VectorError where there is no such token, or a loss is not finite.
    """
    if not read.disagreements:
        raise VectorError(
            "the base model would write every token of the tuned model's traces: no disagreement to fit P2 "
            "on; draw more traces, or at a higher temperature"
        )
    generator = torch_generator(seed, "decisions")
    drawn = torch.randperm(len(read.disagreements), generator=generator)[: settings.n_disagreements]
    owners = taxonomy.category(read.streams[drawn]).to(model.device)
    examples = []
    for moment in (read.disagreements[index] for index in drawn.tolist()):
        tokens, last = read.tokens(moment.text), moment.position - 1
        examples.append(Example(tokens[: last + 1], last, [last], [tokens[moment.position]]))
    likelihood = read_examples(model, site, examples, batch_size=settings.scaled.batch_size)
    streams = likelihood.streams.last().float()
    n, d_model, d_hidden = taxonomy.n_categories, model.anatomy.d_model, settings.d_hidden
    # As `torch.nn.Linear` starts: weights uniform in +-1/sqrt(width in), but biases at 0.
    W_in = (2 * torch.rand(d_model, d_hidden, generator=generator) - 1) / d_model**0.5
    W_out = (2 * torch.rand(n, d_hidden, generator=generator) - 1) / d_hidden**0.5
    start = normalize(torch.randn(n, d_model, generator=generator), dim=1)
    whole = (W_in, torch.zeros(d_hidden), W_out, torch.zeros(n), start)
    W_in, b_in, W_out, b_out, vectors = (tensor.to(model.device).requires_grad_() for tensor in whole)

    def shift(rows: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        hidden = gelu(streams[rows] @ W_in + b_in)
        category = owners[rows]
        return softplus((hidden * W_out[category]).sum(dim=1) + b_out[category])[:, None] * vectors[category]

    descend(likelihood, shift, [vectors], settings.scaled, generator, network=[W_in, b_in, W_out, b_out])
    counts = torch.bincount(owners, minlength=n).tolist()
    scale = float(streams.norm(dim=1).mean())
    shared, hidden_bias = W_in.detach().cpu(), b_in.detach().cpu()
    return ScaledVectors(
        categories=tuple(
            SteeringVector(
                {site: vector * (count > 0)},
                {site: scale},
                f"category {name!r} of P2 on {count} tokens the base would not write",
            )
            for vector, count, name in zip(vectors.detach().cpu(), counts, taxonomy.names, strict=True)
        ),
        coefficients=tuple(
            Coefficient(W_in=shared, b_in=hidden_bias, w_out=w_out, b_out=out)
            for w_out, out in zip(W_out.detach().cpu(), b_out.detach().cpu(), strict=True)
        ),
    )


N_SCORES = 3
"""Scores that a reconstruction of the taxonomy keeps, where there are as many categories."""


def fit_published(
    pair: ModelPair,
    traces: pl.DataFrame,
    problems: Mapping[str, Problem],
    rule: Rule,
    settings: PublishedSettings,
    *,
    seed: int,
) -> PublishedHybrids:
    """All that the arms of both need, from a `TRACES` table of the tuned model, right answers and wrong ones.

    With L the block that `settings` names: the taxonomy reads the tuned model's stream at the output of block L, as
    `rule` cuts it into segments; P1 is fitted at the input of block L, on all tokens and again on
    disagreements; P2 at its output. Only blocks above are run for a step of any fit. Equal arguments give equal
    numbers on one machine.

    Raises VectorError where there is nothing to fit on or a loss is not finite, EstimateError for fewer segments than
    categories or fewer than three problems, StorageError where no text has a segment or a problem is absent.
    """
    layer = settings.layer(pair.base.anatomy.n_layers)
    read = material(pair, traces, problems, rule, Site(layer))
    cut = parts(read.segments.segments["problem_id"].to_list(), child_seed(seed, "parts"))
    sae = ClusteringSae(k=min(N_SCORES, settings.n_categories))
    taxonomy = fit(read.segments, cut, settings.n_categories, sae, seed=child_seed(seed, "taxonomy")).taxonomy
    below, constant = Site(layer, "resid_pre"), child_seed(seed, "constant")
    on_all_tokens, on_disagreements = (
        fit_constant(pair.base, below, read, taxonomy, fitted_on, settings, seed=constant) for fitted_on in FittedOn
    )
    return PublishedHybrids(
        taxonomy=taxonomy,
        stream_norm=float(read.streams.norm(dim=1).mean()),
        on_all_tokens=on_all_tokens,
        on_disagreements=on_disagreements,
        scaled=fit_scaled(pair.base, Site(layer), read, taxonomy, settings, seed=child_seed(seed, "scaled")),
    )
