"""Edited: a model that reads its prompt and writes its completion under an edit, as a way of answering."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed
from lab.sampling.decoder import Batch, CachedDecoder, OpenDecoder, Proposal
from steering.edit import Edit, apply_each


@dataclass(frozen=True, slots=True)
class Edited:
    """Each prompt has one of `edits`, at every position that is read and where the edit's gate is open, as under
    `apply`; a single edit is the plain case.

    An interval over problems then holds the spread between the edits: a control is many draws, not one lucky vector.
    """

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        if not self.edits:
            raise VectorError("no edit to write under: want at least one")


def open_edited(model: Model, edited: Edited) -> OpenDecoder:
    """A decoder for `lab.sampling.sample`. Raises as `apply_each` does, once it reads."""
    return lambda batch: EditedDecoder(model, edited.edits, batch)


class EditedDecoder:
    """A cached model that is edited in every pass.

    Which of `edits` a prompt has is a hash of its tokens, so batches and their order cannot change it.
    """

    def __init__(self, model: Model, edits: Sequence[Edit], batch: Batch) -> None:
        self.model, self.edits = model, edits
        of_prompts = chosen_edits(batch, len(edits))
        with apply_each(model, edits, of_prompts):
            self.rows = CachedDecoder(model, batch)
        self.chosen = of_prompts[batch.owner.cpu()]

    def propose(self) -> Proposal:
        """The edited model's own distribution."""
        return self.rows.propose()

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One edited forward pass over one position."""
        with apply_each(self.model, self.edits, self.chosen):
            self.rows.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows."""
        self.rows.keep(rows)
        self.chosen = self.chosen[rows.cpu()]


def chosen_edits(batch: Batch, n_edits: int) -> Int[Tensor, " prompt"]:
    """Which edit each prompt of `batch` has."""
    texts = [prompt[kept].tolist() for prompt, kept in zip(batch.prompts, batch.mask, strict=True)]
    return torch.tensor([child_seed(0, "edit", *text) % n_edits for text in texts])
