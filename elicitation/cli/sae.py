"""Sparse autoencoders of a model's stream, and a crosscoder of two models' streams.

Example: lab sae train --store runs/acts --architectures topk:16 --sizes 512 --out runs/saes
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import polars as pl
import tyro
from rich.table import Table
from rich.text import Text

from elicitation.cli.main import Device, RayPlace
from elicitation.cli.terminal import Terminal, numbers
from elicitation.pages.kit.numerals import figures, fixed, interval, percent, points
from lab.records.errors import ModelError, SiteError
from probes.crosscoder.train import Training as CrosscoderTraining
from probes.sae.architecture import Training

if TYPE_CHECKING:
    from probes.crosscoder.crosscoder import Paired


@dataclass(frozen=True, kw_only=True)
class SaeTrain:
    """Train sparse autoencoders on a store of activations, in SAELens' format, and judge them on held-out problems.

    Example: lab sae train --store runs/acts --architectures topk:16 batchtopk:16 --sizes 512 1024 --out runs/saes

    One for each site, architecture and size, in OUT/SITE/ARCHITECTURE-SIZE, and quality.parquet beside them. A run that
    was stopped goes on when the same command is given again; an autoencoder that is there is not trained twice.
    """

    RESUMES: ClassVar[bool] = True
    store: Path
    """Directory of the store, as `lab capture run` writes it; --positions all serves best."""
    sites: tuple[str, ...] = ()
    """Places in the model, such as blocks.2.hook_resid_post; all of the store's when not given."""
    architectures: tuple[str, ...] = ("topk:16",)
    """topk:K, batchtopk:K, matryoshka:K, jumprelu:L0_COEFFICIENT or standard:L1_COEFFICIENT, such as standard:1."""
    sizes: tuple[int, ...]
    """Numbers of features; four to thirty-two times d_model is usual."""
    out: Path
    """Directory of the results."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    ray: RayPlace = None
    device: Device = "auto"

    def run(self, terminal: Terminal) -> None:
        """Trains a grid of SAEs under a progress bar, and shows their quality."""
        import torch

        from elicitation.cli.sample import opened
        from lab.models.device import resolve_double_device
        from lab.records.scale_out import Here, Ray, map_shards, place
        from probes.capture.site import Site
        from probes.sae.architecture import parse_architecture
        from probes.sae.train import grid, judge, train_unit, trainer
        from probes.storage.store import open_store

        store, device, on = open_store(self.store), resolve_double_device(self.device), place(self.ray)
        if not (self.architectures and self.sizes):
            raise ModelError("no SAE to train: want at least one of --architectures and one of --sizes")
        units = grid(
            self.store.resolve(),
            [Site.parse(name) for name in self.sites] or store.plan.sites,
            [parse_architecture(text) for text in self.architectures],
            self.sizes,
            self.training,
            self.out.resolve(),
            # A worker elsewhere sees its own GPU alone.
            device=device if isinstance(on, Here) else torch.device(device.type),
        )
        n_tokens = self.training.n_steps * self.training.batch_size
        with terminal.progress() as watch:

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
        model = opened(store.plan.model, str(device), store.plan.weights)
        for table in quality_tables(judge(model, units, seed=self.training.seed)):
            terminal.show(table)
        terminal.say(f"in {self.out.resolve()}")


def quality_tables(quality: pl.DataFrame) -> Iterator[Table]:
    """What `SAE_QUALITY` says of each site."""
    for (site,), here in quality.group_by(["site"], maintain_order=True):
        title = f"{site}: held-out problems, with 95 % intervals"
        table = numbers(title, "SAE", "variance", "L0", "dead", "CE recovered", "KL, nats")
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


@dataclass(frozen=True, kw_only=True)
class SaeCompare:
    """Compare a base model with a tuned one: latents that both have, or one alone, beside a pair that was not tuned.

    Example: lab sae compare --pair runs/acts-base runs/acts-rl --placebo runs/acts-p0 runs/acts-p1 --out runs/diff

    A BatchTopK crosscoder with latent scaling, trained on both models' activations of the same tokens. Nothing is said
    of what tuning did without --placebo, since two models that were only trained on differ too.
    """

    RESUMES: ClassVar[bool] = False
    pair: Annotated[tuple[Path, Path], tyro.conf.arg(metavar="BASE TUNED")]
    """Directories of the stores of the base and the tuned model, captured from the same texts."""
    placebo: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="BASE LATER", help_behavior_hint="")] = None
    """The same of a model and itself after some more pretraining."""
    site: str | None = None
    """Place in the models; that of the stores when they have one only."""
    out: Path
    """Directory of the results."""
    training: Annotated[CrosscoderTraining, tyro.conf.arg(name="")] = field(default_factory=CrosscoderTraining)
    device: Device = "auto"

    def run(self, terminal: Terminal) -> None:
        """Trains a crosscoder of a pair, and of a placebo pair where there is one, and shows the kinds of latents."""
        from lab.models.device import resolve_double_device
        from lab.records.provenance import digest, provenance
        from lab.records.stage import memoised
        from lab.records.tables import read_table, write_table
        from probes.crosscoder.compare import against_placebo, compare, with_placebo
        from probes.crosscoder.crosscoder import moments, quality, save_crosscoder
        from probes.crosscoder.train import train
        from probes.tables import CROSSCODER_QUALITY, LATENT_KINDS, LATENTS

        device, training = resolve_double_device(self.device), self.training
        pairs = {"pair": paired(self.pair, self.site)}
        if self.placebo is not None:
            pairs["placebo"] = paired(self.placebo, self.site)
        parents = {
            f"{name}-{side}": digest(store.files)
            for name, both in pairs.items()
            for side, store in (("base", both.base), ("tuned", both.tuned))
        }
        config = {"site": str(pairs["pair"].site), "training": training}
        made_by = provenance("crosscoder", config, parents, device=device.type, dtype="float32", seed=training.seed)

        def compute(work: Path) -> None:
            latents: dict[str, pl.DataFrame] = {}
            with terminal.progress() as watch:
                for name, both in pairs.items():

                    def stepped(n_done: int, total: int, name: str = name) -> None:
                        # Told the steps so far; the bar wants those just done, of which the first call tells none.
                        watch(name, min(n_done, 1), total)

                    learnt = train(both, training, device=device, on_progress=stepped)
                    save_crosscoder(learnt, work / f"{name}.safetensors", made_by)
                    summed = moments(learnt, both.batches("held out", training.batch_size, seed=training.seed))
                    latents[name] = compare(learnt, summed)
                    write_table(work / f"{name}.quality.parquet", quality(summed), CROSSCODER_QUALITY, made_by)
            if "placebo" in latents:
                latents["pair"] = with_placebo(latents["pair"], latents["placebo"])
            for name, table in latents.items():
                write_table(work / f"{name}.latents.parquet", table, LATENTS, made_by)
            kinds = against_placebo(latents["pair"], latents.get("placebo"))
            write_table(work / "kinds.parquet", kinds, LATENT_KINDS, made_by)

        out = self.out.resolve()
        done = memoised(out.parent, out.name, config, parents, compute)
        terminal.show(kinds_table(read_table(done.path / "kinds.parquet", LATENT_KINDS)))
        terminal.say(f"in {done.path}")


def paired(paths: tuple[Path, Path], site: str | None) -> "Paired":
    """Two stores side by side at `site`, or at the only one they have."""
    from probes.capture.site import Site
    from probes.crosscoder.crosscoder import Paired
    from probes.storage.store import open_store

    base, tuned = map(open_store, paths)
    if site is None and len(base.plan.sites) > 1:
        raise SiteError(f"{base.path} has {', '.join(map(str, base.plan.sites))}: name one of them with --site")
    return Paired(base=base, tuned=tuned, site=Site.parse(site) if site else next(iter(base.plan.sites)))


def kinds_table(kinds: pl.DataFrame) -> Table:
    """`LATENT_KINDS` for a terminal."""
    title = "Kinds of latents, in per cent, with 95 % intervals"
    table = numbers(title, "latents", "pair", "placebo", "difference, points")
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


COMMAND = {"train": SaeTrain, "compare": SaeCompare}
