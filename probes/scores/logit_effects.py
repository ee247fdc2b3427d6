"""logit_effects: which tokens a feature raises and lowers by the direct path from its decoder row to the logits."""

from collections.abc import Sequence

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from probes.sae.dictionary import Sae, require_fit
from probes.scores.shard_features import require_features
from probes.tables import LOGIT_EFFECTS

CENTRED_NORMS = ("gpt2", "gpt_neox")
"""Families whose final norm is a LayerNorm; those of all others are RMSNorms."""
SHIFTED_NORMS = ("gemma", "gemma2", "gemma3_text")
"""Families whose final norm multiplies by 1 + weight."""
_TOGETHER = 2**24
"""Effects that are held at once."""


@torch.no_grad()
def logit_effects(model: Model, sae: Sae, features: Sequence[int], n_tokens: int = 10) -> pl.DataFrame:
    """`LOGIT_EFFECTS` rows: for each of `features` the `n_tokens` tokens it raises most, and those it lowers most.

    The effect of a feature on a token is (W_dec * gain) @ W_U, minus its mean over the vocabulary. `gain` is the final
    norm's weight (1 + weight in Gemma), and a LayerNorm's centring of the row comes before it. The division by the
    stream's size is left out, as if that were 1: it differs from token to token, and is the same for all tokens of the
    vocabulary. So the order of tokens is right, and effects compare between features of one place; biases cancel.
    Gemma 2's soft cap on the logits is left out too, and keeps their order. What later blocks make of the feature is no
    part of this.

    Tokens that the tokenizer does not have are left out. The vocabulary is read in parts. Raises ModelError or
    SiteError where the SAE does not fit the model, and SiteError for a feature that it does not have.
    """
    require_fit(sae, model)
    require_features(sae, features)
    written = directions(model, sae.W_dec[list(features)].to(model.device))
    unembed = model.anatomy.unembed.weight
    assert isinstance(unembed, Tensor)
    n_vocab = min(len(model.tokenizer), model.anatomy.d_vocab)
    unembed = unembed[:n_vocab]
    centre = unembed.float().mean(dim=0)
    rows: list[dict[str, object]] = []
    for side, sign in (("up", 1.0), ("down", -1.0)):
        strengths, tokens = _strongest(sign * written, unembed, centre, min(n_tokens, n_vocab))
        for feature, found, effects in zip(features, tokens.tolist(), (sign * strengths).tolist(), strict=True):
            rows += [
                {
                    "feature": feature,
                    "side": side,
                    "rank": rank,
                    "token": token,
                    "text": str(model.tokenizer.decode([token])),
                    "effect": effect,
                }
                for rank, (token, effect) in enumerate(zip(found, effects, strict=True))
            ]
    return LOGIT_EFFECTS.frame(rows).sort("feature", "side", "rank", descending=[False, True, False])


def directions(model: Model, written: Float[Tensor, "feature d_model"]) -> Float[Tensor, "feature d_model"]:
    """What the unembedding reads of vectors that are added to the last stream, but for the division by its size."""
    weight = model.anatomy.final_norm.weight
    assert isinstance(weight, Tensor)
    gain, written = weight.float(), written.float()
    if model.anatomy.family in CENTRED_NORMS:
        written = written - written.mean(dim=1, keepdim=True)
    return written * (1 + gain if model.anatomy.family in SHIFTED_NORMS else gain)


def _strongest(
    written: Float[Tensor, "feature d_model"],
    unembed: Float[Tensor, "vocab d_model"],
    centre: Float[Tensor, " d_model"],
    n_tokens: int,
) -> tuple[Float[Tensor, "feature rank"], Int[Tensor, "feature rank"]]:
    """The largest effects, centred, and the tokens they are on, from parts of the vocabulary."""
    strengths = torch.empty(len(written), 0, device=written.device)
    tokens = torch.empty(len(written), 0, dtype=torch.long, device=written.device)
    n_together = max(n_tokens, _TOGETHER // len(written))
    for first in range(0, len(unembed), n_together):
        part = unembed[first : first + n_together].float() - centre
        here = torch.arange(first, first + len(part), device=written.device).expand(len(written), -1)
        strengths, tokens = torch.cat([strengths, written @ part.T], dim=1), torch.cat([tokens, here], dim=1)
        strengths, kept = strengths.topk(min(n_tokens, strengths.shape[1]), dim=1)
        tokens = tokens.gather(1, kept)
    return strengths, tokens
