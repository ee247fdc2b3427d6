"""PromptChoice: how the models of a pair are asked, and the ways of asking that are offered to both of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.models.prompt_format import Prompter, PromptFormat, Raw, Template, has_template, typed_format
from lab.records.errors import ModelError

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
    return replace(pair, base=asked(base, tuned, choice.base), tuned=asked(tuned, base, choice.tuned))


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
        if (name == "template" and not has) or (name == "few-shot" and int(number or 0) > len(examples)):
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
