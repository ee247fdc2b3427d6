"""train: an SAE learns the activations of a store, by SAELens' trainer; a door to sae_lens, and slow to import."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice, product
from pathlib import Path
from typing import assert_never

import polars as pl
import torch
from jaxtyping import Float
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import ModelError, StorageError
from lab.records.provenance import MANIFEST, Provenance, digest, manifest, provenance
from lab.records.seeds import child_seed
from lab.records.stage import alone, atomic_directory, require_as_written
from lab.records.tables import write_table
from probes.capture.site import Site
from probes.sae.architecture import (
    CONFIG,
    OURS,
    QUALITY_FILE,
    Architecture,
    BatchTopK,
    JumpReLU,
    Matryoshka,
    Recipe,
    Standard,
    TopK,
    Training,
    count_rows,
    is_held_out,
)
from probes.sae.dictionary import Sae, load_sae, made_by, quality
from probes.storage.store import Store, open_store, require_site, shuffled
from probes.tables import SAE_QUALITY

N_NORM_BATCHES = 100
"""Batches from which the mean norm of the activations is taken."""


def train_sae(
    store: Store,
    recipe: Recipe,
    out: Path,
    made_by: Provenance,
    *,
    device: torch.device,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Sae:
    """Trains an SAE on the activations of `store` and writes it to `out`, in SAELens' format, whole or not at all.

    Activations are scaled to a mean norm of sqrt(d_model) while it learns, and the factor is folded into the weights;
    a step, the loss of each architecture and the revival of dead features are SAELens' own. Only problems that are not
    held out are seen. Adam in float32, whatever is stored; the order of the batches and the first weights come from
    the recipe's seed, so equal inputs give equal bytes on one machine with the same number of threads. Holds what
    `shuffled` holds. `on_progress` is told activations just learnt, and all to learn.

    Raises SiteError for a site that was not captured, StorageError where the store has less than a batch to learn from,
    where `out` exists or cannot be written, and ModelError where the weights do not stay finite.
    """
    require_site(store, recipe.site)
    training = recipe.training
    n_learn, _ = count_rows(store, training.held_out_share)
    if n_learn < training.batch_size:
        raise StorageError(
            f"{store.path} has {n_learn} activations of problems that are not held out, and a batch is "
            f"{training.batch_size}: capture more texts, or lower the batch size"
        )
    if out.exists():
        raise StorageError(f"{out} exists: delete it or choose another --out")
    coder = _learnt(store, recipe, device, on_progress)
    metadata = coder.cfg.metadata
    metadata.model_name, metadata.hook_name = store.plan.model, str(recipe.site)
    metadata[OURS] = {
        "architecture": str(recipe.architecture),
        "model_digest": store.plan.model_digest,
        "provenance": asdict(made_by),
    }
    _save(coder, out)
    return load_sae(out, device=device)


def _learnt(store: Store, recipe: Recipe, device: torch.device, on_progress: Callable[[int, int], None]) -> TrainingSAE:
    """The SAE after its last step, folded, on the CPU."""
    training, d_model = recipe.training, store.plan.d_model
    # On the CPU, so that devices agree.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(child_seed(training.seed, "weights"))
        coder = _untrained(recipe, d_model)
    coder.to(device)
    total = training.n_steps * training.batch_size
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=total,
            train_batch_size_samples=training.batch_size,
            lr=recipe.lr,
            lr_end=recipe.lr,
            lr_warm_up_steps=int(training.warm_up_share * training.n_steps),
            lr_decay_steps=int(training.decay_share * training.n_steps),
            device=str(device),
            dead_feature_window=training.dead_after,
        ),
        sae=coder,
        data_provider=_batches(store, recipe),
    )
    # Its `fit` writes bars to stderr; these are the steps of it that remain.
    first = islice(_batches(store, recipe), min(N_NORM_BATCHES, training.n_steps))
    scale = d_model**0.5 / float(torch.stack([batch.norm(dim=-1).double().mean() for batch in first]).mean())
    trainer.activation_scaler.scaling_factor = scale
    while trainer.n_training_samples < total:
        trainer.maybe_reset_sparsity()
        trainer.step(next(trainer.data_provider))
        trainer.n_training_steps += 1
        on_progress(training.batch_size, total)
    coder.fold_activation_norm_scaling_factor(scale)
    trainer.set_final_sae_metadata()
    if not all(bool(tensor.isfinite().all()) for tensor in coder.state_dict().values()):
        raise ModelError(f"{recipe.name} did not converge: its weights are not finite; lower the learning rate")
    return coder.to("cpu")


def _untrained(recipe: Recipe, d_model: int) -> TrainingSAE:
    """An SAE as SAELens starts it; the coefficients of sparsity rise with the learning rate."""
    widths = {
        "d_in": d_model,
        "d_sae": recipe.d_sae,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(),
    }
    warm_up = int(recipe.training.warm_up_share * recipe.training.n_steps)
    match recipe.architecture:
        case TopK(k=k):
            return TopKTrainingSAE(TopKTrainingSAEConfig(**widths, k=k))
        case BatchTopK(k=k):
            return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**widths, k=k))
        case Matryoshka(k=k) as nested:
            levels = [*nested.inner_widths(recipe.d_sae), recipe.d_sae]
            return MatryoshkaBatchTopKTrainingSAE(
                MatryoshkaBatchTopKTrainingSAEConfig(**widths, k=k, matryoshka_widths=levels)
            )
        case JumpReLU(l0_coefficient=coefficient):
            return JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(**widths, l0_coefficient=coefficient, l0_warm_up_steps=warm_up)
            )
        case Standard(l1_coefficient=coefficient):
            return StandardTrainingSAE(
                StandardTrainingSAEConfig(**widths, l1_coefficient=coefficient, l1_warm_up_steps=warm_up)
            )
        case never:
            assert_never(never)


def _batches(store: Store, recipe: Recipe) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Whole batches without end; what an epoch has left over is not learnt in it."""
    training = recipe.training
    endless = chain.from_iterable(
        shuffled(
            store,
            recipe.site,
            training.batch_size,
            seed=child_seed(training.seed, "batches"),
            epoch=epoch,
            keep=lambda problem_id: not is_held_out(problem_id, training.held_out_share),
        )
        for epoch in count()
    )
    return (batch.float() for batch in endless if len(batch) == training.batch_size)


def _save(coder: TrainingSAE, out: Path) -> None:
    """Writes the inference form of `coder` to the directory `out` in one rename."""
    with atomic_directory(out) as work:
        coder.save_inference_model(work)
        config = work / CONFIG
        described = json.loads(config.read_text())
        if "rescale_acts_by_decoder_norm" in described:
            # SAELens folds the norms into the weights that it saves; to scale again would only round.
            described["rescale_acts_by_decoder_norm"] = False
        # Sorted, because SAELens' order changes from run to run.
        config.write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")


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
        found = made_by(unit.path) if manifest(unit.path / MANIFEST) else None
        if found is not None:
            require_as_written(unit.path)
        if found is None or found.digest != wanted.digest:
            raise StorageError(
                f"{unit.path} was trained otherwise, or on another store: choose another --out, or delete it"
            )
        return
    with alone(unit.path):
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
    rows = []
    for unit, sae in zip(units, saes, strict=True):
        share = unit.recipe.training.held_out_share
        rows.append(quality(model, sae, open_store(unit.store), held_out_share=share, n_texts=n_texts, seed=seed))
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
