"""Material: the tuned model's traces as both models read them, on which both published methods are fitted; and how."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lab.models.pair import ModelPair
from lab.records.errors import VectorError
from lab.scoring.scores import Row, by_text, foresee, pieces
from lab.tasks.problem import Problem, problem_table
from probes.capture.capture import capture
from probes.capture.site import Site, texts
from probes.taxonomy.segments import Rule, SegmentMeans, segments
from steering.fits.gradient import Likelihood


class Moment(NamedTuple):
    """A token of a text."""

    text: int
    position: int
    """From 0, prompt included."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """Texts, their segments, and the tokens that the base model would not have written greedily."""

    rows: tuple[Row, ...]
    """Prompt and completion of every trace."""
    segments: SegmentMeans
    """Of the tuned model's stream."""
    surprise: Float[np.ndarray, " segment"]
    """Mean of -ln p of a segment's tokens under the base model, whose exponential is its perplexity."""
    disagreements: tuple[Moment, ...]
    """Tokens of completions that are not the base model's most likely ones there."""
    streams: Float[Tensor, "disagreement d_model"]
    """The tuned model's stream at the token before each of them: all that a router can know; in fp32 on the CPU."""

    def tokens(self, text: int) -> list[int]:
        """Prompt and completion of one text."""
        return self.rows[text].context + self.rows[text].completion


@torch.no_grad()
def material(
    pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem], rule: Rule, site: Site
) -> Material:
    """Reads the tuned model's `TRACES` once by either model, cut into segments by `rule`; raises as `fit_published`."""
    if traces.is_empty():
        raise VectorError("no trace of the tuned model to fit published hybrids on: draw some")
    table = texts(pair.base, traces, problem_table(problems.values()))
    rows = [Row(list(prompt), list(completion)) for prompt, completion in table.select("prompt", "completion").rows()]
    found = segments(rule, pair.base.tokenizer, table)
    spans = found.with_row_index("segment").select("text", "segment", "first", "last").rows_by_key("text")
    means = torch.zeros(len(found), pair.tuned.anatomy.d_model)
    surprise = np.zeros(len(found))
    moments: dict[int, tuple[Int[Tensor, " disagreement"], Float[Tensor, "disagreement d_model"]]] = {}

    def read_off(logits: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        surprises = torch.nn.functional.cross_entropy(logits, written, reduction="none")
        return surprises, logits.argmax(dim=-1) != written

    for chosen, piece in pieces(pair.base, rows):
        figures = by_text(read_off, foresee(pair.base, piece))
        streams = capture(pair.tuned, piece.tokens, piece.mask, [site])[site].float()
        for index, figured, padded, mask in zip(chosen, figures, streams, piece.mask, strict=True):
            n_prompt = len(rows[index].context)
            surprises, differs = (one.cpu() for one in figured)
            stream = padded[mask].cpu()
            for number, first, last in spans.get(index, ()):
                means[number] = stream[first : last + 1].mean(dim=0)
                surprise[number] = float(surprises[first - n_prompt : last + 1 - n_prompt].mean())
            places = n_prompt + differs.nonzero()[:, 0]
            moments[index] = places, stream[places - 1]
    return Material(
        rows=tuple(rows),
        segments=SegmentMeans(
            site=site, segments=found, means=means, model=pair.tuned.name, model_digest=pair.tuned.digest
        ),
        surprise=surprise,
        disagreements=tuple(Moment(text, place) for text in range(len(rows)) for place in moments[text][0].tolist()),
        streams=torch.cat([moments[text][1] for text in range(len(rows))]),
    )


LEAST_GAIN = 1e-3
"""Nats a token by which an epoch's loss must fall to count as better."""
MOST_NORM = 1.0
"""Longest gradient of a network."""
NETWORK_RATE, DECAY = 1e-2, 0.01
"""Of a network; published: rate 1e-3, for a hundred times as many steps."""

Shift: TypeAlias = Callable[[Int[Tensor, " row"]], Float[Tensor, "row d_model"]]
"""Rows of examples -> what is added to the stream in each; gradients pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """Sizes of one fit."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    """Of the vectors at the start, in units of the mean residual norm divided by the square root of d_model."""
    patience: int
    """Epochs without a better training loss, after which it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSettings:
    """How much each fit sees, and how long: what small models need on a CPU, with the published sizes behind it."""

    depth: float = 0.375
    """Block that the vectors act at, as a share of all; published: 10 of 28, 12 of 32, 18 of 48, 24 of 64."""
    n_categories: int = 6
    """Published: 5 to 50, chosen by a language model's marks."""
    n_traces: int = 128
    """Traces that the bias is fitted on, at most; published: 2048."""
    n_segments: int = 48
    """Segments that a category's vector is fitted on, at most; published: 2048."""
    n_disagreements: int = 2048
    """Positions that P2 is fitted on, at most; published: 64 in each of 9800 traces."""
    d_hidden: int = 64
    """Of the coefficient network; published: 512."""
    bias: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10))
    """Published: 50 epochs in batches of 1 to 4, rate 1e-2, patience 10."""
    categories: Descent = field(
        default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10)
    )
    """As for the bias."""
    scaled: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=64, learning_rate=0.1, patience=5))
    """Of vectors and coefficients together; published: 10 epochs, rate 1e-2, patience 5."""

    def __post_init__(self) -> None:
        names = ("n_categories", "n_traces", "n_segments", "n_disagreements", "d_hidden")
        if low := {name: count for name in names if (count := getattr(self, name)) < 1}:
            raise VectorError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")
        if not 0 <= self.depth < 1:
            raise VectorError(f"a depth of {self.depth:g}: want a share of the blocks, from 0 to below 1")

    def layer(self, n_layers: int) -> int:
        """The block that the vectors act at, in a network of `n_layers`."""
        return min(round(self.depth * n_layers), n_layers - 1)


@torch.enable_grad()
def descend(
    likelihood: Likelihood,
    shift: Shift,
    vectors: Sequence[Tensor],
    descent: Descent,
    generator: torch.Generator,
    *,
    network: Sequence[Tensor] = (),
) -> None:
    """Changes `vectors`, and the tensors of a `network` if there is one, so that the targets become likely.

    The loss is the mean cross-entropy of a batch's targets, rates fall to 0 by half a cosine, and vectors have no cap
    on their norm. A network has weight decay, and its gradient is clipped to norm 1. Departure: the published rate of
    vectors is 1e-2 whatever the model; here it grows with the stream, so that one number serves models of any width.
    Raises VectorError where the loss is not finite.
    """
    n_examples = len(likelihood.first)
    n_batches = math.ceil(n_examples / descent.batch_size)
    last = likelihood.streams.last().float()
    rate = descent.learning_rate * float(last.norm(dim=1).mean()) / last.shape[1] ** 0.5
    groups = [{"params": list(vectors), "lr": rate, "weight_decay": 0.0}]
    if network:
        groups.append({"params": list(network), "lr": NETWORK_RATE, "weight_decay": DECAY})
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, descent.n_epochs * n_batches)
    lowest, n_worse = math.inf, 0
    for _ in range(descent.n_epochs):
        total, n_targets = 0.0, 0
        for rows in torch.randperm(n_examples, generator=generator).split(descent.batch_size):
            rows = rows.to(likelihood.first.device)
            loss, n = likelihood.losses(rows, shift(rows)).sum(), likelihood.n_targets(rows)
            optimiser.zero_grad()
            (loss / n).backward()
            if network:
                clip_grad_norm_(network, MOST_NORM)
            optimiser.step()
            schedule.step()
            total, n_targets = total + float(loss.detach()), n_targets + n
        mean = total / n_targets
        if not math.isfinite(mean):
            raise VectorError(f"the loss became {mean}: lower the learning rate or use --dtype float32")
        n_worse = 0 if mean < lowest - LEAST_GAIN else n_worse + 1
        lowest = min(lowest, mean)
        if n_worse >= descent.patience:
            break
