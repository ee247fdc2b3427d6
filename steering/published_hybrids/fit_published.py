"""fit_rivals: both rival methods, fitted to the tuned model's traces of training problems."""

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
from probes.taxonomy.fit import ClusteringSae, fit
from probes.taxonomy.segments import Rule, parts
from probes.taxonomy.taxonomy import Taxonomy
from steering.change import Coefficient
from steering.fits.examples import Example
from steering.fits.gradient import read_examples
from steering.published_hybrids.fit_constant import fit_constant
from steering.published_hybrids.material import Material, descend, material
from steering.published_hybrids.published_hybrids import PublishedHybrids, ScaledVectors
from steering.published_hybrids.recipe import AllTokens, Disagreements, PublishedSettings
from steering.vector import SteeringVector


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
            "the base model would write every token of the tuned model's traces: no disagreement to fit the second "
            "rival on; draw more traces, or at a higher temperature"
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
    network = _start(model.anatomy.d_model, settings.d_hidden, taxonomy.n_categories, generator)
    W_in, b_in, W_out, b_out = (tensor.to(model.device).requires_grad_() for tensor in network)
    start = normalize(torch.randn(taxonomy.n_categories, model.anatomy.d_model, generator=generator), dim=1)
    vectors = start.to(model.device).requires_grad_()

    def shift(rows: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        hidden = gelu(streams[rows] @ W_in + b_in)
        category = owners[rows]
        return softplus((hidden * W_out[category]).sum(dim=1) + b_out[category])[:, None] * vectors[category]

    descend(likelihood, shift, [vectors], settings.scaled, generator, network=[W_in, b_in, W_out, b_out])
    counts = torch.bincount(owners, minlength=taxonomy.n_categories).tolist()
    scale = float(streams.norm(dim=1).mean())
    shared, hidden_bias = W_in.detach().cpu(), b_in.detach().cpu()
    return ScaledVectors(
        categories=tuple(
            SteeringVector(
                {site: vector * (count > 0)},
                {site: scale},
                f"category {name!r} of the second rival on {count} tokens the base would not write",
            )
            for vector, count, name in zip(vectors.detach().cpu(), counts, taxonomy.names, strict=True)
        ),
        coefficients=tuple(
            Coefficient(W_in=shared, b_in=hidden_bias, w_out=w_out, b_out=out)
            for w_out, out in zip(W_out.detach().cpu(), b_out.detach().cpu(), strict=True)
        ),
    )


def _start(d_model: int, d_hidden: int, n_categories: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Weights uniform in +-1/sqrt(width in), as `torch.nn.Linear` starts; biases at 0."""

    def uniform(*shape: int, width: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / width**0.5

    return (
        uniform(d_model, d_hidden, width=d_model),
        torch.zeros(d_hidden),
        uniform(n_categories, d_hidden, width=d_hidden),
        torch.zeros(n_categories),
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
    """All that the rivals' arms need, from a `TRACES` table of the tuned model, right answers and wrong ones.

    With L the block that `settings` names: the taxonomy reads the tuned model's stream at the output of block L, as
    `rule` cuts it into segments; the first rival is fitted at the input of block L, on all tokens and again on
    disagreements; the second at its output. Only blocks above are run for a step of any fit. Equal arguments give equal
    numbers on one machine.

    Raises VectorError where there is nothing to fit on or a loss is not finite, EstimateError for fewer segments than
    categories or fewer than three problems, StorageError where no text has a segment or a problem is absent.
    """
    layer = settings.layer(pair.base.anatomy.n_layers)
    read = material(pair, traces, problems, rule, Site(layer))
    cut = parts(read.segments.segments["problem_id"].to_list(), child_seed(seed, "parts"))
    sae = ClusteringSae(k=min(N_SCORES, settings.n_categories))
    taxonomy = fit(read.segments, cut, settings.n_categories, sae, seed=child_seed(seed, "taxonomy")).taxonomy
    on_all_tokens, on_disagreements = (
        fit_constant(
            pair.base,
            Site(layer, "resid_pre"),
            read,
            taxonomy,
            fitted_on,
            settings,
            seed=child_seed(seed, "constant"),
        )
        for fitted_on in (AllTokens(), Disagreements())
    )
    return PublishedHybrids(
        taxonomy=taxonomy,
        stream_norm=float(read.streams.norm(dim=1).mean()),
        on_all_tokens=on_all_tokens,
        on_disagreements=on_disagreements,
        scaled=fit_scaled(pair.base, Site(layer), read, taxonomy, settings, seed=child_seed(seed, "scaled")),
    )
