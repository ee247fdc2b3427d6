"""ModelPair: two models that read the same tokens and end at the same ones; and the ways in which both may be asked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lab.models.checkpoint import PROBES
from lab.models.load import Model
from lab.models.prompt_format import Prompter, PromptFormat, Raw, Template, has_template, typed_format
from lab.records.errors import ModelError

MOST_LISTED = 8


class Renamed(NamedTuple):
    """A special token that has one id and two names, or a name in one model only."""

    token: int
    base: str | None
    """None where the base has no such token."""
    tuned: str | None


def renamed_tokens(base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase) -> tuple[Renamed, ...]:
    """The special tokens that the tokenizers name differently, by id.

    Raises ModelError, listing the first of them, where they read texts differently: an ordinary token has another id,
    or one of `PROBES` other ids.
    """
    names = [{token: name for name, token in tokenizer.get_vocab().items()} for tokenizer in (base, tuned)]
    added = {*base.added_tokens_decoder, *tuned.added_tokens_decoder}
    differing = sorted(token for token in {*names[0], *names[1]} if names[0].get(token) != names[1].get(token))
    special = [token for token in differing if token in added]
    ordinary = [token for token in differing if token not in added]
    if all(_reads_alike(base, tuned, probe) for probe in PROBES):
        # Only then may other names be harmless; to try all of two vocabularies takes a quarter of a minute.
        texts = {token: _text(base, tuned, token) for token in ordinary}
        # Of a part of a character the text says nothing.
        ordinary = [token for token, text in texts.items() if "\ufffd" in text or not _reads_alike(base, tuned, text)]
    if ordinary:
        shown = ", ".join(
            f"{token} ({_shown(names[0], token)} and {_shown(names[1], token)})" for token in ordinary[:MOST_LISTED]
        )
        raise ModelError(f"{len(ordinary)} tokens differ between base and tuned model, such as {shown}")
    require_alike(base, tuned, PROBES)
    return tuple(Renamed(token, names[0].get(token), names[1].get(token)) for token in special)


def require_alike(base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """ModelError where the tokenizers give one of `texts` other ids, from its first difference on."""
    for text in texts:
        ours, theirs = (_encoded(tokenizer, text) for tokenizer in (base, tuned))
        if ours != theirs:
            both = list(zip_longest(ours, theirs))
            place = next(at for at, (one, other) in enumerate(both) if one != other)
            here = slice(place, place + 3)
            words = base.convert_ids_to_tokens(ours[here]), tuned.convert_ids_to_tokens(theirs[here])
            raise ModelError(
                f"the tokenizers read {text[:60]!r} differently: at token {place} the base has {words[0]} and the "
                f"tuned model {words[1]}; want two models whose texts have the same ids"
            )


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _text(base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase, token: int) -> str:
    """What a token stands for, by whichever tokenizer has it."""
    return str((base if token < len(base) else tuned).decode([token]))


def _reads_alike(base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase, text: str) -> bool:
    return _encoded(base, text) == _encoded(tuned, text)


def _shown(names: dict[int, str], token: int) -> str:
    return repr(names[token]) if token in names else "absent"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelPair:
    """Two models that can run in step on the same tokens, and whose activations can be compared layer by layer.

    Each reads its own prompt and both the same completion. A text ends at an end of either, whichever writes. A special
    token is one by its id, whatever either model calls it. Raises ModelError naming the first thing in which they
    differ: width, depth, or how they read texts.
    """

    base: Model
    tuned: Model
    renamed: tuple[Renamed, ...] = ()
    """Found when the pair is made."""

    def __post_init__(self) -> None:
        base, tuned = self.base.anatomy, self.tuned.anatomy
        names = f"{self.base.name} and {self.tuned.name} are not a pair"
        for part in ("d_model", "n_layers"):
            of_base, of_tuned = getattr(base, part), getattr(tuned, part)
            if of_base != of_tuned:
                raise ModelError(f"{names}: {part} is {of_base} in the base and {of_tuned} in the tuned model")
        try:
            renamed = renamed_tokens(self.base.tokenizer, self.tuned.tokenizer)
        except ModelError as error:
            raise ModelError(f"{names}: {error}") from error
        object.__setattr__(self, "renamed", renamed)
        ends = self.base.ends | self.tuned.ends
        for side in ("base", "tuned"):
            if (model := getattr(self, side)).ends != ends:
                object.__setattr__(self, side, replace(model, ends=ends))

    @property
    def d_vocab(self) -> int:
        """Tokens that both models have a row for: the first so many."""
        return min(self.base.anatomy.d_vocab, self.tuned.anatomy.d_vocab)


PROBE = "What is 2 + 2?"
"""Two ways of asking are one where they give the same ids for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptChoice:
    """How the models are asked, and what else is tried with both of them."""

    base: str = "auto"
    """How the base is asked: auto (its chat template where it was tuned on that, else raw text), raw, template,
    few-shot:N, or a path to a .jinja file."""
    tuned: str = "auto"
    """How the tuned model is asked."""
    system: str | None = None
    """System turn of templates; their own if not given."""
    arguments: tuple[str, ...] = ()
    """What else templates are told, such as enable_thinking=false."""
    tried: tuple[str, ...] = ("raw", "few-shot:4", "template")
    """What is tried with both models on training problems, where one of them has a template."""
    n_problems: int = 50
    """Training problems it is tried on, at most."""
    n_samples: int = 1
    """Samples of each."""

    def __post_init__(self) -> None:
        if min(self.n_problems, self.n_samples) < 1:
            raise ModelError(
                f"formats on {self.n_problems} problems x {self.n_samples} samples: want at least 1 of each"
            )
        if odd := [argument for argument in self.arguments if not argument.partition("=")[0] or "=" not in argument]:
            raise ModelError(f"template argument {odd[0]!r}: want NAME=VALUE, such as enable_thinking=false")

    @property
    def told(self) -> tuple[tuple[str, str | int | float | bool | None], ...]:
        """The arguments with their values, which are read as JSON where they are that."""
        return tuple((name, _json(value)) for name, _, value in (text.partition("=") for text in self.arguments))

    @property
    def n_examples(self) -> int:
        """Worked examples that the largest few-shot format needs."""
        typed = [text.partition(":") for text in (self.base, self.tuned, *self.tried)]
        return max((int(n) for name, _, n in typed if name == "few-shot" and n.isdecimal()), default=0)


def _json(text: str) -> str | int | float | bool | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if value is None or isinstance(value, str | int | float | bool) else text


class Way(NamedTuple):
    """One way of asking, offered to both models."""

    base: Prompter
    tuned: Prompter


def asked_pair(pair: ModelPair, choice: PromptChoice, examples: Sequence[tuple[str, str]]) -> ModelPair:
    """The pair, each model asked as `choice` says; ModelError for a format that is none or that the model refuses."""

    def asked(model: Model, other: Model, typed: str) -> Model:
        told = {"system": choice.system, "arguments": choice.told, "examples": examples}
        chosen = typed_format(typed, own=model.prompter.format, **told)
        return replace(model, prompter=prompter(chosen, model, other))

    base, tuned = pair.base, pair.tuned
    found = replace(pair, base=asked(base, tuned, choice.base), tuned=asked(tuned, base, choice.tuned))
    both = (found.base.prompter, found.tuned.prompter)
    sources = [str(one.tokenizer.get_chat_template()) for one in both if isinstance(one.format, Template)]
    if (choice.system is not None or choice.arguments) and not sources:
        raise ModelError(
            "a system turn and template arguments came, and neither model is asked by a chat template: leave them out, "
            "or ask by template"
        )
    if idle := [name for name, _ in choice.told if not any(name in source for source in sources)]:
        raise ModelError(f"no chat template here knows the argument {idle[0]!r}: check its name, or leave it out")
    return found


def prompter(chosen: PromptFormat, model: Model, other: Model) -> Prompter:
    """The format for `model`; its template is the other one's where it has none. ModelError where neither has one."""
    owner = model
    if isinstance(chosen, Template) and not has_template(model.tokenizer):
        owner = other
        if not has_template(other.tokenizer):
            raise ModelError(f"neither {model.name} nor {other.name} has a chat template: ask raw, or give a .jinja")
    found = Prompter(format=chosen, tokenizer=owner.tokenizer)
    found.ids(PROBE)
    return found


def ways(pair: ModelPair, choice: PromptChoice, examples: Sequence[tuple[str, str]]) -> dict[str, Way]:
    """What is offered to both models by name, how they are asked first; empty where nothing is to be compared.

    A template is the tuned model's if it has one: both then read the very ids that it was tuned on.
    """
    has = [model for model in (pair.tuned, pair.base) if has_template(model.tokenizer)]
    if not has and choice == PromptChoice():
        return {}
    found = {"as the base": as_asked(pair, pair.base), "as the tuned model": as_asked(pair, pair.tuned)}
    for typed in choice.tried:
        name, _, number = typed.partition(":")
        too_many = name == "few-shot" and number.isdecimal() and int(number) > len(examples)
        if (name == "template" and not has) or too_many:
            continue
        told = {"system": choice.system, "arguments": choice.told, "examples": examples}
        chosen = typed_format(typed, own=Raw(), **told)
        owners = (has[0], has[0]) if isinstance(chosen, Template) else (pair.base, pair.tuned)
        found[typed] = Way(*(Prompter(format=chosen, tokenizer=owner.tokenizer) for owner in owners))
    named: dict[str, Way] = {}
    for way in found.values():
        if all(_ids(way) != _ids(other) for other in named.values()):
            theirs = isinstance(way.base.format, Template) and way.base.tokenizer is pair.base.tokenizer
            named[f"{way.tuned.format} of the base" if theirs and len(has) > 1 else str(way.tuned.format)] = way
    return named


def as_asked(pair: ModelPair, model: Model) -> Way:
    """Both models asked as `model` is."""
    chosen = model.prompter
    if isinstance(chosen.format, Template):
        return Way(chosen, chosen)
    return Way(*(Prompter(format=chosen.format, tokenizer=one.tokenizer) for one in (pair.base, pair.tuned)))


def _ids(way: Way) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(one.ids(PROBE)) for one in way)


def own_way(offered: Mapping[str, Way], side: str, model: Model) -> str:
    """The name of the way in which `model` is asked."""
    own = model.prompter.ids(PROBE)
    return next(name for name, way in offered.items() if getattr(way, side).ids(PROBE) == own)
