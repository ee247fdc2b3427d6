"""Site: the one way to name a place in a network; and positions, the tokens of a text that are looked at there."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, assert_never, get_args, runtime_checkable

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedTokenizerBase

from lab.models.load import Model
from lab.models.passes import first_of, stream_of, with_first, with_stream
from lab.records.errors import SiteError, StorageError
from lab.records.tables import Column, Schema

Stream = Literal["resid_pre", "resid_mid", "router", "resid_post"]
"""In the order in which a pass reaches them: what a block reads, what its MLP reads before the norm, what its router
says of every expert (logits, before the softmax; to be read only), what the block gives."""
HOOKS = {"router": "mlp.hook_router_scores"}
"""What TransformerLens calls it, where that is not `hook_` and the stream's name."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A stream at a layer; layers count from 0, `resid_post` of block N is what block N + 1 reads.

    >>> str(el.Site(2)), el.Site.parse("blocks.2.hook_resid_post") == el.Site(2)
    ('blocks.2.hook_resid_post', True)
    """

    layer: int
    stream: Stream = "resid_post"

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a pass reaches them."""
        return self.layer, get_args(Stream).index(self.stream)

    def __str__(self) -> str:
        """As TransformerLens writes it, for example `blocks.3.hook_resid_post`."""
        return f"blocks.{self.layer}.{HOOKS.get(self.stream, f'hook_{self.stream}')}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The inverse of `str`; raises SiteError."""
        match = re.fullmatch(r"blocks\.([0-9]+)\.([\w.]+)", text)
        named = {HOOKS.get(stream, f"hook_{stream}"): stream for stream in get_args(Stream)}
        if match is None or match[2] not in named:
            raise SiteError(f"no site is called {text!r}: want blocks.N.S with S one of {', '.join(named)}")
        return cls(int(match[1]), named[match[2]])


def check_site(model: Model, site: Site, *, reading: bool = False) -> None:
    """SiteError unless the model has this layer, and this stream in it; a router is there for `reading` alone."""
    if not 0 <= site.layer < model.anatomy.n_layers:
        raise SiteError(
            f"layer {site.layer} is out of range: {model.name} has {model.anatomy.n_layers} layers, "
            f"want 0 to {model.anatomy.n_layers - 1}"
        )
    if site.stream == "resid_mid" and not model.anatomy.has_resid_mid:
        raise SiteError(
            f"{site} is no place in {model.name}: in a {model.anatomy.family!r} like this one the MLP does not read "
            "the stream that attention has just added to as it is; want resid_pre or resid_post"
        )
    if site.stream == "router" and model.anatomy.routers[site.layer] is None:
        raise SiteError(f"{site} is no place in {model.name}: that block has no experts to choose from")
    if site.stream == "router" and not reading:
        raise SiteError(
            f"{site} is no residual stream but the choice of experts, which is only read, by a capture in memory "
            "(el.capture), and neither edited nor stored"
        )


Change = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"] | None]
"""Sees a stream and may return another in its place; None leaves it."""


@runtime_checkable
class Handle(Protocol):
    """What takes a hook out again."""

    def remove(self) -> None: ...


def hook_site(model: Model, site: Site, change: Change, *, reading: bool = False) -> Handle:
    """Registers `change` at `site`; the caller removes the handle. Raises as `check_site`."""
    check_site(model, site, reading=reading)
    block = model.anatomy.blocks[site.layer]
    match site.stream:
        case "resid_post":

            def after(_: nn.Module, __: tuple[object, ...], output: object) -> object:
                changed = change(first_of(output))
                return None if changed is None else with_first(output, changed)

            return block.register_forward_hook(after)
        case "resid_pre":

            def before(
                _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
            ) -> tuple[tuple[object, ...], dict[str, object]] | None:
                changed = change(stream_of(args, kwargs))
                return None if changed is None else with_stream(args, kwargs, changed)

            return block.register_forward_pre_hook(before, with_kwargs=True)
        case "resid_mid":
            attention = model.anatomy.attentions[site.layer]
            assert attention is not None, "where there is a middle there is attention before it"
            return _MidHook(block, attention, change)
        case "router":
            router = model.anatomy.routers[site.layer]
            assert router is not None, "checked above"
            return _RouterHook(block, router, change)
        case never:
            assert_never(never)


class _RouterHook:
    """What a router's matrix makes of what it reads, which is the stream of all texts in one row, or not."""

    def __init__(self, block: nn.Module, router: nn.Module, change: Change) -> None:
        self.change, self.router = change, router
        self.shape: tuple[int, ...] = ()
        self.handles = (
            block.register_forward_pre_hook(self.enter, with_kwargs=True),
            router.register_forward_pre_hook(self.read, with_kwargs=True),
        )

    def enter(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.shape = tuple(stream_of(args, kwargs).shape[:2])

    def read(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        weight, bias = self.router.get_parameter("weight"), self.router._parameters.get("bias")
        told = None if bias is None or bias.shape != weight.shape[:1] else bias
        logits = linear(stream_of(args, kwargs).to(weight.dtype), weight, told)
        self.change(logits.reshape(*self.shape, len(weight)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


class _MidHook:
    """The stream between attention and MLP, which no module takes or gives: the block's input and what attention adds.

    A change goes into what attention adds, as a difference, so that where nothing changes no bit does.
    """

    def __init__(self, block: nn.Module, attention: nn.Module, change: Change) -> None:
        self.change = change
        self.pre: Tensor | None = None
        self.handles = (
            block.register_forward_pre_hook(self.enter, with_kwargs=True),
            attention.register_forward_hook(self.add),
            block.register_forward_hook(self.leave, always_call=True),
        )

    def enter(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.pre = stream_of(args, kwargs)

    def add(self, _: nn.Module, __: tuple[object, ...], output: object) -> object:
        added = first_of(output)
        assert self.pre is not None, "attention runs inside its block"
        mid = self.pre + added
        changed = self.change(mid)
        return None if changed is None else with_first(output, added + (changed - mid))

    def leave(self, *_: object) -> None:
        self.pre = None

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


ENDS = (".", "!", "?", "\n")
"""What ends a sentence of English, or a line."""


@dataclass(frozen=True, slots=True)
class AllTokens:
    """Every token, of the prompt too."""


@dataclass(frozen=True, slots=True)
class CompletionTokens:
    """Every token of the completion, its end token too."""


@dataclass(frozen=True, slots=True)
class SentenceEnds:
    """The tokens of the completion with which one of these strings is complete, at the end of the text so far.

    White space behind it in the same token does not matter (a token such as `.\\n\\n` ends a sentence at `.`), and a
    string may be spread over several tokens. A full stop inside a number is an end if the tokenizer cuts there.
    """

    ends: tuple[str, ...] = ENDS

    def __post_init__(self) -> None:
        if not self.ends or not all(self.ends):
            raise SiteError(f"sentence ends {list(self.ends)}: want at least one string, none of them empty")


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The tokens of the completion that are one of these ids."""

    tokens: frozenset[int]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise SiteError("a token set of no tokens: want at least one")


Positions: TypeAlias = AllTokens | CompletionTokens | SentenceEnds | TokenSet


def positions(
    rule: Positions, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], completion: Sequence[int]
) -> Int[np.ndarray, " chosen"]:
    """The places that `rule` chooses in the text `prompt` + `completion`, ascending, counted from 0 at its start."""
    first = len(prompt)
    match rule:
        case AllTokens():
            chosen = range(first + len(completion))
        case CompletionTokens():
            chosen = range(first, first + len(completion))
        case TokenSet(tokens=tokens):
            chosen = [first + place for place, token in enumerate(completion) if token in tokens]
        case SentenceEnds(ends=ends):
            chosen = [first + place for place in _sentence_ends(ends, tokenizer, completion)]
        case never:
            assert_never(never)
    return np.array(chosen, dtype=np.int32)


def read_positions(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Positions:
    """The rule that a user names: `all`, `completion`, `ends [STRING ...]` or `tokens STRING ...`.

    Raises SiteError for any other words, and for a string that is not exactly one token of the model.
    """
    name, *strings = words or ("",)
    if name == "all" and not strings:
        return AllTokens()
    if name == "completion" and not strings:
        return CompletionTokens()
    if name == "ends":
        return SentenceEnds(tuple(strings) or ENDS)
    if name == "tokens" and strings:
        return TokenSet(frozenset(single_token(text, tokenizer) for text in strings))
    raise SiteError(
        f"no positions {' '.join(words)!r}: want all, completion, ends [STRING ...] or tokens STRING [STRING ...]"
    )


def single_token(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise SiteError(
            f"{text!r} is {len(ids)} tokens of this model, want one; a word in a sentence often starts with a space"
        )
    return ids[0]


def _sentence_ends(ends: Sequence[str], tokenizer: PreTrainedTokenizerBase, completion: Sequence[int]) -> list[int]:
    pieces = {token: str(tokenizer.decode([token])) for token in set(completion)}
    longest = max(map(len, ends))
    found, before = [], ""
    for place, token in enumerate(completion):
        text = before + pieces[token]
        bare = text.rstrip()
        if any(
            # Complete with this token, so not where only white space follows an earlier end.
            text.endswith(end) if end[-1].isspace() else bare.endswith(end) and len(bare) > len(before)
            for end in ends
        ):
            found.append(place)
        before = text[-longest:]
    return found


TEXTS = Schema(
    "texts",
    (
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("prompt", pl.List(pl.Int32), "token ids that were given"),
        Column("completion", pl.List(pl.Int32), "token ids that were written, with the end token if one came"),
    ),
)


def texts(model: Model, traces: pl.DataFrame, problems: pl.DataFrame) -> pl.DataFrame:
    """`TEXTS` rows for the rows of a `TRACES` table, prompts being those of a `PROBLEMS` table, as `model` reads them.

    Completions are the very tokens that were sampled; decoding and encoding them again might give others. `model` need
    not be the one that wrote them, but must read the same tokens. Raises StorageError for a trace whose problem is
    absent, or with a token that the model does not have.
    """
    prompts = dict(problems.select("id", "prompt").iter_rows())
    asked = traces["problem_id"].unique(maintain_order=True).to_list()
    if absent := [problem_id for problem_id in asked if problem_id not in prompts]:
        raise StorageError(
            f"the traces answer {len(absent)} problems, such as {absent[0]!r}, that are not among the problems: "
            "want the problems that the traces were sampled from"
        )
    highest = traces["tokens"].explode().max()
    if isinstance(highest, int) and highest >= model.anatomy.d_vocab:
        raise StorageError(
            f"the traces hold token {highest}, and {model.name} has {model.anatomy.d_vocab}: want traces by a model "
            "of the same vocabulary"
        )
    encoded = pl.DataFrame(
        {"problem_id": asked, "prompt": [model.prompt_ids(prompts[problem_id]) for problem_id in asked]},
        schema={"problem_id": pl.String, "prompt": pl.List(pl.Int32)},
    )
    return TEXTS.checked(
        traces.select("problem_id", "sample_index", pl.col("tokens").alias("completion"))
        .join(encoded, on="problem_id", how="left", maintain_order="left")
        .select(list(TEXTS.dtypes))
    )


def texts_digest(texts: pl.DataFrame) -> str:
    """Sixteen hex digits of SHA-256 over all that a `TEXTS` table says."""
    total = hashlib.sha256()
    names = texts.select(pl.concat_str(pl.col("problem_id"), pl.col("sample_index"), separator="\x1f")).to_series()
    for name in names:
        total.update(f"{name}\x1e".encode())
    for column in ("prompt", "completion"):
        lengths = texts[column].list.len()
        total.update(lengths.cast(pl.Int64).to_numpy().tobytes())
        total.update(texts[column].filter(lengths > 0).explode().to_numpy().astype("<i4").tobytes())
    return total.hexdigest()[:16]
