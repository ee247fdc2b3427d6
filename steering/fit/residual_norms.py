"""residual_norms: how long the residual stream of a model is at some sites; doses are measured against it."""

from collections.abc import Sequence

import torch

from lab.models.load import Model
from lab.models.padding import left_padded
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.tasks.problem import Problem
from probes.capture import capture
from probes.site import Site


def residual_norms(
    model: Model, sites: Sequence[Site], problems: Sequence[Problem], decoding: Decoding, *, seed: int
) -> dict[Site, float]:
    """Mean L2 norm at each site over the tokens of the prompts and of one completion of each by the model itself.

    The first token of a text is left out: in most language models it is an attention sink, whose stream is a hundred
    times as long as any other from some block on (Sun et al. 2024), and would be most of the mean.

    Raises SiteError for a layer out of range, and as `sample` does.
    """
    prompts = {problem.id: model.tokenizer(problem.prompt).input_ids for problem in problems}
    texts = [
        prompts[trace.problem_id] + list(trace.tokens) for trace in sample(model, problems, 1, decoding, seed=seed)
    ]
    norms: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
    for start in range(0, len(texts), 32):
        read = left_padded(model, texts[start : start + 32])
        counted = read.mask & (read.mask.cumsum(dim=1) > 1)
        for site, stream in capture(model, read.tokens, read.mask, sites).items():
            norms[site].append(stream[counted].float().norm(dim=-1))
    return {site: float(torch.cat(found).mean()) for site, found in norms.items()}
