"""Fit: a way to find a steering vector, what it may learn from, and the texts as it reads them.

A new one is a frozen dataclass that inherits `Fit`, in a file of its own, and an entry in `steering.fits.fits.FITS`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, assert_never, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.post_training.trainers import OnProgress, Reward
from lab.records.errors import VectorError
from lab.sampling.decoder import left_padded
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from probes.capture.capture import LayersAbove, capture, layers_above
from probes.capture.site import Site
from steering.vector import SteeringVector


class Disagreements(NamedTuple):
    """Moments at which one token should have been written; the vector acts at the last position of a context alone."""

    tokens: Int[Tensor, "disagreement pos"]
    """Contexts, padded on the left."""
    mask: Bool[Tensor, "disagreement pos"]
    targets: Int[Tensor, " disagreement"]


class Completions(NamedTuple):
    """Texts whose last tokens should have been written; the vector acts at every position, as under `apply`."""

    tokens: Int[Tensor, "text pos"]
    """Prompts and completions, padded on the left."""
    mask: Bool[Tensor, "text pos"]
    n_completion: Int[Tensor, " text"]
    """How many tokens at the end of each text are its completion: at least one, and fewer than the text has."""


Examples = TypeVar("Examples", Disagreements, Completions)


class Example(NamedTuple):
    """One text as a fit reads it."""

    text: list[int]
    """Token ids, without padding."""
    first: int
    """The first position that the vector acts at; it acts at all later ones too."""
    places: list[int]
    """Positions whose next token is at stake."""
    targets: list[int]
    """That token, for each."""


def chosen(examples: Examples, rows: Int[Tensor, " chosen"]) -> Examples:
    """The examples at `rows`, in that order."""
    rows = rows.to(examples.tokens.device)
    return type(examples)(*(part[rows] for part in examples))


def listed(examples: Disagreements | Completions) -> list[Example]:
    """The examples one by one, in order."""
    texts = [row[kept].tolist() for row, kept in zip(examples.tokens, examples.mask, strict=True)]
    match examples:
        case Disagreements(targets=targets):
            return [
                Example(text, len(text) - 1, [len(text) - 1], [target])
                for text, target in zip(texts, targets.tolist(), strict=True)
            ]
        case Completions(n_completion=lengths):
            return [
                Example(text, 0, list(range(len(text) - n - 1, len(text) - 1)), text[-n:])
                for text, n in zip(texts, lengths.tolist(), strict=True)
            ]
        case never:
            assert_never(never)


def split_by_problem(
    examples: Examples, problems: Sequence[str], held_out_share: float, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """(to fit on, held out): no problem is on both sides, and `held_out_share` of the problems are held out.

    `problems` names the problem of each example. Raises VectorError where either side would be empty.
    """
    distinct = sorted(set(problems))
    n_held_out = round(held_out_share * len(distinct))
    if not 0 < n_held_out < len(distinct):
        raise VectorError(
            f"{held_out_share:g} of {len(distinct)} problems held out leaves a side without any: take more problems or "
            "another share"
        )
    held_out = set(generator.permutation(distinct)[:n_held_out].tolist())
    is_out = torch.tensor([problem in held_out for problem in problems])
    return chosen(examples, (~is_out).nonzero()[:, 0]), chosen(examples, is_out.nonzero()[:, 0])


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
    """Reads every text (token ids) once, `batch_size` at a time, for its stream at `site`; raises as `capture`."""
    whole, owners = without_beginnings(texts)
    parts: list[Tensor] = []
    for start in range(0, len(whole), batch_size):
        padded = left_padded(model, whole[start : start + batch_size])
        # Rows of the mask are in order, and so are the tokens of each.
        parts.append(capture(model, padded.tokens, padded.mask, [site])[site][padded.mask])
    ends = list(accumulate(map(len, whole)))
    longest = max(map(len, texts))
    above = {}
    for width in sorted({_width(len(text), longest) for text in texts}):
        # What a block is given beside the stream hangs on the width alone, so that any text of this width tells it.
        tokens = torch.zeros(1, width, dtype=torch.long, device=model.device)
        above[width] = layers_above(model, site, tokens, torch.ones_like(tokens).bool())
    return Streams(
        tokens=torch.cat(parts),
        starts=torch.tensor([ends[owner] - len(whole[owner]) for owner in owners], device=model.device),
        lengths=torch.tensor([len(text) for text in texts], device=model.device),
        above=above,
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


def residual_norms(
    model: Model, sites: Sequence[Site], problems: Sequence[Problem], decoding: Decoding, *, seed: int
) -> dict[Site, float]:
    """Mean L2 norm at each site over the tokens of the prompts and of one completion of each by the model itself.

    The first token of a text is left out: in most language models it is an attention sink, whose stream is a hundred
    times as long as any other from some block on (Sun et al. 2024), and would be most of the mean.

    Raises SiteError for a layer out of range, and as `sample` does.
    """
    prompts = {problem.id: model.prompt_ids(problem.prompt) for problem in problems}
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


@runtime_checkable
class Taught(Protocol):
    """Texts on two sides, and where one model should write as another; VectorError where there is none of the kind."""

    @property
    def description(self) -> str:
        """What the sides are, in a few words."""
        ...

    def sides(
        self, model: Model, site: Site
    ) -> tuple[Float[Tensor, "positive d_model"], Float[Tensor, "negative d_model"]]:
        """Streams just after the first token of the texts to move towards, and of those to move away from."""
        ...

    def texts(self, model: Model, most: int, generator: torch.Generator) -> Completions:
        """The texts to move towards; of more than `most`, some."""
        ...

    def first_tokens(self, model: Model, generator: torch.Generator) -> Disagreements:
        """First tokens that one model should write as the other does."""
        ...


class Rewarded(NamedTuple):
    """Problems whose completions are rewarded, for a fit that writes its own texts."""

    problems: Sequence[Problem]
    reward: Reward
    work: Path
    """Where its checkpoints go, from the last of which it goes on."""
    on_progress: OnProgress = lambda *_: None
    """Is told steps just done, and steps in all."""


Teaching = TypeVar("Teaching", contravariant=True)
"""What a fit learns from: `Taught` or `Rewarded`."""


@runtime_checkable
class Fit(Protocol[Teaching]):
    """A way to find a vector."""

    @abstractmethod
    def fit(self, model: Model, sites: Sequence[Site], taught: Teaching, *, seed: int) -> SteeringVector:
        """The vector at `sites`, one unless the fit is made for several; VectorError where nothing can be learned."""
        ...

    @property
    def learns_from(self) -> Literal["sides", "tokens", "rewards"]:
        """What a control shuffles: which side a text is on, what comes next in it, or what is rewarded."""
        return "sides"
