"""perform_features: the tables and the page of an SAE's features for the command line."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from elicitation.cli.feature_commands import FeaturesCommand
from elicitation.cli.progress import progress
from elicitation.features.tables import Read, feature_tables
from elicitation.report.features.captions import FeatureNames
from elicitation.report.features.page import FeaturePage, render_features
from elicitation.report.features.tables import TABLES
from elicitation.report.kit.provenance_section import TableFile
from lab.metrics.bootstrap import resamples
from lab.models.device import resolve_double_device, settle_threads
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.errors import EstimateError, StorageError
from lab.records.provenance import digest, file_digest, provenance
from lab.records.seeds import numpy_generator
from lab.records.stage import memoised
from lab.records.tables import read_table, write_table, write_text
from lab.tasks.chain_verifier import CHAIN_STEPS
from lab.tasks.problem import PROBLEMS, problems_of
from probes.attribution.contrast import CONTRASTS
from probes.attribution.effects import Ablation, Gradient, Integrated, JointAblation
from probes.attribution.feature_effects import feature_effects
from probes.attribution.shards import CONTRASTS_FILE, PLAN_FILE, stored_effects
from probes.capture.texts import TEXTS
from probes.sae.dictionary import Sae
from probes.sae.load import load_sae
from probes.scores.labels import LABELS, step_labels, word_labels
from probes.scores.sums import sums
from probes.storage.plan import DTYPES
from probes.storage.store import TEXTS_FILE, Store, open_store

PAGE, N_BOOT = "features.html", 2000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attributed:
    """What `lab attribute` wrote."""

    path: Path
    plan: dict[str, Any]
    contrasts: pl.DataFrame

    @classmethod
    def read(cls, path: Path, sae: Sae) -> "Attributed":
        """The finished attribution at `path`; StorageError where there is none, or it is of another SAE."""
        try:
            plan = json.loads((path / PLAN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} is no attribution: want a directory that `lab attribute` wrote") from error
        if plan["sae_digest"] != sae.digest:
            raise StorageError(
                f"{path} is of SAE {plan['sae']} with digest {plan['sae_digest']}, and {sae.name} has {sae.digest}: "
                "attribute with this very SAE"
            )
        return cls(path=path, plan=plan, contrasts=read_table(path / CONTRASTS_FILE, CONTRASTS))

    @property
    def digest(self) -> str:
        """Of its plan, which says what decides its effects."""
        return digest(self.plan)

    def effects(self, seed: int) -> pl.DataFrame:
        """`FEATURE_EFFECTS`."""
        n_problems = self.contrasts["problem_id"].n_unique()
        weights = resamples(n_problems, N_BOOT, numpy_generator(seed, "bootstrap of effects"))
        described = dict(self.plan["method"])
        kinds = {kind.__name__: kind for kind in (Ablation, JointAblation, Gradient, Integrated)}
        method = kinds[described.pop("kind")](**described)
        return feature_effects(stored_effects(self.path), self.contrasts, method, weights)

    def sides(self, model: Model) -> tuple[str, str]:
        """What the effects push to and from, as text where that is the same in all contrasts."""
        told = []
        for side, otherwise in (("toward", "the right answer"), ("against", "a wrong one")):
            kinds = self.contrasts[side].unique()
            told.append(str(model.tokenizer.decode(kinds[0].to_list())) if len(kinds) == 1 else otherwise)
        return told[0], told[1]


def token_labels(command: FeaturesCommand, store: Store, model: Model) -> pl.DataFrame:
    """`LABELS` of the store's texts as the user asks; StorageError for steps without their problems."""
    read = read_table(store.path / TEXTS_FILE, TEXTS)
    match command.labels:
        case "none":
            return LABELS.frame([])
        case "words":
            return word_labels(read, model.tokenizer)
        case "steps":
            if command.problems is None:
                raise StorageError("--labels steps needs the problems of the texts: name their table with --problems")
            problems = problems_of(read_table(command.problems, PROBLEMS))
            return step_labels(read, model.tokenizer, problems, CHAIN_STEPS)


def run_page(command: FeaturesCommand, typed: str, console: Console) -> None:
    """Scores the features and writes tables and page into one directory, which is then never changed."""
    if command.n_shown < 1:
        raise EstimateError(f"n_shown = {command.n_shown}: want at least 1")
    device = resolve_double_device(command.device)
    sae, base = load_sae(command.sae, device=device), open_store(command.store)
    tuned = None if command.tuned_store is None else open_store(command.tuned_store)
    if tuned is not None and tuned.plan.model_digest == base.plan.model_digest:
        raise StorageError(
            f"{command.store} and {command.tuned_store} are of the same model: want a base and a tuned one"
        )
    if sae.trained_on not in (None, base.plan.model_digest):
        console.print(f"{sae.name} learnt another model than {base.plan.model}, which reads here", highlight=False)
    model = load(model_source(base.plan.model), device=device, dtype=DTYPES[base.plan.weights])
    settle_threads(model.n_parameters)
    labels = token_labels(command, base, model)
    attributed = None if command.effects is None else Attributed.read(command.effects, sae)
    parents = {"sae": sae.digest, "store": digest(base.files)}
    parents |= {} if tuned is None else {"tuned store": digest(tuned.files)}
    # Steps are labelled by their problems, which no store holds.
    parents |= {"problems": file_digest(command.problems)} if command.labels == "steps" and command.problems else {}
    parents |= {} if attributed is None else {"effects": attributed.digest}
    config = {"labels": command.labels, "n_shown": command.n_shown, "seed": command.seed}
    made_by = provenance("features", config, parents, device=device.type, dtype=base.plan.weights, seed=command.seed)

    def compute(work: Path) -> None:
        with progress(console) as watch:
            summed = sums(base, sae, labels, partial(watch, "shards read"))
        ledger = feature_tables(
            Read(sae=sae, model=model, base=base, tuned=tuned, labels=labels, summed=summed),
            effects=None if attributed is None else attributed.effects(command.seed),
            n_shown=command.n_shown,
            n_boot=N_BOOT,
            seed=command.seed,
        )
        files = []
        for name, schema in TABLES:
            path, table = work / f"{name}.parquet", getattr(ledger, name)
            write_table(path, table, schema, made_by)
            files.append(TableFile(path=path.name, schema=schema, n_rows=table.height, digest=file_digest(path)))
        toward, against = ("the one side", "the other") if attributed is None else attributed.sides(model)
        names = FeatureNames(
            base=base.plan.model,
            tuned="the tuned model" if tuned is None else tuned.plan.model,
            towards=toward,
            over=against,
            behaviour=toward,
        )
        page = FeaturePage(
            title=f"Features of {base.plan.model}",
            names=names,
            ledger=ledger,
            made_by=made_by,
            command=typed,
            files=tuple(files),
        )
        write_text(work / PAGE, render_features(page))

    out = command.out.resolve()
    done = memoised(out.parent, out.name, config, parents, compute)
    console.print(f"page: {done.path / PAGE}", highlight=False, soft_wrap=True)
