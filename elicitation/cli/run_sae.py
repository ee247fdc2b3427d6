"""perform_sae: trains sparse autoencoders and crosscoders for the command line, and prints what came of it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elicitation.cli.feature_commands import SaeCompareCommand, SaeTrainCommand
from elicitation.cli.progress import progress
from lab.models.device import resolve_double_device, settle_threads
from lab.models.load import load
from lab.models.source import model_source
from lab.records.errors import ModelError, SiteError
from lab.records.numerals import figures, fixed, interval, percent, points
from lab.records.provenance import digest, provenance
from lab.records.scale_out import Here, Ray, map_shards, place
from lab.records.stage import memoised
from lab.records.tables import read_table, write_table
from probes.capture.site import Site
from probes.crosscoder.compare import compare
from probes.crosscoder.crosscoder import save_crosscoder
from probes.crosscoder.paired import Paired, moments, quality
from probes.crosscoder.placebo import against_placebo, with_placebo
from probes.crosscoder.train import Training as CrosscoderTraining
from probes.crosscoder.train import train
from probes.sae.architecture import parse_architecture
from probes.sae.grid import grid, judge, train_unit, trainer
from probes.sae.recipe import Training
from probes.storage.plan import DTYPES
from probes.storage.store import open_store
from probes.tables import CROSSCODER_QUALITY, LATENT_KINDS, LATENTS


def run_sae_train(command: SaeTrainCommand, console: Console) -> None:
    """Trains a grid of SAEs under a progress bar, and prints their quality."""
    store, device, on = open_store(command.store), resolve_double_device(command.device), place(command.ray)
    if not (command.architectures and command.sizes):
        raise ModelError("no SAE to train: want at least one of --architectures and one of --sizes")
    units = grid(
        command.store.resolve(),
        [Site.parse(name) for name in command.sites] or store.plan.sites,
        [parse_architecture(text) for text in command.architectures],
        command.sizes,
        Training(
            n_tokens=command.n_tokens,
            batch_size=command.batch_size,
            lr=command.lr,
            held_out_share=command.held_out_share,
            seed=command.seed,
        ),
        command.out.resolve(),
        # A worker elsewhere sees its own GPU alone.
        device=device if isinstance(on, Here) else torch.device(device.type),
    )
    n_tokens = units[0].recipe.training.n_steps * command.batch_size
    with progress(console) as watch:

        def told(n_done: int, _: int = 0) -> None:
            watch("activations learnt", n_done, len(units) * n_tokens)

        # Those that are there are not trained again.
        there = {unit for unit in units if unit.path.exists()}
        told(len(there) * n_tokens)
        match on:
            case Here():
                map_shards(lambda: partial(train_unit, on_progress=told), units, on, device=device)
            case Ray():
                # Workers elsewhere cannot move the bar, which then moves by whole SAEs.
                map_shards(
                    trainer, units, on, device=device, on_done=lambda unit: told(0 if unit in there else n_tokens)
                )
    model = load(model_source(store.plan.model), device=device, dtype=DTYPES[store.plan.weights])
    settle_threads(model.n_parameters)
    for table in quality_tables(judge(model, units, seed=command.seed)):
        console.print(table)
    console.print(f"in {command.out.resolve()}", highlight=False, soft_wrap=True)


def quality_tables(quality: pl.DataFrame) -> Iterator[Table]:
    """What `SAE_QUALITY` says of each site, for a terminal of 80 columns."""
    for (site,), here in quality.group_by(["site"], maintain_order=True):
        title = f"{site}: held-out problems, with 95 % intervals"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("SAE", overflow="fold")
        for heading in ("variance", "L0", "dead", "CE recovered", "KL, nats"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in here.iter_rows(named=True):
            spread = interval(row["ce_recovered_low"], row["ce_recovered_high"])
            table.add_row(
                row["sae"].removeprefix(f"{site}/"),
                percent(row["explained_variance"]),
                fixed(row["l0"], 1),
                percent(row["dead_share"], 0),
                Text(f"{percent(row['ce_recovered'])} {spread}".rstrip()),
                figures(row["kl"]),
            )
        yield table


def run_sae_compare(command: SaeCompareCommand, console: Console) -> None:
    """Trains a crosscoder of a pair, and of a placebo pair where there is one, and prints the kinds of latents."""
    device = resolve_double_device(command.device)
    training = CrosscoderTraining(d_sae=command.d_sae, k=command.k, n_steps=command.n_steps, seed=command.seed)
    pairs = {"pair": paired(command.pair, command.site)}
    if command.placebo is not None:
        pairs["placebo"] = paired(command.placebo, command.site)
    parents = {
        f"{name}-{side}": digest(store.files)
        for name, both in pairs.items()
        for side, store in (("base", both.base), ("tuned", both.tuned))
    }
    config = {"site": str(pairs["pair"].site), "training": training}
    made_by = provenance("crosscoder", config, parents, device=device.type, dtype="float32", seed=command.seed)

    def compute(work: Path) -> None:
        latents: dict[str, pl.DataFrame] = {}
        with progress(console) as watch:
            for name, both in pairs.items():
                # Told the steps so far; the bar wants those just done, of which the first call tells none.
                learnt = train(
                    both, training, device=device, on_progress=lambda n, total, name=name: watch(name, min(n, 1), total)
                )
                save_crosscoder(learnt, work / f"{name}.safetensors", made_by)
                summed = moments(learnt, both.batches("held out", training.batch_size, seed=command.seed))
                latents[name] = compare(learnt, summed)
                write_table(work / f"{name}.quality.parquet", quality(summed), CROSSCODER_QUALITY, made_by)
        if "placebo" in latents:
            latents["pair"] = with_placebo(latents["pair"], latents["placebo"])
        for name, table in latents.items():
            write_table(work / f"{name}.latents.parquet", table, LATENTS, made_by)
        kinds = against_placebo(latents["pair"], latents.get("placebo"))
        write_table(work / "kinds.parquet", kinds, LATENT_KINDS, made_by)

    out = command.out.resolve()
    done = memoised(out.parent, out.name, config, parents, compute)
    console.print(kinds_table(read_table(done.path / "kinds.parquet", LATENT_KINDS)))
    console.print(f"in {done.path}", highlight=False, soft_wrap=True)


def paired(paths: tuple[Path, Path], site: str | None) -> Paired:
    """Two stores side by side at `site`, or at the only one they have."""
    base, tuned = map(open_store, paths)
    if site is None and len(base.plan.sites) > 1:
        raise SiteError(f"{base.path} has {', '.join(map(str, base.plan.sites))}: name one of them with --site")
    return Paired(base=base, tuned=tuned, site=Site.parse(site) if site else next(iter(base.plan.sites)))


def kinds_table(kinds: pl.DataFrame) -> Table:
    """`LATENT_KINDS` for a terminal."""
    title = "Kinds of latents, in per cent, with 95 % intervals"
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("latents", no_wrap=True)
    for heading in ("pair", "placebo", "difference, points"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in kinds.iter_rows(named=True):
        table.add_row(
            row["kind"],
            Text(f"{fixed(100 * row['share'], 1)} {interval(row['low'], row['high'])}"),
            Text(f"{fixed(100 * row['placebo_share'], 1)} {interval(row['placebo_low'], row['placebo_high'])}"),
            Text(f"{points(row['difference'])} {interval(row['difference_low'], row['difference_high'])}"),
        )
    if reasons := [reason for reason in kinds["reason"].unique() if reason != "ok"]:
        table.caption = "; ".join(reasons)
    return table
