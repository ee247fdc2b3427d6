"""fit_scaled: the second rival's vectors, and with them the network that says how long they are."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, normalize, softplus

from lab.errors import VectorError
from lab.models.load import Model
from lab.seeds import torch_generator
from probes.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.coefficient import Coefficient
from steering.fit.examples import Example
from steering.fit.likelihood import read_examples
from steering.rivals.descent import descend
from steering.rivals.material import Material
from steering.rivals.rivals import ScaledVectors
from steering.rivals.settings import RivalSettings
from steering.vector import SteeringVector


def fit_scaled(
    model: Model, site: Site, read: Material, taxonomy: Taxonomy, settings: RivalSettings, *, seed: int
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
    drawn = torch.randperm(len(read.disagreements), generator=generator)[: settings.n_decisions]
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
