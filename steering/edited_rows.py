"""EditedRows: rows of one model in which each prompt is read, and continued, under an edit of its own."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lab.models.load import Model
from lab.sampling.rows import Batch, CachedRows, Proposal
from lab.seeds import child_seed
from steering.edit import Edit, apply_each


class EditedRows:
    """As under `apply`, every position that is read is edited, prompt and completion, where the edit's gate is open.

    Which of `edits` a prompt has is a hash of its tokens, so batches and their order cannot change it.
    """

    def __init__(self, model: Model, edits: Sequence[Edit], batch: Batch) -> None:
        self.model, self.edits = model, edits
        of_prompts = chosen_edits(batch, len(edits))
        with apply_each(model, edits, of_prompts):
            self.rows = CachedRows(model, batch)
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
