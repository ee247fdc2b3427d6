"""opening_rates: how probable it is that a model opens its answer with certain tokens, as it is or spliced."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.reading.texts import Row, completion_logits, pieces
from probes.sae.dictionary import Sae
from probes.sae.splice import splice

Alteration = Callable[[Float[Tensor, "row pos d_sae"], Sequence[int]], Float[Tensor, "row pos d_sae"]]
"""Features of some prompts, and which prompts they are -> the features in their place."""


@torch.no_grad()
def opening_rates(
    model: Model,
    prompts: Sequence[Sequence[int]],
    toward: Sequence[int],
    sae: Sae | None = None,
    alter: Alteration | None = None,
) -> Float[np.ndarray, " prompt"]:
    """Probability at temperature 1 that the next token of each prompt (token ids) is one of `toward`.

    It is the expected share of samples that open so, free of sampling noise. With `sae` and `alter`, features are
    altered at every token of the prompt and the part of the stream that the SAE does not explain stays.
    """
    # The completion only says where to read; it comes after the token whose logits count.
    rows = [Row(list(prompt), [toward[0]]) for prompt in prompts]
    rates = np.empty(len(rows))
    for chosen, read in pieces(model, rows):
        if sae is None or alter is None:
            logits = completion_logits(model, read)
        else:
            with splice(model, sae, lambda features, chosen=chosen: alter(features, chosen)):
                logits = completion_logits(model, read)
        share = logits[:, -1].float().softmax(dim=-1)[:, list(toward)].sum(dim=-1)
        rates[list(chosen)] = share.double().cpu().numpy()
    return rates
