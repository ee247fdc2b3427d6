"""attribute_shards: a large attribution as files of whole texts, gone on with where it was stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import polars as pl
import torch

from lab.models.load import Model, load
from lab.models.source import ModelSource
from lab.records.errors import EstimateError, StorageError
from lab.records.provenance import Provenance, canonical_json
from lab.records.stage import Artefact, memoised, require_as_written
from lab.records.tables import read_table, write_table, write_text
from probes.attribution.contrast import CONTRASTS, contrasts_digest
from probes.attribution.effects import Method, attribute, require_attributable
from probes.sae.dictionary import Sae, load_sae
from probes.storage.store import DTYPES
from probes.tables import EFFECTS, TEXT_EFFECTS

PLAN_FILE, CONTRASTS_FILE = "plan.json", "contrasts.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributionPlan:
    """All that decides the bytes of the files, on one machine."""

    model: str
    model_digest: str
    dtype: str
    device: str
    sae: str
    sae_digest: str
    contrasts: str
    method: Method
    batch: int
    """Texts, and streams above the site, in one pass."""
    n_texts: int
    shard_texts: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: texts that stand side by side among the contrasts."""

    directory: Path
    """Where the contrasts lie, and the files go."""
    number: int
    first_text: int
    n_texts: int

    @property
    def effects(self) -> Path:
        return self.directory / "effects" / f"{self.number:05d}.parquet"

    @property
    def texts(self) -> Path:
        """File of its `TEXT_EFFECTS`, written last: where it is, the shard is whole."""
        return self.directory / "texts" / f"{self.number:05d}.parquet"


RunShards: TypeAlias = Callable[[Sequence[Shard]], None]
"""Has `write_shard` done for every shard, here or elsewhere."""


def attribution_plan(
    model: Model, sae: Sae, contrasts: pl.DataFrame, method: Method, *, batch: int = 64, shard_texts: int = 256
) -> AttributionPlan:
    """The plan of an attribution; raises as `attribute` does, and EstimateError for shards of no text."""
    require_attributable(model, sae, contrasts, method, batch)
    if shard_texts < 1:
        raise EstimateError(f"shards of {shard_texts} texts: want at least 1")
    return AttributionPlan(
        model=model.name,
        model_digest=model.digest,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        sae=sae.name,
        sae_digest=sae.digest,
        contrasts=contrasts_digest(contrasts),
        method=method,
        batch=batch,
        n_texts=len(contrasts),
        shard_texts=shard_texts,
    )


def attribute_shards(
    out: Path, name: str, plan: AttributionPlan, contrasts: pl.DataFrame, made_by: Provenance, run: RunShards
) -> Artefact:
    """The finished attribution `out/name`, a stage: `plan.json`, `contrasts.parquet`, and of every shard two tables.

    `effects/00000.parquet` holds `EFFECTS` and `texts/00000.parquet` holds `TEXT_EFFECTS`; texts are counted over all
    shards. `run` is given the shards that are not there yet. Killed at any moment and started again, the files end with
    the bytes of a run that was never stopped; a finished attribution is only checked. Raises StorageError where
    `out/name` is of another plan, or a file of it is damaged.
    """
    assert plan.contrasts == contrasts_digest(contrasts), "a plan of other contrasts"

    def compute(directory: Path) -> None:
        write_text(directory / PLAN_FILE, canonical_json(plan) + "\n")
        write_table(directory / CONTRASTS_FILE, contrasts, CONTRASTS, made_by)
        firsts = range(0, plan.n_texts, plan.shard_texts)
        sizes = [min(plan.shard_texts, plan.n_texts - first) for first in firsts]
        shards = [Shard(directory, number, *texts) for number, texts in enumerate(zip(firsts, sizes, strict=True))]
        run([shard for shard in shards if not shard.texts.exists()])
        if missing := [shard for shard in shards if not shard.texts.exists()]:
            raise StorageError(f"{missing[0].texts} was not written, one of {len(missing)} shards: run it again")

    return memoised(out, name, plan, {}, compute)


def reopened(
    source: ModelSource, sae_path: Path, plan: AttributionPlan, made_by: Provenance
) -> Callable[[Shard], None]:
    """What writes one shard, in a process of its own, which loads the model and the SAE."""
    device = torch.device(plan.device)
    model = load(source, device=device, dtype=DTYPES[plan.dtype])
    sae = replace(load_sae(sae_path, device=device), name=plan.sae)
    return partial(write_shard, model, sae, plan, made_by)


def write_shard(model: Model, sae: Sae, plan: AttributionPlan, made_by: Provenance, shard: Shard) -> None:
    """Attributes the texts of `shard` and writes its tables, each whole or not at all.

    Its bytes are the same whoever writes it. Raises StorageError for a model or an SAE other than the plan's.
    """
    came, wanted = (model.digest, sae.digest), (plan.model_digest, plan.sae_digest)
    if came != wanted:
        raise StorageError(
            f"{model.name} and {sae.name} have digests {' and '.join(came)}, and {shard.directory} was begun with "
            f"{' and '.join(wanted)}: want that very model and SAE"
        )
    contrasts = read_table(shard.directory / CONTRASTS_FILE, CONTRASTS).slice(shard.first_text, shard.n_texts)
    found = attribute(model, sae, contrasts, plan.method, batch=plan.batch)
    text = (pl.col("text") + shard.first_text).cast(pl.Int32)
    write_table(shard.effects, found.effects.with_columns(text), EFFECTS, made_by)
    write_table(shard.texts, found.texts.with_columns(text), TEXT_EFFECTS, made_by)


def stored_effects(attribution: Path) -> pl.LazyFrame:
    """`EFFECTS` rows of all shards of a finished attribution, by text, read as they are asked for.

    Raises StorageError where the attribution is not as it was written, or the first of them are of other columns.
    """
    require_as_written(attribution)
    effects = pl.scan_parquet(sorted((attribution / "effects").iterdir()))
    EFFECTS.checked(pl.DataFrame(schema=effects.collect_schema()))
    return effects
