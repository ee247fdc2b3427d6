"""shard: the activations of a few texts as one file, with the index of its rows as another."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import SiteError, StorageError
from lab.records.provenance import Provenance
from lab.records.seeds import torch_generator
from lab.records.tables import replacing, write_table
from lab.sampling.decoder import is_out_of_memory, left_padded
from probes.capture.capture import capture
from probes.capture.site import Site, positions
from probes.storage.store import INDEX, Plan, Portion, Store, index_name, read_index, require_site, shard_name


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


def read_rows(store: Store, site: Site, number: int) -> Float[Tensor, "row d_model"]:
    """One shard of one site, in the dtype that is stored.

    Raises SiteError for a site that was not captured, and StorageError for a file that is missing, cut short or of
    another shape or dtype; a flipped byte is found by `verify`.
    """
    require_site(store, site)
    file = store.shard(number)
    try:
        with safe_open(file, framework="pt") as opened:
            rows = opened.get_tensor(str(site))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot read {file}: {error}; lab capture repair {store.path}") from error
    wanted = (store.portions[number].n_rows, store.plan.d_model)
    if rows.dtype != store.plan.dtype or tuple(rows.shape) != wanted:
        raise StorageError(
            f"{file} holds {site} as {rows.dtype} {tuple(rows.shape)}, want {store.plan.dtype} {wanted}: "
            f"lab capture repair {store.path}"
        )
    return rows


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
    return {site: _storable(plan, site, stream[rows, columns]) for site, stream in captured.items()}


def _storable(plan: Plan, site: Site, read: Float[Tensor, "chosen d_model"]) -> Float[Tensor, "chosen d_model"]:
    stored = read.to(plan.dtype)
    if not bool(stored.isfinite().all()):
        largest = float(read.float().abs().max())
        raise StorageError(
            f"activations at {site} are not finite in {plan.stored} (the largest in size is {largest:.4g}): "
            "want numbers that it can hold; try --stored-dtype bfloat16 or float32"
        )
    return stored.cpu()


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


def shuffled(
    store: Store,
    site: Site,
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    n_mixed: int = 4,
    keep: Callable[[str], bool] | None = None,
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """One epoch: every row of `site` exactly once, in batches of `batch_size`, the last of which may be smaller.

    With `keep`, only the rows of problems for whose id it is True. The shards come in random order, and `n_mixed` at a
    time are mixed row by row; with fewer than there are, two rows of one shard are more often near each other than
    chance has it. A function of the store, `seed` and `epoch` (and of `n_mixed`, `batch_size` and `keep`). Holds
    `n_mixed` shards of the site, and reads another while it does. On the CPU, in the dtype that is stored. For
    SAELens' trainer, chain the epochs:
    `chain.from_iterable(shuffled(store, site, 4096, seed=0, epoch=epoch) for epoch in count())`.

    Raises StorageError for a batch size or a number of shards below 1, with `keep` for an index that cannot be read,
    and as `read_rows` does.
    """
    if batch_size < 1 or n_mixed < 1:
        raise StorageError(f"batches of {batch_size} rows from {n_mixed} shards: want at least 1 of each")
    order = torch.randperm(len(store.portions), generator=torch_generator(seed, "shards", epoch)).tolist()
    rest = torch.empty(0, store.plan.d_model, dtype=store.plan.dtype)
    for start in range(0, len(order), n_mixed):
        rows = _together(store, site, order[start : start + n_mixed], rest, keep)
        places = torch.randperm(len(rows), generator=torch_generator(seed, "rows", epoch, start))
        n_whole = len(rows) - len(rows) % batch_size
        for first in range(0, n_whole, batch_size):
            yield rows[places[first : first + batch_size]]
        rest = rows[places[n_whole:]]
        # Before the next ones are read.
        del rows
    if len(rest):
        yield rest


def _together(
    store: Store,
    site: Site,
    numbers: list[int],
    rest: Float[Tensor, "left d_model"],
    keep: Callable[[str], bool] | None,
) -> Float[Tensor, "row d_model"]:
    """The rows of some shards behind those that the last batch left."""
    masks = {number: _kept(store, number, keep) for number in numbers} if keep else {}
    n_kept = [int(masks[number].sum()) if keep else store.portions[number].n_rows for number in numbers]
    rows = torch.empty(len(rest) + sum(n_kept), store.plan.d_model, dtype=store.plan.dtype)
    rows[: len(rest)] = rest
    first = len(rest)
    for number, n_here in zip(numbers, n_kept, strict=True):
        shard = read_rows(store, site, number)
        rows[first : first + n_here] = shard[masks[number]] if keep else shard
        first += n_here
    return rows


def _kept(store: Store, number: int, keep: Callable[[str], bool]) -> Bool[Tensor, " row"]:
    """Which rows of a shard are of problems to keep."""
    problems = read_index(store, number)["problem_id"]
    kept = [problem_id for problem_id in problems.unique().to_list() if keep(problem_id)]
    return torch.from_numpy(np.array(problems.is_in(kept).to_numpy()))
