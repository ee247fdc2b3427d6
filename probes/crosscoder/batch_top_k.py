"""batch_top_k: which latents of a batch are kept."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def batch_top_k(values: Float[Tensor, "batch latent"], k: int) -> Bool[Tensor, "batch latent"]:
    """True at the k * batch largest entries, so that a row keeps k on average and may keep more or fewer.

    All entries where there are fewer. Bussmann, Leask and Nanda 2024 (2412.06410).
    """
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    n_kept = min(k * len(values), values.numel())
    chosen[values.flatten().topk(n_kept, sorted=False).indices] = True
    return chosen.view_as(values)
