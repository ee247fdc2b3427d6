"""Streams: what a model computes at a site for some texts, kept so that only the blocks above it need run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.sampling.decoder import left_padded
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.layers_above import LayersAbove, layers_above
from probes.capture.site import Site

WIDTH_STEP = 8
"""Batches are as wide as a multiple of this (or the longest text), so that few widths occur."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Streams:
    """The streams of some texts at a site, without padding, in the model's dtype on its device.

    A text that begins another one has the beginning of its stream, since attention is causal, and takes no memory.
    """

    tokens: Float[Tensor, "token d_model"]
    """The streams of all texts that begin no other, one behind another."""
    starts: Int[Tensor, " text"]
    """Where in `tokens` each text begins."""
    lengths: Int[Tensor, " text"]
    """Tokens of each text."""
    above: Mapping[int, LayersAbove]
    """The blocks above the site, for every width that a batch may have."""

    def batch(self, texts: Int[Tensor, " row"]) -> Float[Tensor, "row pos d_model"]:
        """Streams of some texts, each at the front of its row; what stands behind it means nothing."""
        width = _width(int(self.lengths[texts].max()), max(self.above))
        places = self.starts[texts][:, None] + torch.arange(width, device=self.tokens.device)
        return self.tokens[places.clamp(max=len(self.tokens) - 1)]

    def logits(
        self, stream: Float[Tensor, "row pos d_model"], places: Int[Tensor, "row place"]
    ) -> Float[Tensor, "row place d_vocab"]:
        """Logits at `places` above an edited `batch`, from 0 at the start of a text; gradients pass."""
        return self.above[stream.shape[1]].logits(stream, places)

    def last(self) -> Float[Tensor, "text d_model"]:
        """The stream at the last token of each text."""
        return self.tokens[self.starts + self.lengths - 1]


def read_streams(model: Model, site: Site, texts: Sequence[Sequence[int]], *, batch_size: int) -> Streams:
    """Reads every text, given as token ids, once, `batch_size` at a time, and keeps its stream at `site`.

    Raises SiteError for a layer out of range.
    """
    whole, owners = without_beginnings(texts)
    parts: list[Tensor] = []
    for start in range(0, len(whole), batch_size):
        padded = left_padded(model, whole[start : start + batch_size])
        # Rows of the mask are in order, and so are the tokens of each.
        parts.append(capture(model, padded.tokens, padded.mask, [site])[site][padded.mask])
    ends = list(accumulate(map(len, whole)))
    longest = max(map(len, texts))
    return Streams(
        tokens=torch.cat(parts),
        starts=torch.tensor([ends[owner] - len(whole[owner]) for owner in owners], device=model.device),
        lengths=torch.tensor([len(text) for text in texts], device=model.device),
        above={width: _above(model, site, width) for width in sorted({_width(len(text), longest) for text in texts})},
    )


def without_beginnings(texts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """(texts that begin no other one, for each text the index there of one that it begins or is)."""
    # In this order a text that begins others stands right before one of them.
    order = sorted(range(len(texts)), key=lambda index: tuple(texts[index]), reverse=True)
    whole: list[Sequence[int]] = []
    owners = [0] * len(texts)
    for index in order:
        text = texts[index]
        if not whole or list(whole[-1][: len(text)]) != list(text):
            whole.append(text)
        owners[index] = len(whole) - 1
    return whole, owners


def _width(length: int, longest: int) -> int:
    return min(-(-length // WIDTH_STEP) * WIDTH_STEP, longest)


def _above(model: Model, site: Site, width: int) -> LayersAbove:
    # What a block is given beside the stream hangs on the width alone, so that any text of this width tells it.
    tokens = torch.zeros(1, width, dtype=torch.long, device=model.device)
    return layers_above(model, site, tokens, torch.ones_like(tokens).bool())


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
