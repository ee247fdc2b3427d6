"""fit_rivals: both rival methods, fitted to the tuned model's traces of training problems."""

from collections.abc import Mapping

import polars as pl

from lab.models.pair import ModelPair
from lab.seeds import child_seed
from lab.tasks.problem import Problem
from probes.site import Site
from probes.taxonomy.fit import ClusteringSae, fit
from probes.taxonomy.parts import parts
from probes.taxonomy.segments import Rule
from steering.rivals.fit_constant import fit_constant
from steering.rivals.fit_scaled import fit_scaled
from steering.rivals.material import material
from steering.rivals.recipe import AllTokens, Disagreements
from steering.rivals.rivals import Rivals
from steering.rivals.settings import RivalSettings

N_SCORES = 3
"""Scores that a reconstruction of the taxonomy keeps, where there are as many categories."""


def fit_rivals(
    pair: ModelPair,
    traces: pl.DataFrame,
    problems: Mapping[str, Problem],
    rule: Rule,
    settings: RivalSettings,
    *,
    seed: int,
) -> Rivals:
    """All that the rivals' arms need, from a `TRACES` table of the tuned model, right answers and wrong ones.

    With L the block that `settings` names: the taxonomy reads the tuned model's stream at the output of block L, as
    `rule` cuts it into segments; the first rival is fitted at the input of block L, on all tokens and again on
    disagreements; the second at its output. Only blocks above are run for a step of any fit. Equal arguments give equal
    numbers on one machine.

    Raises VectorError where there is nothing to fit on or a loss is not finite, EstimateError for fewer segments than
    categories or fewer than three problems, StorageError where no text has a segment or a problem is absent.
    """
    layer = settings.layer(pair.base.anatomy.n_layers)
    read = material(pair, traces, problems, rule, Site(layer))
    cut = parts(read.segments.segments["problem_id"].to_list(), child_seed(seed, "parts"))
    sae = ClusteringSae(k=min(N_SCORES, settings.n_categories))
    taxonomy = fit(read.segments, cut, settings.n_categories, sae, seed=child_seed(seed, "taxonomy")).taxonomy
    on_all_tokens, on_disagreements = (
        fit_constant(
            pair.base,
            Site(layer, "resid_pre"),
            read,
            taxonomy,
            fitted_on,
            settings,
            seed=child_seed(seed, "constant"),
        )
        for fitted_on in (AllTokens(), Disagreements())
    )
    return Rivals(
        taxonomy=taxonomy,
        stream_norm=float(read.streams.norm(dim=1).mean()),
        on_all_tokens=on_all_tokens,
        on_disagreements=on_disagreements,
        scaled=fit_scaled(pair.base, Site(layer), read, taxonomy, settings, seed=child_seed(seed, "scaled")),
    )
