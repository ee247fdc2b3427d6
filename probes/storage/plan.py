"""Plan: all that decides the bytes of a store, and its cut into shards."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import polars as pl
import torch
from transformers import PreTrainedTokenizerBase

from lab.models.load import Model
from lab.records.errors import SiteError, StorageError
from lab.records.provenance import digest
from probes.capture.positions import AllTokens, CompletionTokens, Positions, SentenceEnds, TokenSet, positions
from probes.capture.site import Site, check_site
from probes.capture.texts import texts_digest

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
    """Dtype of the activations on disk."""
    texts: str
    """Digest of the `TEXTS` table."""
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
        """Rows that a shard may have."""
        return max(1, self.shard_bytes // (len(self.sites) * self.d_model * self.dtype.itemsize))

    @property
    def digest(self) -> str:
        """Digest of all of it."""
        return digest(self)


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
    _require_readable(model, texts)
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
    """Activations at each site."""


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


def differences(plan: Plan, other: Plan) -> str:
    """Where two plans differ, in words, field by field."""
    pairs = [(field.name, getattr(plan, field.name), getattr(other, field.name)) for field in dataclasses.fields(Plan)]
    return "; ".join(f"{name} is {_said(mine)} there and {_said(its)} here" for name, mine, its in pairs if mine != its)


def read_plan(described: dict[str, Any]) -> Plan:
    """The plan that `canonical_json` wrote, decoded; KeyError, TypeError or ValueError where it is none."""
    fields = {name: value for name, value in described.items() if name != "kind"}
    sites = tuple(Site(site["layer"], site["stream"]) for site in fields["sites"])
    return Plan(**fields | {"sites": sites, "positions": _read_rule(fields["positions"])})


def _read_rule(described: dict[str, Any]) -> Positions:
    match described["kind"]:
        case "AllTokens":
            return AllTokens()
        case "CompletionTokens":
            return CompletionTokens()
        case "SentenceEnds":
            return SentenceEnds(tuple(described["ends"]))
        case "TokenSet":
            return TokenSet(frozenset(described["tokens"]))
        case other:
            raise ValueError(f"{other!r} is no rule of positions")


def _said(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _require_readable(model: Model, texts: pl.DataFrame) -> None:
    context = getattr(model.network.config, "max_position_embeddings", None)
    lengths = texts["prompt"].list.len() + texts["completion"].list.len()
    longest = lengths.max()
    if isinstance(context, int) and isinstance(longest, int) and longest > context:
        text = texts.row(lengths.arg_max() or 0, named=True)
        raise StorageError(
            f"sample {text['sample_index']} of {text['problem_id']!r} has {longest} tokens, and {model.name} reads "
            f"{context}: leave such texts out"
        )
