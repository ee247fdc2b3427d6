"""interventions: features ablated in the tuned model and added to the base, against random ones that fire as often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from elicitation.estimators.estimate import UNKNOWN
from lab.metrics.bootstrap import difference_interval, interval_columns, mean_interval, resamples
from lab.models.load import Model, in_float32
from lab.models.pair import ModelPair
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.scoring.scores import Row, by_text, foresee, pieces
from lab.tasks.problem import Problem
from probes.attribution.contrast import CONTRASTS
from probes.attribution.effects import Ablation, attribute, feature_effects
from probes.sae.dictionary import Sae, splice
from probes.tables import INTERVENTIONS


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
    rows: list[dict[str, object]] = []
    for problem in problems:
        tokens = model.prompt_ids(problem.prompt)
        toward, against = [sought.toward], [sought.against]
        rows.append({"problem_id": problem.id, "tokens": tokens, "toward": toward, "against": against})
    return CONTRASTS.frame(rows)


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
    top, total = tuple(raising["feature"].to_list()), float(raising["effect"].sum())
    return TopFeatures(sae=sae, effects=effects, top=top, total=total, first_token_share=share)


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


DOSES = (0.5, 1.0, 2.0)
"""How much of their mean activation, where active, added features get at every token."""


Alteration = Callable[[Float[Tensor, "row pos d_sae"], Sequence[int]], Float[Tensor, "row pos d_sae"]]
"""Features of some prompts, and which prompts they are -> the features in their place."""


@torch.no_grad()
def first_token_rates(
    model: Model,
    prompts: Sequence[Sequence[int]],
    toward: Sequence[int],
    sae: Sae | None = None,
    alter: Alteration | None = None,
) -> Float[np.ndarray, " prompt"]:
    """Probability at temperature 1 that the next token of each prompt (token ids) is one of `toward`.

    It is the expected share of samples that begin so, free of sampling noise. With `sae` and `alter`, features are
    altered at every token of the prompt and the part of the stream that the SAE does not explain stays.
    """
    # The completion only says where to read; it comes after the token whose logits count.
    rows = [Row(list(prompt), [toward[0]]) for prompt in prompts]
    rates = np.empty(len(rows))

    def share(logits: Tensor, _: Tensor) -> tuple[Tensor]:
        return (logits.softmax(dim=-1)[:, list(toward)].sum(dim=-1),)

    for chosen, read in pieces(model, rows):
        if sae is None or alter is None:
            foreseen = foresee(model, read)
        else:
            with splice(model, sae, lambda features, chosen=chosen: alter(features, chosen)):
                foreseen = foresee(model, read)
        shares = [of_prompt for (of_prompt,) in by_text(share, foreseen)]
        rates[list(chosen)] = torch.cat(shares).double().cpu().numpy()
    return rates


@dataclass(frozen=True, slots=True)
class Ablated:
    """Features set to 0 at every token of the prompt, in the tuned model."""


@dataclass(frozen=True, slots=True)
class Added:
    """`dose` times their mean activation added to features at every token of the prompt, in the base model."""

    dose: float


Intervention: TypeAlias = Ablated | Added


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """Features that are held to carry a behaviour, and what is known of all features, to match them with others."""

    sae: Sae
    top: tuple[int, ...]
    """Chosen on other problems than those they are tried on."""
    mean_active: Float[np.ndarray, " d_sae"]
    """Mean activation where active; NaN where it never is."""
    firing_share: Float[np.ndarray, " d_sae"]
    """Share of all tokens at which it fires."""
    first_token_share: Float[np.ndarray, " d_sae"]
    """Share of some prompts at whose last token it is active."""


def interventions(
    pair: ModelPair,
    candidates: Candidates,
    prompts: Sequence[str],
    toward: Sequence[int],
    *,
    n_boot: int,
    seed: int,
) -> pl.DataFrame:
    """`INTERVENTIONS`: how often the models, each asked in its format, begin answers to `prompts` with one of `toward`.

    Two controls stand beside the top features, and give every prompt features of its own, so that their intervals hold
    the spread between draws: `frequency_matched` fire as often over all tokens, `first_token` as often at the last
    token of a prompt. What a control adds is scaled to the length of what the top features add. Raises EstimateError
    where no feature was chosen, or nothing fires as often.
    """
    if not candidates.top:
        raise EstimateError("no feature was chosen, so there is nothing to act on: attribute more texts")
    sets = feature_sets(candidates, len(prompts), seed)
    weights = resamples(len(prompts), n_boot, numpy_generator(seed, "bootstrap of interventions"))
    rows: list[dict[str, object]] = []
    for model, name, interventions in (
        (pair.tuned, "ablated in the tuned model", (Ablated(),)),
        (pair.base, "added to the base model", tuple(map(Added, DOSES))),
    ):
        asked = [model.prompt_ids(prompt) for prompt in prompts]
        untouched = first_token_rates(model, asked, toward)
        described = {"intervention": name, "features": "none", "n_features": 0, "dose": 0.0, "active_share": np.nan}
        rows.append(described | _rates(untouched, untouched, None, weights))
        for intervention in interventions:
            rates = {
                which: first_token_rates(
                    model, asked, toward, candidates.sae, alteration(intervention, candidates, chosen)
                )
                for which, chosen in sets.items()
            }
            dose = intervention.dose if isinstance(intervention, Added) else 1.0
            described = {"intervention": name, "n_features": len(candidates.top), "dose": dose}
            for which, rate in rates.items():
                active = float(candidates.first_token_share[sets[which]].mean())
                changes = _rates(rate, untouched, None if which == "top" else rates["top"], weights)
                rows.append(described | {"features": which, "active_share": active} | changes)
    return INTERVENTIONS.frame(rows)


def feature_sets(candidates: Candidates, n_prompts: int, seed: int) -> dict[str, Int[np.ndarray, "prompt feature"]]:
    """The features that each prompt's reading is altered in: the same top ones, and controls drawn for each."""
    # A feature that fires somewhere but never at the last token of a prompt is matched with its like.
    rare = np.where(candidates.firing_share > 0, 0.5 / n_prompts, 0.0)
    at_first = np.maximum(candidates.first_token_share, rare)
    over_all, where_it_begins = (numpy_generator(seed, word, "features") for word in ("matched", "opening"))
    return {
        "top": np.tile(np.array(candidates.top), (n_prompts, 1)),
        "frequency_matched": frequency_matched(candidates.top, candidates.firing_share, n_prompts, over_all),
        "first_token": frequency_matched(candidates.top, at_first, n_prompts, where_it_begins),
    }


def alteration(
    intervention: Intervention, candidates: Candidates, chosen: Int[np.ndarray, "prompt feature"]
) -> Alteration:
    """What `intervention` does to the features `chosen` for each prompt."""
    sae, top = candidates.sae, list(candidates.top)
    device = sae.W_dec.device
    table = torch.from_numpy(chosen).to(device)
    match intervention:
        case Ablated():

            def alter(features: Float[Tensor, "row pos d_sae"], rows: Sequence[int]) -> Float[Tensor, "row pos d_sae"]:
                where = table[list(rows)][:, None, :].expand(-1, features.shape[1], -1)
                return features.scatter(2, where, 0.0)

        case Added(dose=dose):
            means = torch.tensor(candidates.mean_active, dtype=sae.dtype, device=device).nan_to_num()
            added = torch.zeros(len(table), sae.d_sae, dtype=sae.dtype, device=device).scatter(1, table, means[table])
            # Scaled, so that every prompt's features add a vector as long as the top ones add.
            wanted = (means[top] @ sae.W_dec[top]).norm()
            added = dose * (added * (wanted / (added @ sae.W_dec).norm(dim=1, keepdim=True)))

            def alter(features: Float[Tensor, "row pos d_sae"], rows: Sequence[int]) -> Float[Tensor, "row pos d_sae"]:
                return features + added[list(rows)][:, None, :].to(features.dtype)

    return alter


def _rates(
    rate: Float[np.ndarray, " prompt"],
    untouched: Float[np.ndarray, " prompt"],
    top: Float[np.ndarray, " prompt"] | None,
    weights: Int[np.ndarray, "boot prompt"],
) -> dict[str, object]:
    """The rates of a row of `INTERVENTIONS`; `top` is that under the top features where these are a control of them."""
    beyond = UNKNOWN if top is None else difference_interval(top, rate, weights)
    change = difference_interval(rate, untouched, weights)
    rates = interval_columns(mean_interval(rate, weights), "rate")
    return rates | interval_columns(change, "change", "change_") | interval_columns(beyond, "beyond", "beyond_")
