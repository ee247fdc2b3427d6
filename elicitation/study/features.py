"""Feature stages: both models' training traces, as either reads them -> SAEs -> what their features carry."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from elicitation.pages.features.tables import TABLES, FeatureTables
from elicitation.study.config import FeatureSearch, StudyContext, Tables
from elicitation.study.fits import Fitting
from elicitation.study.interventions import (
    Behaviour,
    Candidates,
    TopFeatures,
    behaviour,
    behaviour_contrasts,
    interventions,
    top_features,
)
from elicitation.study.sampled import read_traces
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table
from lab.tasks.problem import problem_table
from probes.capture.site import TEXTS, AllTokens, Site, texts
from probes.sae.architecture import QUALITY_FILE, TopK, Training, count_rows
from probes.sae.dictionary import Sae, load_sae
from probes.sae.train import Unit, grid, judge, train_unit
from probes.scores.contexts import contexts, differences, logit_effects
from probes.scores.label_probes import label_activations, label_probes
from probes.scores.labels import step_labels, word_labels
from probes.scores.sums import Sums, firing, reason_scores, sums
from probes.storage.fill import fill
from probes.storage.store import TEXTS_FILE, Store, open_store, plan
from probes.tables import INTERVENTIONS, SAE_QUALITY


def feature_tables(
    sae: Sae,
    model: Model,
    base: Store,
    tuned: Store | None,
    labels: pl.DataFrame,
    summed: Sums,
    *,
    elsewhere: Mapping[str, pl.DataFrame],
    n_shown: int,
    n_boot: int,
    seed: int,
) -> FeatureTables:
    """The tables of `sae`, with contexts and logit effects of the `n_shown` features most worth a look.

    `base` and `tuned` store what either model computes on the same texts; `model` is the base, whose activations the
    SAE learnt; `labels` are `LABELS` of the texts, or no rows, and `summed` the `sums` of `base` with these. Tables
    measured `elsewhere` are passed through. Raises as the scores do, for stores without the SAE's site.
    """
    found = {name: schema.frame([]) for name, schema in TABLES} | dict(elsewhere)
    found["firing"] = firing(summed)
    if tuned is not None:
        problems = base.index().select(pl.col("problem_id").n_unique()).collect()
        weights = resamples(problems.item(), n_boot, numpy_generator(seed, "bootstrap of differences"))
        found["differences"] = differences(base, tuned, sae, weights)
    if len(labels):
        found["reason_scores"] = reason_scores(summed)
        found["label_probes"] = label_probes(base, sae, labels, seed=seed, n_boot=n_boot)
        found["label_activations"] = label_activations(summed)
    shown = FeatureTables(**found).shown(n_shown)
    found["logit_effects"] = logit_effects(model, sae, shown)
    found["contexts"] = contexts(base, sae, model.tokenizer, shown)
    return FeatureTables(**found)


def feature_stage(context: StudyContext, search: FeatureSearch, fitting: Fitting) -> Artefact:
    """`store-base/`, `store-tuned/`, `saes/` and `features/`, which holds all tables of features.

    The SAEs learn the base model's stream; of the blocks searched, the tables are of the one whose features carry most
    of the behaviour that tells the models apart.
    """
    stores = {side: store_stage(context, search, fitting, side) for side in ("base", "tuned")}
    saes = sae_stage(context, search, stores["base"])
    parents = {"saes": saes.digest, "store-tuned": stores["tuned"].digest, "disagreements": fitting.decided.digest}

    def compute() -> Tables:
        found = searched(context, search, {side: stage.path for side, stage in stores.items()}, saes.path, fitting)
        return {name: (schema, getattr(found, name)) for name, schema in TABLES}

    return context.tables("features", search, parents, compute)


def store_stage(context: StudyContext, search: FeatureSearch, fitting: Fitting, side: str) -> Artefact:
    """`store-base/` or `store-tuned/`: what one model computes as it reads the training traces of both."""
    model = context.base if side == "base" else context.pair.tuned
    parents = {"fit-base": fitting.base.digest, "fit-tuned": fitting.tuned.digest, "model": model.digest}

    def compute(work: Path) -> None:
        # Numbered on, so that a text's name says which model wrote it.
        by_tuned = read_traces(fitting.tuned).with_columns(pl.col("sample_index") + context.study.n_fit_samples)
        traces = pl.concat([read_traces(fitting.base), by_tuned])
        read = texts(model, traces, problem_table(context.fit_task.problems))
        planned = plan(model, read, sites(search), AllTokens())

        made_by = context.made_by(f"store-{side}", planned, parents)
        fill(model, read, planned, work, made_by, on_progress=partial(context.watch, f"reading: {side}"))

    config = {"sites": [str(site) for site in sites(search)]}
    return memoised(context.out, f"store-{side}", config, parents, compute)


def sae_stage(context: StudyContext, search: FeatureSearch, store: Artefact) -> Artefact:
    """`saes/`: an SAE for each block, in SAELens' format, and their quality."""

    def compute(work: Path) -> None:
        wanted = units(context, search, store.path, work)
        total = sum(unit.recipe.training.n_steps * unit.recipe.training.batch_size for unit in wanted)
        for unit in wanted:
            train_unit(unit, lambda n, _: context.watch("sparse autoencoders", n, total))
        judge(context.base, wanted, seed=context.study.seed)

    config = {"search": search, "seed": context.study.seed}
    return memoised(context.out, "saes", config, {"store": store.digest}, compute)


def units(context: StudyContext, search: FeatureSearch, store: Path, out: Path) -> tuple[Unit, ...]:
    """One SAE a block."""
    training = Training(n_tokens=search.n_tokens, seed=context.study.seed)
    # A small study has fewer activations than a batch.
    n_learnt, _ = count_rows(open_store(store), training.held_out_share)
    training = replace(training, batch_size=max(1, min(training.batch_size, n_learnt)))
    d_sae = search.expansion * context.base.anatomy.d_model
    return grid(store, sites(search), [TopK(search.k)], [d_sae], training, out, device=context.base.device)


def sites(search: FeatureSearch) -> tuple[Site, ...]:
    """Where features are sought."""
    return tuple(Site(layer) for layer in search.layers)


def searched(
    context: StudyContext, search: FeatureSearch, stores: dict[str, Path], saes: Path, fitting: Fitting
) -> FeatureTables:
    """The tables of the SAE whose features carry most; those of the first where base and tuned model begin alike."""
    study, sought = context.study, behaviour(fitting.disagreements)
    loaded = [load_sae(unit.path, device=context.base.device) for unit in units(context, search, stores["base"], saes)]
    base, tuned = open_store(stores["base"]), open_store(stores["tuned"])
    best = None if sought is None else strongest(context, search, loaded, sought)
    sae, labels = loaded[0] if best is None else best.sae, token_labels(context, base)
    summed, quality = sums(base, sae, labels), read_table(saes / QUALITY_FILE, SAE_QUALITY)
    found = {"quality": quality.sort(pl.col("site") != str(sae.site), maintain_order=True)}
    if best is not None and sought is not None:
        found |= {"effects": best.effects, "interventions": intervened(context, best, summed, sought)}
    sizes = {"n_shown": search.n_shown, "n_boot": study.n_boot, "seed": study.seed}
    return feature_tables(sae, context.base, base, tuned, labels, summed, elsewhere=found, **sizes)


def strongest(context: StudyContext, search: FeatureSearch, saes: Sequence[Sae], sought: Behaviour) -> TopFeatures:
    """The features that most raise the behaviour in the tuned model, at the block where they add up to most."""
    tuned, study = context.pair.tuned, context.study
    contrasts = behaviour_contrasts(tuned, context.fit_task.problems[: search.n_texts], sought)
    sizes = {"n_top": search.n_top, "n_boot": study.n_boot, "seed": study.seed}
    return max((top_features(tuned, sae, contrasts, **sizes) for sae in saes), key=lambda each: each.total)


def intervened(context: StudyContext, best: TopFeatures, summed: Sums, sought: Behaviour) -> pl.DataFrame:
    """`INTERVENTIONS` on held-out problems; no rows where no feature carries the behaviour."""
    if not best.top:
        return INTERVENTIONS.frame([])
    fires, study = firing(summed), context.study
    known = {name: fires[name].to_numpy() for name in ("mean_active", "firing_share")}
    candidates = Candidates(sae=best.sae, top=best.top, first_token_share=best.first_token_share, **known)
    prompts = [problem.prompt for problem in context.task.problems]
    return interventions(context.pair, candidates, prompts, [sought.toward], n_boot=study.n_boot, seed=study.seed)


def token_labels(context: StudyContext, store: Store) -> pl.DataFrame:
    """`LABELS` of the texts by the steps of the task, or, where it has none, by words of reasoning."""
    read, tokenizer, task = read_table(store.path / TEXTS_FILE, TEXTS), context.base.tokenizer, context.fit_task
    return (
        word_labels(read, tokenizer) if task.steps is None else step_labels(read, tokenizer, task.problems, task.steps)
    )
