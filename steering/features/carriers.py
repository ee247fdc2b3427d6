"""carriers: the features of an SAE that push towards a behaviour, by exact ablation."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from lab.metrics.bootstrap import resamples
from lab.models.load import Model, in_float32
from lab.seeds import numpy_generator
from probes.attribution.attribute import attribute
from probes.attribution.feature_effects import feature_effects
from probes.attribution.method import Ablation
from probes.sae.dictionary import Sae


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Carriers:
    """What was found of the features of one SAE."""

    sae: Sae
    effects: pl.DataFrame
    """`FEATURE_EFFECTS` by exact ablation."""
    top: tuple[int, ...]
    """Features whose mean effect has an interval above 0, the largest effect first."""
    total: float
    """Sum of the mean effects of `top`, in nats."""
    opening_share: Float[np.ndarray, " d_sae"]
    """Share of the texts at whose last token each feature is active."""


def carriers(model: Model, sae: Sae, contrasts: pl.DataFrame, *, n_top: int, n_boot: int, seed: int) -> Carriers:
    """The at most `n_top` features of `sae` that most raise the contrasts of a `CONTRASTS` table in `model`.

    The effect of a feature is what is lost when it is set to 0 at one token, summed over tokens, averaged over texts,
    as the model computes in float32. Raises as `attribute` does.
    """
    found = attribute(in_float32(model), sae, contrasts, Ablation()).effects
    n_problems = contrasts["problem_id"].n_unique()
    weights = resamples(n_problems, n_boot, numpy_generator(seed, "bootstrap of effects"))
    effects = feature_effects(found, contrasts, Ablation(), weights)
    # NaN, an interval that is not known, would compare above 0.
    sure = pl.col("low").is_not_nan() & (pl.col("low") > 0)
    raising = effects.filter(sure).sort("effect", "feature", descending=[True, False]).head(n_top)
    last = contrasts.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("text"), position=pl.col("tokens").list.len().cast(pl.Int32) - 1
    )
    at_last = found.join(last, on=["text", "position"], how="semi").group_by("feature").len()
    share = np.zeros(sae.d_sae)
    share[at_last["feature"].to_numpy()] = at_last["len"].to_numpy() / len(contrasts)
    return Carriers(
        sae=sae,
        effects=effects,
        top=tuple(raising["feature"].to_list()),
        total=float(raising["effect"].sum()),
        opening_share=share,
    )
