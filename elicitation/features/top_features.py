"""top_features: how a tuned model begins its answers where its base begins them otherwise, and which features do it.

Features are weighed by exact ablation; as controls stand others that fire as often (`frequency_matched`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from lab.metrics.bootstrap import resamples
from lab.models.load import Model, in_float32
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.tasks.problem import Problem
from probes.attribution.attribute import attribute
from probes.attribution.contrast import CONTRASTS
from probes.attribution.effects import Ablation
from probes.attribution.feature_effects import feature_effects
from probes.sae.dictionary import Sae


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """A first token of answers, against another."""

    toward: int
    """Token id that the tuned model writes, greedily."""
    against: int
    """Token id that the base model would write there, greedily."""


def behaviour(disagreements: pl.DataFrame) -> Behaviour | None:
    """The pair of first tokens that most often tells the models apart in a `DISAGREEMENTS` table; None without any.

    Of pairs that are as frequent, the one with the lower ids.
    """
    pairs = disagreements.filter(pl.col("position") == 0).group_by("tuned_token", "base_token").len()
    if pairs.is_empty():
        return None
    toward, against, _ = pairs.sort("len", "tuned_token", "base_token", descending=[True, False, False]).row(0)
    return Behaviour(toward=toward, against=against)


def behaviour_contrasts(model: Model, problems: Sequence[Problem], sought: Behaviour) -> pl.DataFrame:
    """`CONTRASTS` rows of the prompts of `problems`: the one first token against the other."""
    return CONTRASTS.frame(
        [
            {
                "problem_id": problem.id,
                "tokens": model.tokenizer(problem.prompt).input_ids,
                "toward": [sought.toward],
                "against": [sought.against],
            }
            for problem in problems
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TopFeatures:
    """What was found of the features of one SAE."""

    sae: Sae
    effects: pl.DataFrame
    """`FEATURE_EFFECTS` by exact ablation."""
    top: tuple[int, ...]
    """Features whose mean effect has an interval above 0, the largest effect first."""
    total: float
    """Sum of the mean effects of `top`, in nats."""
    first_token_share: Float[np.ndarray, " d_sae"]
    """Share of the texts at whose last token each feature is active."""


def top_features(model: Model, sae: Sae, contrasts: pl.DataFrame, *, n_top: int, n_boot: int, seed: int) -> TopFeatures:
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
    return TopFeatures(
        sae=sae,
        effects=effects,
        top=tuple(raising["feature"].to_list()),
        total=float(raising["effect"].sum()),
        first_token_share=share,
    )


N_NEAREST = 8
"""Candidates for each feature: those whose firing share is nearest to its own."""


def frequency_matched(
    features: Sequence[int], firing_share: Float[np.ndarray, " d_sae"], n_draws: int, generator: np.random.Generator
) -> Int[np.ndarray, "draw feature"]:
    """For every draw, one other feature for each of `features`, no two alike and none of `features` itself.

    Each is drawn from the `N_NEAREST` features whose firing share is nearest to its own by ratio, of those that fire at
    all and were not drawn before; of equally near ones every draw takes others. Raises EstimateError where there are
    too few, or one of `features` never fires.
    """
    silent = [feature for feature in features if not firing_share[feature] > 0]
    if silent:
        raise EstimateError(f"features {silent} never fire, so nothing fires as often: leave them out")
    alive = np.flatnonzero(firing_share > 0)
    others = alive[~np.isin(alive, features)]
    if len(others) < len(features) or not len(features):
        raise EstimateError(
            f"{len(others)} other features fire, to match {len(features)}: choose fewer features or a larger SAE"
        )
    drawn = np.empty((n_draws, len(features)), dtype=np.int64)
    for draw in range(n_draws):
        taken: set[int] = set()
        # In random order first, which the stable sort keeps among ties.
        others = generator.permutation(others)
        away = np.abs(np.log(firing_share[others])[None, :] - np.log(firing_share[list(features)])[:, None])
        nearest = others[away.argsort(axis=1, kind="stable")]
        # In random order, so that no feature always has the first choice.
        for place in generator.permutation(len(features)):
            left = [int(other) for other in nearest[place] if int(other) not in taken][:N_NEAREST]
            drawn[draw, place] = left[generator.integers(len(left))]
            taken.add(int(drawn[draw, place]))
    return drawn
