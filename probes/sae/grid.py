"""grid: SAEs of several sites, architectures and sizes, one unit of work each, in one directory."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import polars as pl
import torch

from lab.models.load import Model
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, digest, provenance
from lab.records.tables import write_table
from probes.capture.site import Site
from probes.sae.architecture import Architecture
from probes.sae.dictionary import Sae
from probes.sae.load import load_sae, made_by
from probes.sae.quality import quality
from probes.sae.recipe import QUALITY_FILE, Recipe, Training
from probes.sae.train import train_sae
from probes.storage.store import open_store
from probes.tables import SAE_QUALITY


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One SAE of a grid; may be sent to another process, which must see the same files."""

    store: Path
    recipe: Recipe
    out: Path
    """Directory of the whole grid."""
    device: str

    @property
    def path(self) -> Path:
        """Where the SAE lies when it is done."""
        return self.out / self.recipe.name


def grid(
    store: Path,
    sites: Sequence[Site],
    architectures: Sequence[Architecture],
    sizes: Sequence[int],
    training: Training,
    out: Path,
    *,
    device: torch.device,
) -> tuple[Unit, ...]:
    """Every combination, in the order given. Raises ModelError for a size that an architecture does not allow."""
    return tuple(
        Unit(
            store=store,
            recipe=Recipe(site=site, architecture=architecture, d_sae=d_sae, training=training),
            out=out,
            device=str(device),
        )
        for site, architecture, d_sae in product(sites, architectures, sizes)
    )


def trainer() -> Callable[[Unit], None]:
    """`train_unit`, for workers elsewhere: what `lab.records.scale_out.map_shards` calls in each of them."""
    return train_unit


def train_unit(unit: Unit, on_progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Trains the SAE of `unit` unless it is there already; its directory appears whole or not at all.

    Killed at any moment and started again, it ends with the bytes of a run that was never stopped. Raises StorageError
    where the directory holds something else, and as `open_store` and `train_sae` do.
    """
    store = open_store(unit.store)
    device = torch.device(unit.device)
    parents = {"store": digest(store.files), "model": store.plan.model_digest}
    wanted = provenance(
        "sae", unit.recipe, parents, device=device.type, dtype="float32", seed=unit.recipe.training.seed
    )
    if unit.path.exists():
        _require_same(unit, wanted)
        return
    for leftover in unit.path.parent.glob(f".{unit.path.name}.*.partial"):
        shutil.rmtree(leftover)
    train_sae(store, unit.recipe, unit.path, wanted, device=device, on_progress=on_progress)


def judge(model: Model, units: Sequence[Unit], *, n_texts: int = 1000, seed: int = 0) -> pl.DataFrame:
    """`SAE_QUALITY`, a row for each trained unit, also written to `quality.parquet` in the directory of the grid.

    Raises StorageError for units of several grids, ModelError for one that was not trained, and as `quality` does.
    """
    if len({unit.out for unit in units}) != 1:
        raise StorageError(f"{len(units)} SAEs in {len({unit.out for unit in units})} directories: want those of one")
    out = units[0].out
    saes = [replace(load_sae(unit.path, device=model.device), name=unit.recipe.name) for unit in units]
    rows = [_judged(model, unit, sae, n_texts, seed) for unit, sae in zip(units, saes, strict=True)]
    table = pl.concat(rows)
    made = provenance(
        "sae quality",
        {"n_texts": n_texts, "recipes": [unit.recipe for unit in units]},
        {"model": model.digest, **{sae.name: sae.digest for sae in saes}},
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        seed=seed,
    )
    write_table(out / QUALITY_FILE, table, SAE_QUALITY, made)
    return table


def _judged(model: Model, unit: Unit, sae: Sae, n_texts: int, seed: int) -> pl.DataFrame:
    share = unit.recipe.training.held_out_share
    return quality(model, sae, open_store(unit.store), held_out_share=share, n_texts=n_texts, seed=seed)


def _require_same(unit: Unit, wanted: Provenance) -> None:
    found = made_by(unit.path)
    if found is None or found.digest != wanted.digest:
        raise StorageError(
            f"{unit.path} was trained otherwise, or on another store: choose another --out, or delete it"
        )
