"""perform_attribution: effects of features for the command line, shard by shard, and the strongest of them."""

from collections.abc import Sequence
from functools import partial

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elicitation.cli.feature_commands import AttributeCommand
from elicitation.cli.progress import progress
from lab.metrics.bootstrap import resamples
from lab.models.device import resolve_double_device, resolve_dtype, settle_threads
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.errors import EstimateError
from lab.records.numerals import figures, percent
from lab.records.provenance import provenance
from lab.records.scale_out import Here, Ray, map_shards, place
from lab.records.seeds import numpy_generator
from lab.records.tables import read_table
from lab.sampling.trace import TRACES
from lab.tasks.source import open_task, task_source
from probes.attribution.contrast import answer_contrasts, can_be_asked, first_token_contrasts
from probes.attribution.effects import Ablation, Gradient, Integrated, JointAblation, Method
from probes.attribution.feature_effects import completeness, feature_effects
from probes.attribution.shards import (
    OpenAttribution,
    Shard,
    attribute_shards,
    attribution_plan,
    stored_effects,
    write_shard,
)
from probes.sae.load import load_sae
from probes.tables import TEXT_EFFECTS

N_BOOT, N_LISTED = 2000, 10


def run_attribute(command: AttributeCommand, console: Console) -> None:
    """Attributes under a progress bar, and prints the features of the largest effect."""
    device = resolve_double_device(command.device)
    model = load(model_source(command.model), device=device, dtype=resolve_dtype(command.dtype, device))
    settle_threads(model.n_parameters)
    sae, method, on = load_sae(command.sae.resolve(), device=device), chosen_method(command), place(command.ray)
    asked = contrasts(command, model, console)
    plan = attribution_plan(model, sae, asked, method, batch=command.batch, shard_texts=command.shard_texts)
    parents = {"model": model.digest, "sae": sae.digest, "contrasts": plan.contrasts}
    made_by = provenance("attribution", plan, parents, device=device.type, dtype=plan.dtype, seed=command.seed)
    with progress(console) as watch:

        def run(shards: Sequence[Shard]) -> None:
            watch("texts", plan.n_texts - sum(shard.n_texts for shard in shards), plan.n_texts)
            match on:
                case Here():
                    prepare = partial(partial, write_shard, model, sae, plan, made_by)
                case Ray():
                    prepare = OpenAttribution(
                        model=model_source(command.model), sae=command.sae.resolve(), plan=plan, made_by=made_by
                    )
            map_shards(
                prepare, shards, on, device=device, on_done=lambda shard: watch("texts", shard.n_texts, plan.n_texts)
            )

        out = command.out.resolve()
        done = attribute_shards(out.parent, out.name, plan, asked, made_by, run)
    weights = resamples(asked["problem_id"].n_unique(), N_BOOT, numpy_generator(command.seed, "bootstrap of effects"))
    console.print(effect_table(feature_effects(stored_effects(done.path), asked, method, weights)))
    if isinstance(method, Integrated):
        texts = TEXT_EFFECTS.checked(pl.read_parquet(sorted((done.path / "texts").iterdir())))
        console.print(f"they miss what all features add together by {percent(completeness(texts).share, 2)}")
    console.print(f"in {done.path}", highlight=False, soft_wrap=True)


def chosen_method(command: AttributeCommand) -> Method:
    """The method as a value."""
    match command.method:
        case "ablation":
            return Ablation()
        case "joint-ablation":
            return JointAblation()
        case "gradient":
            return Gradient()
        case "integrated":
            return Integrated(command.n_steps)


def contrasts(command: AttributeCommand, model: Model, console: Console) -> pl.DataFrame:
    """`CONTRASTS` of prompts, or of traces; raises EstimateError where both or neither are asked for."""
    given = bool(command.toward), bool(command.against), command.traces is not None
    if given not in ((True, True, False), (False, False, True)):
        raise EstimateError("want either --toward with --against, or --traces: say what is to be explained")
    task = open_task(task_source(command.task), n_problems=command.n_problems, seed=command.seed)
    if command.traces is None:
        return first_token_contrasts(model, task.problems, command.toward, command.against)
    traces = read_table(command.traces, TRACES)
    # A trace of another task is an error, and not one whose answer is hard to find.
    strays = traces.filter(~pl.col("problem_id").is_in([problem.id for problem in task.problems]))
    if len(strays):
        return answer_contrasts(model, task, strays.head(1))
    asked = [row for row in range(len(traces)) if can_be_asked(model, task, traces[row])]
    console.print(
        f"{len(asked)} of {len(traces)} traces state an answer at one place that can be told", highlight=False
    )
    # With none left, the first one says why.
    return answer_contrasts(model, task, traces[asked] if asked else traces.head(1))


def effect_table(effects: pl.DataFrame) -> Table:
    """The features of the largest `FEATURE_EFFECTS` for a terminal."""
    table = Table(title="Largest effects", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("feature", "effect, nats", "95 % interval", "texts"):
        table.add_column(heading, justify="right", no_wrap=True)
    strongest = effects.sort(pl.col("effect").abs(), "feature", descending=[True, False]).head(N_LISTED)
    for row in strongest.iter_rows(named=True):
        table.add_row(
            str(row["feature"]),
            figures(row["effect"]),
            Text(f"[{figures(row['low'])}, {figures(row['high'])}]"),
            str(row["n_texts"]),
        )
    return table
