"""Reading: some texts at a site, the features that are active in them, and the contrast of any edit of them."""

from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.models.padding import left_padded
from probes.attribution.contrast import Sides, contrast, read_sides
from probes.remainder import Remainder, remainder
from probes.sae.dictionary import Sae


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Active:
    """Every place and feature above zero, by row, place and feature."""

    row: Int[Tensor, " entry"]
    """Which text of the reading."""
    place: Int[Tensor, " entry"]
    """Which token of the text, from 0."""
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    """Activation, in the SAE's dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """A few texts, read once."""

    rest: Remainder
    sides: Sides
    active: Active
    written: Float[Tensor, "text pos d_model"]
    """What the features add to the stream: `features @ W_dec`, in the stream's dtype; 0 behind a text's end."""
    clean: Float[Tensor, " text"]
    """The contrast of each text as the model has it, in nats."""

    def contrast(self, stream: Float[Tensor, "edit pos d_model"], rows: Int[Tensor, " edit"]) -> Float[Tensor, " edit"]:
        """The contrasts, in nats, of edited streams, each of which is one of the text `rows`; gradients pass."""
        return _contrast(self.rest, self.sides, stream, rows)


@torch.no_grad()
def read(model: Model, sae: Sae, contrasts: pl.DataFrame) -> Reading:
    """Reads the texts of a `CONTRASTS` table as one batch, and encodes them one by one."""
    padded = left_padded(model, contrasts["tokens"].to_list())
    rest = remainder(model, sae.site, padded.tokens, padded.mask)
    sides = read_sides(contrasts, model.device)
    written = torch.zeros_like(rest.stream)
    entries: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for row, n_tokens in enumerate(rest.lengths.tolist()):
        features = sae.encode(rest.stream[row, :n_tokens])
        written[row, :n_tokens] = (features @ sae.W_dec).to(rest.stream.dtype)
        place, feature = features.nonzero(as_tuple=True)
        entries.append((torch.full_like(place, row), place, feature, features[place, feature]))
    row, place, feature, value = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return Reading(
        rest=rest,
        sides=sides,
        active=Active(row=row, place=place, feature=feature, value=value),
        written=written,
        clean=_contrast(rest, sides, rest.stream, torch.arange(len(contrasts), device=model.device)),
    )


def _contrast(
    rest: Remainder, sides: Sides, stream: Float[Tensor, "edit pos d_model"], rows: Int[Tensor, " edit"]
) -> Float[Tensor, " edit"]:
    logits = rest.logits(stream, rest.lengths[rows, None] - 1)[:, 0]
    return contrast(logits, Sides(sides.toward[rows], sides.against[rows]))
