"""Store: activations on disk, with where they came from, and how they are read."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.models.load import Model
from lab.records.errors import LabError, SiteError, StorageError
from lab.records.provenance import MANIFEST, Provenance, canonical_json, digest, require_intact
from lab.records.seeds import torch_generator
from lab.records.tables import Column, Schema, read_table, write_text
from probes.capture.site import (
    TEXTS,
    AllTokens,
    CompletionTokens,
    Positions,
    SentenceEnds,
    Site,
    TokenSet,
    check_site,
    positions,
    texts_digest,
)

DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is captured, from what, and how it is cut; equal plans give equal bytes on one machine."""

    model: str
    model_digest: str
    weights: str
    """Dtype that the model computes in."""
    device: str
    d_model: int
    sites: tuple[Site, ...]
    positions: Positions
    stored: DtypeName
    texts: str
    shard_bytes: int
    """Activations that a shard may hold; a single text may hold more."""
    batch_tokens: int
    """Tokens in one pass, padding counted; a single text may have more."""

    @property
    def dtype(self) -> torch.dtype:
        """`stored`, as torch has it."""
        return DTYPES[self.stored]

    @property
    def most_rows(self) -> int:
        return max(1, self.shard_bytes // (len(self.sites) * self.d_model * self.dtype.itemsize))


def plan(
    model: Model,
    texts: pl.DataFrame,
    sites: tuple[Site, ...],
    rule: Positions,
    *,
    stored: DtypeName | None = None,
    shard_bytes: int = 2**28,
    batch_tokens: int = 2**13,
) -> Plan:
    """The plan of a capture of `texts`, a `TEXTS` table; without `stored`, activations keep the model's own dtype.

    Raises SiteError for no site, one given twice or one that the model does not have, and StorageError where the model
    cannot read a text, or a size is below 1.
    """
    if not sites or len(set(sites)) < len(sites):
        raise SiteError(f"sites {', '.join(map(str, sites)) or 'none'}: want at least one, and none twice")
    for site in sites:
        check_site(model, site)
    if shard_bytes < 1 or batch_tokens < 1:
        raise StorageError(f"shards of {shard_bytes} bytes, passes of {batch_tokens} tokens: want at least 1 of each")
    context = model.anatomy.context
    lengths = texts["prompt"].list.len() + texts["completion"].list.len()
    longest = lengths.max()
    if isinstance(context, int) and isinstance(longest, int) and longest > context:
        text = texts.row(lengths.arg_max() or 0, named=True)
        raise StorageError(
            f"sample {text['sample_index']} of {text['problem_id']!r} has {longest} tokens, and {model.name} reads "
            f"{context}: leave such texts out"
        )
    own = str(model.dtype).removeprefix("torch.")
    if stored is None and own not in DTYPES:
        raise StorageError(f"{model.name} computes in {own}: name one of {', '.join(DTYPES)} as the stored dtype")
    return Plan(
        model=model.name,
        model_digest=model.digest,
        weights=own,
        device=str(model.device),
        d_model=model.anatomy.d_model,
        sites=sites,
        positions=rule,
        stored=stored or own,  # pyright: ignore[reportArgumentType]
        texts=texts_digest(texts),
        shard_bytes=shard_bytes,
        batch_tokens=batch_tokens,
    )


class Portion(NamedTuple):
    """The texts of one shard, which stand side by side in the `TEXTS` table."""

    first_text: int
    n_texts: int
    n_rows: int


def portions(plan: Plan, tokenizer: PreTrainedTokenizerBase, texts: pl.DataFrame) -> tuple[Portion, ...]:
    """`texts` cut into shards of whole texts; StorageError where the rule chooses no token of any."""
    found: list[Portion] = []
    first, n_rows = 0, 0
    for text, (prompt, completion) in enumerate(texts.select("prompt", "completion").iter_rows()):
        n_here = len(positions(plan.positions, tokenizer, prompt, completion))
        if n_rows and n_rows + n_here > plan.most_rows:
            found.append(Portion(first, text - first, n_rows))
            first, n_rows = text, 0
        n_rows += n_here
    if n_rows:
        found.append(Portion(first, len(texts) - first, n_rows))
    if not found:
        raise StorageError(f"no token of {len(texts)} texts is among the positions {plan.positions}: choose others")
    return tuple(found)


def read_plan(described: dict[str, Any]) -> Plan:
    """The plan that `canonical_json` wrote, decoded; KeyError, TypeError or ValueError where it is none."""
    fields = {name: value for name, value in described.items() if name != "kind"}
    sites = tuple(Site(site["layer"], site["stream"]) for site in fields["sites"])
    match fields["positions"]:
        case {"kind": "AllTokens"}:
            rule = AllTokens()
        case {"kind": "CompletionTokens"}:
            rule = CompletionTokens()
        case {"kind": "SentenceEnds", "ends": ends}:
            rule = SentenceEnds(tuple(ends))
        case {"kind": "TokenSet", "tokens": tokens}:
            rule = TokenSet(frozenset(tokens))
        case other:
            raise ValueError(f"{other!r} is no rule of positions")
    return Plan(**fields | {"sites": sites, "positions": rule})


FORMAT = "elicitation-lab.activations.1"
TEXTS_FILE = "texts.parquet"

INDEX = Schema(
    "activation index",
    (
        Column("shard", pl.Int32, "number of the shard, from 0"),
        Column("row", pl.Int32, "row of the shard's tensors, which are alike for all sites"),
        Column("text", pl.Int32, "row of texts.parquet"),
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("position", pl.Int32, "place of the token in its text, prompt included, from 0"),
        Column("token", pl.Int32, "the token read there"),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A directory of activations: `manifest.json`, `texts.parquet`, and of every shard two files.

    `shards/00000.safetensors` has one tensor a site, `row d_model`, named as the site; `index/00000.parquet` says of
    every row which token of which text it is (`INDEX`).
    """

    path: Path
    plan: Plan
    made_by: Provenance
    portions: tuple[Portion, ...]
    files: Mapping[str, str]
    """Name -> SHA-256 of every file but the manifest; empty while the store is not finished."""

    @property
    def n_rows(self) -> int:
        return sum(portion.n_rows for portion in self.portions)

    def shard(self, number: int) -> Path:
        return self.path / shard_name(number)

    def index(self) -> pl.LazyFrame:
        """`INDEX` rows of all shards, read as they are asked for; StorageError where a part is missing or damaged."""
        parts = [self.path / index_name(number) for number in range(len(self.portions))]
        for part in parts:
            if not part.is_file():
                raise StorageError(f"{part} is missing: lab capture repair {self.path}")
            _require_intact(self, part)
        return pl.scan_parquet(parts)


def _require_intact(store: Store, file: Path) -> None:
    try:
        require_intact(file)
    except StorageError as error:
        raise StorageError(f"{error}; lab capture repair {store.path}") from error


def shard_name(number: int) -> str:
    return f"shards/{number:05d}.safetensors"


def index_name(number: int) -> str:
    return f"index/{number:05d}.parquet"


def read_index(store: Store, number: int) -> pl.DataFrame:
    """`INDEX` rows of one shard; StorageError where they cannot be read, or are no such table."""
    try:
        return read_table(store.path / index_name(number), INDEX)
    except StorageError as error:
        raise StorageError(f"{error}; lab capture repair {store.path}") from error


def read_texts(store: Store) -> pl.DataFrame:
    return read_table(store.path / TEXTS_FILE, TEXTS)


def open_store(path: Path) -> Store:
    """The finished store at `path`; its files are checked when they are read, and all of them by `verify`.

    Raises StorageError where there is none, where it is not finished, or where its manifest is damaged.
    """
    store = read_manifest(path)
    if not store.files:
        raise StorageError(f"{path} is not finished: give the `lab capture run` that began it again")
    return store


def require_site(store: Store, site: Site) -> None:
    """SiteError unless `site` was captured."""
    if site not in store.plan.sites:
        raise SiteError(f"{store.path} has no {site}: there is {', '.join(map(str, store.plan.sites))}")


def require_model(store: Store, model: Model) -> None:
    """StorageError unless `store` was made from exactly this model."""
    if store.plan.model_digest != model.digest:
        raise StorageError(
            f"{store.path} was made from {store.plan.model} with digest {store.plan.model_digest}, and {model.name} "
            f"has {model.digest}: want that very model, or a store of this one"
        )


def write_manifest(store: Store) -> None:
    """Writes all that a `Store` says but where it lies, whole or not at all, with a digest of itself."""
    described: dict[str, object] = {
        "format": FORMAT,
        "plan": store.plan,
        "provenance": store.made_by,
        "portions": store.portions,
        "files": store.files,
    }
    text = json.dumps(json.loads(canonical_json(described)) | {"digest": digest(described)}, indent=1, sort_keys=True)
    write_text(store.path / MANIFEST, text + "\n")


def read_manifest(path: Path) -> Store:
    """The store at `path`, finished or not; StorageError where there is none, or its manifest is damaged."""
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} is not a store of activations: it has no {MANIFEST}") from error
    damaged = f"{file} is damaged: delete {path} and capture again, or put the file back from a copy"
    try:
        described = json.loads(text)
        claimed = described.pop("digest")
        if described["format"] != FORMAT:
            damaged = f"{file} is of format {described['format']!r}, want {FORMAT!r}: use that version's lab"
            raise StorageError(damaged)
        if digest(described) != claimed:
            raise StorageError(damaged)
        return Store(
            path=path,
            plan=read_plan(described["plan"]),
            made_by=Provenance(**described["provenance"]),
            portions=tuple(Portion(*portion) for portion in described["portions"]),
            files=described["files"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, LabError) as error:
        raise StorageError(damaged) from error


def read_rows(store: Store, site: Site, number: int) -> Float[Tensor, "row d_model"]:
    """One shard of one site, in the dtype that is stored.

    Raises SiteError for a site that was not captured, and StorageError for a file that is missing, has other bytes
    than were written, or is of another shape or dtype. A process checks the bytes of a file once.
    """
    require_site(store, site)
    file = store.shard(number)
    try:
        require_intact(file)
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
    `n_mixed` shards of the site, and reads another while it does. On the CPU, in the dtype that is stored.

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
    problems = read_index(store, number)["problem_id"]
    kept = [problem_id for problem_id in problems.unique().to_list() if keep(problem_id)]
    return torch.from_numpy(np.array(problems.is_in(kept).to_numpy()))
