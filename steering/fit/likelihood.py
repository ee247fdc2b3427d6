"""Likelihood: how likely the targets of examples are under vectors at a site, at the cost of the blocks above it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from probes.site import Site
from steering.fit.examples import Example
from steering.fit.streams import Streams, read_streams

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
    longest = max(len(example.targets) for example in examples)

    def padded(rows: list[list[int]], filler: int) -> Int[Tensor, "example place"]:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=model.device)

    return Likelihood(
        streams=read_streams(model, site, [example.text for example in examples], batch_size=batch_size),
        first=torch.tensor([example.first for example in examples], device=model.device),
        places=padded([example.places for example in examples], 0),
        targets=padded([example.targets for example in examples], IGNORED),
    )
