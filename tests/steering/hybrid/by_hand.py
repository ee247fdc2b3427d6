"""Pairs, vectors and taxonomies made up for tests, and hybrids written by them."""

import copy

import torch

from lab.models.load import Model, assemble
from lab.models.pair import ModelPair
from lab.models.tiny import byte_tokenizer, tiny_model
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import Site, hook_site
from probes.taxonomy.taxonomy import Taxonomy
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.vector import SteeringVector

WORDS = ("a", "what is 2+3?", "chains of unequal length are the point of this", "x" * 31, "no")
PROBLEMS = [
    Problem(id=f"p{index}", prompt=f"{WORDS[index % 5]}{index}", answer="", family="all", source="test")
    for index in range(20)
]
FEW = PROBLEMS[:6]
SAMPLED = Decoding(max_new_tokens=12)
SEED = 3


def pair_of(family) -> ModelPair:
    """A base and the same network with a little noise on its weights, so that they disagree now and then."""
    base = tiny_model(family, seed=5)
    network, generator = copy.deepcopy(base.network), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return ModelPair(base=base, tuned=assemble(network, byte_tokenizer(), name="tuned"))


def vector(seed, *sites, norm=6.0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    noise = {site: torch.randn(32, generator=generator) for site in sites or (Site(0),)}
    return SteeringVector({site: norm * row / row.norm() for site, row in noise.items()}, dict.fromkeys(noise, 1.0), "")


def taxonomy_of(model: Model, *, site=Site(1), n=3) -> Taxonomy:  # noqa: B008 -- a site is a value
    """Random directions of the model's stream, whose categories all come up."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(n, model.anatomy.d_model, generator=generator), dim=1)
    return Taxonomy(
        site=site,
        mean=torch.zeros(model.anatomy.d_model),
        W_enc=directions.T.clone(),
        b_enc=torch.zeros(n),
        W_dec=directions,
        b_dec=torch.zeros(model.anatomy.d_model),
        k=1,
        names=tuple("abcdefgh"[:n]),
        model=model.name,
        model_digest=model.digest,
    )


def written(pair, hybrid: Hybrid, problems=PROBLEMS, decoding=SAMPLED, *, n_samples=1, batch_size=256) -> list[Trace]:
    opened = open_hybrid(pair, hybrid)
    return sample(pair.base, problems, n_samples, decoding, seed=SEED, batch_size=batch_size, open_rows=opened)


def prompt_of(model: Model, trace: Trace) -> list[int]:
    return list(model.tokenizer(next(p.prompt for p in PROBLEMS if p.id == trace.problem_id)).input_ids)


@torch.no_grad()
def logits_under(model: Model, text, edit=None, positions=slice(-1, None), dose=1.0):
    """Next-token logits of one full pass over `text`, no padding, no cache, an `Add` at the given positions alone."""
    handles = []
    for site, direction in {} if edit is None else edit.vector.directions.items():

        def add(stream, direction=direction):
            stream = stream.clone()
            stream[:, positions] += dose * edit.dose * direction
            return stream

        handles.append(hook_site(model, site, add))
    try:
        return model.network(torch.tensor([text]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def last_stream(model: Model, text, site):
    tokens = torch.tensor([text])
    return capture(model, tokens, torch.ones_like(tokens).bool(), [site])[site][:, -1]
