"""fill: a store of activations, made shard by shard, gone on with where it was stopped, checked and repaired."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from lab.models.load import Model, load
from lab.models.source import AdapterModel, BuiltInModel, GgufModel, HubModel, LocalModel, ModelSource, model_source
from lab.records.errors import SiteError, StorageError
from lab.records.provenance import MANIFEST, Provenance, file_digest
from lab.records.scale_out import Here, Ray, map_shards
from lab.records.stage import alone
from lab.records.tables import leftovers, replacing, write_table
from lab.sampling.decoder import is_out_of_memory, left_padded
from probes.capture.capture import capture
from probes.capture.site import TEXTS, Site, positions, texts_digest
from probes.storage.store import (
    DTYPES,
    INDEX,
    TEXTS_FILE,
    Plan,
    Portion,
    Store,
    index_name,
    portions,
    read_manifest,
    read_texts,
    require_model,
    shard_name,
    write_manifest,
)


class Chosen(NamedTuple):
    """One text of a shard."""

    tokens: list[int]
    """Up to and with the last chosen one: what follows does not reach back."""
    places: Int[np.ndarray, " chosen"]
    first_row: int


def write_shard(
    model: Model, plan: Plan, texts: pl.DataFrame, number: int, portion: Portion, out: Path, made_by: Provenance
) -> None:
    """Writes shard `number` of `texts`, a `TEXTS` table, and its index into `out`; each file whole or not at all.

    The passes are the same whoever makes the shard, so that it has the same bytes. Raises SiteError where a hook does
    not fire or the streams are of several dtypes, and StorageError where an activation is not finite as it is stored.
    """
    mine = texts.slice(portion.first_text, portion.n_texts)
    chosen = _chosen(model, plan, mine)
    write_table(out / index_name(number), _index(number, portion, mine, chosen), INDEX, made_by)
    rows = {site: torch.empty(portion.n_rows, plan.d_model, dtype=plan.dtype) for site in plan.sites}
    for batch in passes(chosen, plan.batch_tokens):
        for site, read in _read(model, plan, batch).items():
            start = 0
            for text in batch:
                n_places = len(text.places)
                rows[site][text.first_row : text.first_row + n_places] = read[start : start + n_places]
                start += n_places
    with replacing(out / shard_name(number)) as temporary:
        # One key, because safetensors writes several in an order that changes from run to run.
        save_file({str(site): rows[site] for site in plan.sites}, temporary, metadata={"provenance": made_by.to_json()})


def passes(chosen: Sequence[Chosen], batch_tokens: int) -> Iterator[list[Chosen]]:
    """Texts that go through the model together: of like length, and no more tokens than that with their padding."""
    batch: list[Chosen] = []
    # Stable, so the same whoever sorts; the longest last, which is then the widest.
    for text in sorted((text for text in chosen if len(text.places)), key=lambda text: len(text.tokens)):
        if batch and (len(batch) + 1) * len(text.tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _chosen(model: Model, plan: Plan, texts: pl.DataFrame) -> list[Chosen]:
    found, first_row = [], 0
    for prompt, completion in texts.select("prompt", "completion").iter_rows():
        places = positions(plan.positions, model.tokenizer, prompt, completion)
        n_needed = int(places[-1]) + 1 if len(places) else 0
        found.append(Chosen([*prompt, *completion][:n_needed], places, first_row))
        first_row += len(places)
    return found


def _read(model: Model, plan: Plan, batch: Sequence[Chosen]) -> dict[Site, Float[Tensor, "chosen d_model"]]:
    """The chosen activations of one pass, text by text, as they are stored."""
    padded = left_padded(model, [text.tokens for text in batch])
    try:
        captured = capture(model, padded.tokens, padded.mask, plan.sites)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise StorageError(
            f"memory ran out in a pass of {padded.tokens.numel()} tokens on {model.device}: lower --batch-tokens, or "
            "leave out the longest texts"
        ) from error
    dtypes = {str(site): str(stream.dtype).removeprefix("torch.") for site, stream in captured.items()}
    if set(dtypes.values()) != {plan.weights}:
        listed = ", ".join(f"{site} {name}" for site, name in dtypes.items())
        raise SiteError(
            f"{model.name} has streams of mixed dtypes ({listed}) and weights in {plan.weights}: "
            "load it in one, as with --dtype float32"
        )
    width = padded.tokens.shape[1]
    rows = torch.tensor([row for row, text in enumerate(batch) for _ in text.places], device=model.device)
    columns = torch.tensor(
        np.concatenate([width - len(text.tokens) + text.places for text in batch]), device=model.device
    )
    read = {site: stream[rows, columns] for site, stream in captured.items()}
    stored = {site: stream.to(plan.dtype) for site, stream in read.items()}
    for site, stream in stored.items():
        if not bool(stream.isfinite().all()):
            largest = float(read[site].float().abs().max())
            raise StorageError(
                f"activations at {site} are not finite in {plan.stored} (the largest in size is {largest:.4g}): "
                "want numbers that it can hold; try --stored-dtype bfloat16 or float32"
            )
    return {site: stream.cpu() for site, stream in stored.items()}


def _index(number: int, portion: Portion, texts: pl.DataFrame, chosen: Sequence[Chosen]) -> pl.DataFrame:
    n_places = pl.Series([len(text.places) for text in chosen], dtype=pl.Int64)
    of_text = np.repeat(np.arange(portion.n_texts), n_places.to_numpy())
    return INDEX.checked(
        texts.select("problem_id", "sample_index")[of_text].select(
            pl.lit(number, dtype=pl.Int32).alias("shard"),
            pl.Series("row", np.arange(portion.n_rows, dtype=np.int32)),
            pl.Series("text", (portion.first_text + of_text).astype(np.int32)),
            "problem_id",
            "sample_index",
            pl.Series("position", np.concatenate([text.places for text in chosen])),
            pl.Series("token", [text.tokens[place] for text in chosen for place in text.places], dtype=pl.Int32),
        )
    )


class Damage(NamedTuple):
    name: str
    fault: Literal["missing", "altered"]


def verify(store: Store) -> tuple[Damage, ...]:
    """Every file of a finished store that is missing or has other bytes than were written; reads all of them."""
    found = []
    for name, checksum in store.files.items():
        if not (store.path / name).is_file():
            found.append(Damage(name, "missing"))
        elif file_digest(store.path / name) != checksum:
            found.append(Damage(name, "altered"))
    return tuple(found)


def require_whole(store: Store) -> None:
    """StorageError naming every damaged file of `store`."""
    if damaged := verify(store):
        named = ", ".join(f"{name} is {fault}" for name, fault in damaged)
        raise StorageError(f"{store.path} is damaged: {named}; lab capture repair {store.path}")


SCRATCH = ".repair"


def repair(
    store: Store, damaged: Sequence[Damage], model: Model, *, on_progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[str, ...]:
    """The names of the files that were written anew, each with the very bytes that the manifest promises.

    `on_progress` is told shards just captured, and shards in all. Raises StorageError where `model` is another one,
    where the texts themselves are damaged, or where the bytes come out different, as they may on another device,
    number of threads or version of torch; what was damaged is then still there.
    """
    require_model(store, model)
    names = {damage.name for damage in damaged}
    if TEXTS_FILE in names:
        raise StorageError(
            f"{store.path / TEXTS_FILE} is damaged, and nothing can be captured again without it: put it back from a "
            "copy, or capture into another --out"
        )
    texts = read_texts(store)
    scratch, mended = store.path / SCRATCH, []
    shutil.rmtree(scratch, ignore_errors=True)
    wanted = [
        (number, portion, sorted(files))
        for number, portion in enumerate(store.portions)
        if (files := {shard_name(number), index_name(number)} & names)
    ]
    on_progress(0, len(wanted))
    for number, portion, files in wanted:
        write_shard(model, store.plan, texts, number, portion, scratch, store.made_by)
        for name in files:
            if file_digest(scratch / name) != store.files[name]:
                shutil.rmtree(scratch)
                raise StorageError(
                    f"{name}, captured again, has other bytes than it had: repair on the same machine with as many "
                    f"threads and the same versions ({', '.join(map(' '.join, store.made_by.packages.items()))}), or "
                    "capture into another --out"
                )
        for name in files:
            (store.path / name).parent.mkdir(exist_ok=True)
            (scratch / name).replace(store.path / name)
            mended.append(name)
        on_progress(1, len(wanted))
    shutil.rmtree(scratch, ignore_errors=True)
    return tuple(mended)


def fill(
    model: Model,
    texts: pl.DataFrame,
    plan: Plan,
    out: Path,
    made_by: Provenance,
    *,
    on: Here | Ray = Here(),  # noqa: B008 -- a frozen value
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Store:
    """The finished store of `plan` at `out`, of which whole shards are kept when they are there.

    Holds one shard at a time. Killed at any moment and started again, it ends with the bytes of a run that was never
    stopped; of a finished store it only checks the files. Workers on Ray load the model themselves, from where its
    name says, and write into `out`; the bytes are the same. `on_progress` is told rows just written, and rows in all.
    Raises StorageError where `out` holds something else, a store of another plan or of another version of the code, or
    a finished store with a damaged file, ModelError where workers cannot find the model, and WorkerError as
    `map_shards` does.
    """
    assert plan.texts == texts_digest(texts), "a plan of other texts"
    match on:
        case Here():
            prepare = partial(_writer, out, model, texts)
        case Ray():
            prepare = partial(reopened, out.resolve(), _anywhere(model_source(plan.model)))
        case never:
            assert_never(never)
    if (out / MANIFEST).exists() and (store := _begun(model, texts, plan, out, made_by)).files:
        require_model(store, model)
        require_whole(store)
        return store
    with alone(out):
        store = _begun(model, texts, plan, out, made_by)
        require_model(store, model)
        _sweep(out)
        if not (out / TEXTS_FILE).exists():
            write_table(out / TEXTS_FILE, texts, TEXTS, made_by)
        shards = range(len(store.portions))
        missing = [number for number in shards if not all((out / name).exists() for name in _names(number))]
        on_progress(store.n_rows - sum(store.portions[number].n_rows for number in missing), store.n_rows)
        map_shards(
            prepare,
            missing,
            on,
            device=model.device,
            on_done=lambda number: on_progress(store.portions[number].n_rows, store.n_rows),
        )
        # What workers left that died while they wrote.
        _sweep(out)
        names = [TEXTS_FILE, *(name for number in shards for name in _names(number))]
        if absent := [name for name in names if not (out / name).exists()]:
            raise StorageError(
                f"{out / absent[0]} is not here, though a worker wrote it: want --out where all machines see the same "
                "files; the same command goes on from what is here"
            )
        finished = replace(store, files={name: file_digest(out / name) for name in names})
        write_manifest(finished)
        return finished


def reopened(path: Path, source: ModelSource) -> Callable[[int], None]:
    """Begins in a process of its own what `fill` does in this one: what writes a shard of the store begun at `path`.

    Loads the model; StorageError where it is another one.
    """
    store = read_manifest(path)
    # A worker's own GPU is cuda:0, whichever this process has.
    device = torch.device(torch.device(store.plan.device).type)
    model = load(source, device=device, dtype=DTYPES[store.plan.weights])
    require_model(store, model)
    return _writer(path, model, read_texts(store))


def _writer(out: Path, model: Model, texts: pl.DataFrame) -> Callable[[int], None]:
    store = read_manifest(out)
    return lambda number: write_shard(model, store.plan, texts, number, store.portions[number], out, store.made_by)


def _names(number: int) -> tuple[str, str]:
    return shard_name(number), index_name(number)


def _sweep(out: Path) -> None:
    """Deletes what a process that died left half written."""
    for leftover in leftovers(out):
        leftover.unlink(missing_ok=True)


def _anywhere(source: ModelSource) -> ModelSource:
    """The same source, as a process in another directory would name it."""
    match source:
        case LocalModel(path=path) | GgufModel(path=path) | AdapterModel(path=path):
            return replace(source, path=path.resolve())
        case HubModel() | BuiltInModel():
            return source
        case never:
            assert_never(never)


def _begun(model: Model, texts: pl.DataFrame, plan: Plan, out: Path, made_by: Provenance) -> Store:
    """The store at `out`, with a manifest."""
    if (out / MANIFEST).exists():
        store = read_manifest(out)
        if store.plan != plan:
            pairs = ((field.name, _said(store.plan, field.name), _said(plan, field.name)) for field in fields(Plan))
            told = "; ".join(f"{name} is {there} there and {here} here" for name, there, here in pairs if there != here)
            raise StorageError(f"{out} is a store of another configuration: {told}; choose another --out")
        if not store.files and store.made_by != made_by:
            raise StorageError(
                f"{out} was begun by another version ({_version(store.made_by)}; this is {_version(made_by)}), which "
                "may give other bytes: go on with that one, or delete it"
            )
        return store
    if out.exists() and (not out.is_dir() or any(not path.name.endswith(".partial") for path in out.iterdir())):
        raise StorageError(f"{out} exists and is not a store of activations: choose another --out")
    store = Store(path=out, plan=plan, made_by=made_by, portions=portions(plan, model.tokenizer, texts), files={})
    write_manifest(store)
    return store


def _said(plan: Plan, name: str) -> str:
    value = getattr(plan, name)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _version(made_by: Provenance) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in made_by.packages.items())
    return f"commit {made_by.commit[:12]}{' with changes' if made_by.dirty else ''}, seed {made_by.seed}, {packages}"
