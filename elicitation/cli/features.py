"""Score all features of a sparse autoencoder on a store of activations: tables, and a page to look at them.

Example: lab features --sae runs/saes/blocks.2.hook_resid_post/topk-16-512 --store runs/acts --out runs/features

How often and where each fires, ReasonScore, what it does to the logits, its contexts, and probes of labels.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl

from elicitation.cli.main import Device
from elicitation.cli.terminal import Terminal
from lab.records.errors import EstimateError, StorageError

if TYPE_CHECKING:
    from lab.models.load import Model
    from probes.sae.dictionary import Sae
    from probes.storage.store import Store

PAGE, N_BOOT = "features.html", 2000


@dataclass(frozen=True, kw_only=True)
class FeaturesCommand:
    """What `lab features` is given."""

    RESUMES: ClassVar[bool] = False
    sae: Path
    """Directory of an SAE in SAELens' format."""
    store: Path
    """Directory of the base model's activations."""
    tuned_store: Path | None = None
    """Directory of the tuned model's activations of the same texts; with it, the page says which features changed."""
    labels: Literal["words", "steps", "none"] = "words"
    """What tokens are: words of reasoning (wait, therefore, ...), or exact steps of the chain world."""
    problems: Path | None = None
    """Parquet file of the texts' problems; steps need it."""
    effects: Path | None = None
    """Directory that `lab attribute` wrote for this SAE; with it, features are ranked by their effect."""
    out: Path
    """Directory of the results."""
    n_shown: int = 20
    """Features whose contexts and logit effects are kept; the page has cards of the first twelve."""
    seed: int = 0
    """Decides probes and intervals."""
    device: Device = "auto"

    def run(self, terminal: Terminal) -> None:
        """Scores the features and writes tables and page into one directory, which is then never changed."""
        from elicitation.cli.sample import opened
        from elicitation.pages.features.page import FeaturePage, render_features
        from elicitation.pages.features.tables import TABLES, FeatureNames
        from elicitation.pages.kit.document import Origin, TableFile
        from elicitation.study.features import feature_tables
        from lab.models.device import resolve_double_device
        from lab.records.provenance import digest, file_digest, provenance
        from lab.records.stage import memoised
        from lab.records.tables import write_table, write_text
        from probes.sae.dictionary import load_sae
        from probes.scores.sums import sums
        from probes.storage.store import open_store

        if self.n_shown < 1:
            raise EstimateError(f"n_shown = {self.n_shown}: want at least 1")
        device = resolve_double_device(self.device)
        sae, base = load_sae(self.sae, device=device), open_store(self.store)
        tuned = None if self.tuned_store is None else open_store(self.tuned_store)
        if tuned is not None and tuned.plan.model_digest == base.plan.model_digest:
            raise StorageError(
                f"{self.store} and {self.tuned_store} are of the same model: want a base and a tuned one"
            )
        if sae.trained_on not in (None, base.plan.model_digest):
            terminal.show(f"{sae.name} learnt another model than {base.plan.model}, which reads here")
        model = opened(base.plan.model, str(device), base.plan.weights)
        labels = self.token_labels(base, model)
        attributed = None if self.effects is None else Attributed.read(self.effects, sae)
        parents = {"sae": sae.digest, "store": digest(base.files)}
        parents |= {} if tuned is None else {"tuned store": digest(tuned.files)}
        # Steps are labelled by their problems, which no store holds.
        parents |= {"problems": file_digest(self.problems)} if self.labels == "steps" and self.problems else {}
        parents |= {} if attributed is None else {"effects": digest(attributed.plan)}
        config = {"labels": self.labels, "n_shown": self.n_shown, "seed": self.seed}
        made_by = provenance("features", config, parents, device=device.type, dtype=base.plan.weights, seed=self.seed)

        def compute(work: Path) -> None:
            with terminal.progress() as watch:
                summed = sums(base, sae, labels, partial(watch, "shards read"))
            effects = {} if attributed is None else {"effects": attributed.effects(self.seed)}
            sizes = {"n_shown": self.n_shown, "n_boot": N_BOOT, "seed": self.seed}
            ledger = feature_tables(sae, model, base, tuned, labels, summed, elsewhere=effects, **sizes)
            files = []
            for name, schema in TABLES:
                path, table = work / f"{name}.parquet", getattr(ledger, name)
                write_table(path, table, schema, made_by)
                files.append(TableFile(path=path.name, schema=schema, n_rows=table.height, digest=file_digest(path)))
            toward, against = ("the one side", "the other") if attributed is None else attributed.sides(model)
            page = FeaturePage(
                title=f"Features of {base.plan.model}",
                names=FeatureNames(
                    base=base.plan.model,
                    tuned="the tuned model" if tuned is None else tuned.plan.model,
                    towards=toward,
                    over=against,
                    behaviour=toward,
                ),
                tables=ledger,
                origin=Origin(made_by=made_by, command=terminal.anywhere, files=tuple(files)),
            )
            write_text(work / PAGE, render_features(page))

        out = self.out.resolve()
        done = memoised(out.parent, out.name, config, parents, compute)
        terminal.say(f"page: {done.path / PAGE}")

    def token_labels(self, store: "Store", model: "Model") -> pl.DataFrame:
        """`LABELS` of the store's texts as the user asks; StorageError for steps without their problems."""
        from elicitation.cli.sample import step_problems
        from lab.records.tables import read_table
        from lab.tasks.chain import CHAIN_STEPS
        from probes.capture.site import TEXTS
        from probes.scores.labels import LABELS, step_labels, word_labels
        from probes.storage.store import TEXTS_FILE

        read = read_table(store.path / TEXTS_FILE, TEXTS)
        match self.labels:
            case "none":
                return LABELS.frame([])
            case "words":
                return word_labels(read, model.tokenizer)
            case "steps":
                problems = step_problems(self.problems, "--labels steps")
                return step_labels(read, model.tokenizer, problems, CHAIN_STEPS)


COMMAND = FeaturesCommand


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attributed:
    """What `lab attribute` wrote."""

    path: Path
    plan: dict[str, Any]
    """What decides its effects."""
    contrasts: pl.DataFrame

    @classmethod
    def read(cls, path: Path, sae: "Sae") -> "Attributed":
        """The finished attribution at `path`; StorageError where there is none, or it is of another SAE."""
        from lab.records.provenance import read_json
        from lab.records.stage import require_as_written
        from lab.records.tables import read_table
        from probes.attribution.contrast import CONTRASTS
        from probes.attribution.shards import CONTRASTS_FILE, PLAN_FILE

        cure = f"{path} is no attribution: want a directory that `lab attribute` wrote"
        require_as_written(path)
        plan = read_json(path / PLAN_FILE, cure)
        if not {"sae", "sae_digest", "method"} <= {*plan}:
            raise StorageError(f"{path / PLAN_FILE} does not say of which SAE it is: {cure}")
        if plan["sae_digest"] != sae.digest:
            raise StorageError(
                f"{path} is of SAE {plan['sae']} with digest {plan['sae_digest']}, and {sae.name} has {sae.digest}: "
                "attribute with this very SAE"
            )
        return cls(path=path, plan=plan, contrasts=read_table(path / CONTRASTS_FILE, CONTRASTS))

    def effects(self, seed: int) -> pl.DataFrame:
        """`FEATURE_EFFECTS`."""
        from lab.metrics.bootstrap import resamples
        from lab.records.seeds import numpy_generator
        from probes.attribution.effects import Ablation, Gradient, Integrated, JointAblation, feature_effects
        from probes.attribution.shards import stored_effects

        n_problems = self.contrasts["problem_id"].n_unique()
        weights = resamples(n_problems, N_BOOT, numpy_generator(seed, "bootstrap of effects"))
        described = dict(self.plan["method"])
        kinds = {kind.__name__: kind for kind in (Ablation, JointAblation, Gradient, Integrated)}
        method = kinds[described.pop("kind")](**described)
        return feature_effects(stored_effects(self.path), self.contrasts, method, weights)

    def sides(self, model: "Model") -> tuple[str, str]:
        """What the effects push to and from, as text where that is the same in all contrasts."""
        told = []
        for side, otherwise in (("toward", "the right answer"), ("against", "a wrong one")):
            kinds = self.contrasts[side].unique()
            told.append(str(model.tokenizer.decode(kinds[0].to_list())) if len(kinds) == 1 else otherwise)
        return told[0], told[1]
