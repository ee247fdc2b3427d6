"""Measure what every feature of a sparse autoencoder adds to a difference of logits, text by text, in shards.

Example: lab attribute --model zero-rl --sae runs/saes/SITE/topk-16-512 --toward T --against A --out runs/effects

A run that was stopped goes on when the same command is given again, and ends with the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import polars as pl
from rich.table import Table
from rich.text import Text

from elicitation.cli.main import Device, Dtype, RayPlace
from elicitation.cli.terminal import Terminal, numbers
from elicitation.pages.kit.numerals import figures, percent
from lab.records.errors import EstimateError

if TYPE_CHECKING:
    from lab.models.load import Model

N_BOOT, N_LISTED = 2000, 10


@dataclass(frozen=True, kw_only=True)
class AttributeCommand:
    """What `lab attribute` is given."""

    RESUMES: ClassVar[bool] = True
    model: str
    """The model that reads, not always the one that the SAE learnt, as in `lab sample`."""
    sae: Path
    """Directory of an SAE in SAELens' format."""
    task: str = "chain"
    """As in `lab study`."""
    toward: tuple[str, ...] = ()
    """First tokens of answers whose log-odds are explained, such as T for a worked chain."""
    against: tuple[str, ...] = ()
    """First tokens that they are weighed against, such as A for a direct answer."""
    traces: Path | None = None
    """Instead of --toward and --against: traces of the task, in which the right answer is weighed against a wrong one
    where it is stated; those whose place cannot be told are left out and counted."""
    method: Literal["ablation", "joint-ablation", "gradient", "integrated"] = "gradient"
    """ablation is exact and slow; gradient ranks much alike; integrated sums to what all features do together."""
    n_steps: int = 64
    """Steps of integrated gradients. How far they miss what they should sum to is printed: a network of 30 blocks took
    512."""
    out: Path
    """Directory of the results."""
    n_problems: int = 200
    """Held-out problems; with --traces, as many as they were sampled from."""
    seed: int = 0
    """Decides problems and intervals."""
    batch: int = 64
    """Texts, and streams above the site, that pass at once."""
    shard_texts: int = 256
    """Texts of a shard."""
    ray: RayPlace = None
    prompt: str = "auto"
    """How the model is asked: auto (by its chat template where it was tuned on it), raw, template or a .jinja file."""
    device: Device = "auto"
    dtype: Dtype = "float32"

    def run(self, terminal: Terminal) -> None:
        """Attributes under a progress bar, and shows the features of the largest effect."""
        from elicitation.cli.sample import opened
        from lab.metrics.bootstrap import resamples
        from lab.models.device import resolve_double_device
        from lab.models.source import model_source
        from lab.records.provenance import provenance
        from lab.records.scale_out import Here, Ray, map_shards, place
        from lab.records.seeds import numpy_generator
        from probes.attribution import effects
        from probes.attribution import shards as kept
        from probes.sae.dictionary import load_sae
        from probes.tables import TEXT_EFFECTS

        device = resolve_double_device(self.device)
        model = opened(self.model, str(device), self.dtype, prompt=self.prompt)
        sae, on = load_sae(self.sae.resolve(), device=device), place(self.ray)
        method = {
            "ablation": effects.Ablation(),
            "joint-ablation": effects.JointAblation(),
            "gradient": effects.Gradient(),
            "integrated": effects.Integrated(self.n_steps),
        }[self.method]
        asked = self.contrasts(model, terminal)
        plan = kept.attribution_plan(model, sae, asked, method, batch=self.batch, shard_texts=self.shard_texts)
        parents = {"model": model.digest, "sae": sae.digest, "contrasts": plan.contrasts}
        made_by = provenance("attribution", plan, parents, device=device.type, dtype=plan.dtype, seed=self.seed)
        with terminal.progress() as watch:

            def run(shards: Sequence[kept.Shard]) -> None:
                n = plan.n_texts
                watch("texts", n - sum(shard.n_texts for shard in shards), n)
                match on:
                    case Here():
                        prepare = partial(partial, kept.write_shard, model, sae, plan, made_by)
                    case Ray():
                        source, sae_path = model_source(self.model), self.sae.resolve()
                        prepare = partial(kept.reopened, source, sae_path, plan, made_by)
                map_shards(prepare, shards, on, device=device, on_done=lambda shard: watch("texts", shard.n_texts, n))

            out = self.out.resolve()
            done = kept.attribute_shards(out.parent, out.name, plan, asked, made_by, run)
        weights = resamples(asked["problem_id"].n_unique(), N_BOOT, numpy_generator(self.seed, "bootstrap of effects"))
        terminal.show(effect_table(effects.feature_effects(kept.stored_effects(done.path), asked, method, weights)))
        if isinstance(method, effects.Integrated):
            texts = TEXT_EFFECTS.checked(pl.read_parquet(sorted((done.path / "texts").iterdir())))
            terminal.show(
                f"they miss what all features add together by {percent(effects.completeness(texts).share, 2)}"
            )
        terminal.say(f"in {done.path}")

    def contrasts(self, model: "Model", terminal: Terminal) -> pl.DataFrame:
        """`CONTRASTS` of prompts, or of traces; raises EstimateError where both or neither are asked for."""
        from lab.records.tables import read_table
        from lab.sampling.trace import TRACES
        from lab.tasks.source import open_task, task_source
        from probes.attribution.contrast import answer_contrasts, can_be_asked, first_token_contrasts

        given = bool(self.toward), bool(self.against), self.traces is not None
        if given not in ((True, True, False), (False, False, True)):
            raise EstimateError("want either --toward with --against, or --traces: say what is to be explained")
        task = open_task(task_source(self.task), n_problems=self.n_problems, seed=self.seed)
        if self.traces is None:
            return first_token_contrasts(model, task.problems, self.toward, self.against)
        traces = read_table(self.traces, TRACES)
        # A trace of another task is an error, and not one whose answer is hard to find.
        strays = traces.filter(~pl.col("problem_id").is_in([problem.id for problem in task.problems]))
        if len(strays):
            return answer_contrasts(model, task, strays.head(1))
        asked = [row for row in range(len(traces)) if can_be_asked(model, task, traces[row])]
        terminal.show(f"{len(asked)} of {len(traces)} traces state an answer at one place that can be told")
        # With none left, the first one says why.
        return answer_contrasts(model, task, traces[asked] if asked else traces.head(1))


COMMAND = AttributeCommand


def effect_table(effects: pl.DataFrame) -> Table:
    """The features of the largest `FEATURE_EFFECTS`."""
    table = numbers("Largest effects", "feature", "effect, nats", "95 % interval", "texts")
    strongest = effects.sort(pl.col("effect").abs(), "feature", descending=[True, False]).head(N_LISTED)
    for row in strongest.iter_rows(named=True):
        spread = Text(f"[{figures(row['low'])}, {figures(row['high'])}]")
        table.add_row(str(row["feature"]), figures(row["effect"]), spread, str(row["n_texts"]))
    return table
