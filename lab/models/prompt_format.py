"""PromptFormat: how a problem is put to a model, as it is or by a chat template; and the ids that it then reads."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, assert_never, cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from lab.models.thought_marks import CLOSES, OPENS
from lab.records.errors import LabError, ModelError, condensed, whole

TODAY = "2025-01-01"
"""What templates that ask for the date are told, so that a prompt does not depend on the day."""

INSTEAD = "give no --prompts.system, or a .jinja that says it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """The text as it is, by the tokenizer's own rules: with a BOS where it adds one."""

    def __str__(self) -> str:
        """As a user types it."""
        return "raw"


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot:
    """The text behind others that are answered, each after `Question:` and `Answer:`."""

    examples: tuple[tuple[str, str], ...]
    """(question, answer), in their order."""

    def __str__(self) -> str:
        """As a user types it."""
        return f"few-shot:{len(self.examples)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A user's turn of the tokenizer's chat template, and the mark behind which the model writes."""

    system: str | None = None
    """A system turn before it; None leaves the template its own."""
    arguments: tuple[tuple[str, str | int | float | bool | None], ...] = ()
    """What else the template is told, such as ("enable_thinking", False)."""

    def __str__(self) -> str:
        """As it stands in tables."""
        told = [f"{name}={json.dumps(value)}" for name, value in self.arguments]
        return ", ".join(["template", *(["own system turn"] if self.system else []), *told])


@dataclass(frozen=True, kw_only=True, slots=True)
class Jinja:
    """A user's template, in Jinja as chat templates are: `prompt`, `messages`, `bos_token`, `eos_token` are known."""

    source: str
    name: str = "jinja"

    def __str__(self) -> str:
        """As a user types it."""
        return self.name


PromptFormat: TypeAlias = Raw | FewShot | Template | Jinja


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompter:
    """A format with the tokenizer whose template and ids it uses: that of the model, or of the other one of a pair."""

    format: PromptFormat
    tokenizer: PreTrainedTokenizerBase

    def text(self, prompt: str) -> str:
        """What the model is shown, special tokens as text; without those that the tokenizer adds by itself.

        Raises ModelError where a template is absent or refuses.
        """
        match self.format:
            case Raw():
                return prompt
            case FewShot(examples=examples):
                shown = (f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in examples)
                return "".join(shown) + f"Question: {prompt}\nAnswer:"
            case Template(system=system, arguments=arguments):
                turns = [{"role": "user", "content": prompt}]
                before = [] if system is None else [{"role": "system", "content": system}]
                text = rendered(self.tokenizer, [*before, *turns], dict(arguments), add_generation_prompt=True)
                if system and system.strip() not in text:
                    raise ModelError(f"{_of(self.tokenizer)} leaves the system turn out: {INSTEAD}")
                return text
            case Jinja(source=source):
                turns = [{"role": "user", "content": prompt}]
                return rendered(self.tokenizer, turns, {"prompt": prompt}, add_generation_prompt=True, source=source)
            case never:
                assert_never(never)

    def ids(self, prompt: str, opening: str = "") -> list[int]:
        """The ids that the model reads, `opening` being how its answer begins.

        Templates write their own BOS and none is added; what the tokenizer adds at the end of a text is left out.
        """
        text = self.text(prompt) + opening
        bos = self.tokenizer.bos_token
        match self.format:
            case Template():
                adds = False
            case Jinja():
                adds = not (isinstance(bos, str) and text.startswith(bos))
            case Raw() | FewShot():
                adds = True
        # A text that is to be continued has no end, whatever the tokenizer puts there.
        ids = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return [*_before(self.tokenizer), *ids] if adds else ids

    @property
    def opened(self) -> str:
        """The end of what the model is shown, from where it opens a thought that a completion only closes; or empty."""
        return _opened(self)

    @property
    def default_system(self) -> str:
        """The system turn that a template writes of itself; empty where it writes none, or another is asked for.

        It is what stands in the place of a system turn that is given, where none is.
        """
        if not isinstance(self.format, Template) or self.format.system is not None:
            return ""
        alone, mark = self.text("x"), "0123456789"
        try:
            before, found, after = replace(self, format=replace(self.format, system=mark)).text("x").partition(mark)
        except ModelError:
            return ""
        own = alone.removeprefix(before).removesuffix(after)
        return own if found and f"{before}{own}{after}" == alone else ""


def _before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer puts before every text."""
    alone, opened = (list(tokenizer("a", add_special_tokens=adds).input_ids) for adds in (False, True))
    starts = (at for at in range(len(opened)) if alone and opened[at : at + len(alone)] == alone)
    if (start := next(starts, None)) is None:
        raise ModelError("its tokenizer reads 'a' as no token of a text: want the files that it was trained with")
    return opened[:start]


@lru_cache(maxsize=256)
def _opened(prompter: Prompter) -> str:
    if isinstance(prompter.format, Raw | FewShot):
        return ""
    asked = "0123456789"
    end = prompter.text(asked).rpartition(asked)[2]
    # What follows may be a mark, or how the thought begins; where a sentence names the mark, more follows.
    opens = [mark for mark in OPENS.finditer(end) if re.fullmatch(r"\s*[^\n]{0,40}\s*", end[mark.end() :])]
    return next((end[mark.start() :] for mark in opens if not CLOSES.search(end, mark.end())), "")


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, str]],
    told: Mapping[str, object],
    *,
    add_generation_prompt: bool,
    source: str | None = None,
) -> str:
    """Turns by the tokenizer's chat template, or by `source`, on the day `TODAY`; ModelError where that fails."""
    from jinja2 import TemplateError

    what = _of(tokenizer) if source is None else "the Jinja template"
    try:
        text = tokenizer.apply_chat_template(
            cast(list[dict[str, str]], [dict(turn) for turn in turns]),
            chat_template=dated(tokenizer.get_chat_template(source)),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **cast(dict[str, Any], told),
        )
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        advice = f"; {INSTEAD}" if turns[0]["role"] == "system" else ""
        raise ModelError(f"{what} refuses: {condensed(error)}{advice}") from error
    assert isinstance(text, str), "without tokenizing a conversation is one text"
    if whole(text) != text:
        raise ModelError(f"{what} writes half a character: want a template of whole ones")
    return text


def _of(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"


def dated(template: str) -> str:
    """The template with a `strftime_now` of its own, which tells of `TODAY`: transformers would lend it the clock's."""
    if "strftime_now" not in template:
        return template
    day = datetime.fromisoformat(TODAY)
    codes = [f"%{flag}{letter}" for letter in "aAbBcdDeFHIjmMpSTuUVwWxXyYZ" for flag in ("-", "")]
    replaced = "".join(f" | replace({code!r}, {day.strftime(code)!r})" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}{template}"


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it brings a chat template."""
    return bool(tokenizer.chat_template)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends an answer; None where there is no template, or it writes no token."""
    if not has_template(tokenizer):
        return None
    said = "0123456789"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]
    try:
        text = rendered(tokenizer, turns, {}, add_generation_prompt=False)
    except LabError:
        return None
    if said not in text:
        return None
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(text.rpartition(said)[2], add_special_tokens=False).input_ids:
        if token in added:
            return int(token)
        if str(tokenizer.decode([token])).strip():
            return None
    return None


def own_format(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> PromptFormat:
    """What a checkpoint is asked by if nothing else is said: its template if it was trained on that, else raw text.

    A model that was tuned on its template stops where an answer ends by it, so that token is among `ends`, those of its
    settings; a base model may bring the same template and stops elsewhere. A template without any special token is
    wording that only its makers can have meant.
    """
    if not has_template(tokenizer):
        return Raw()
    if turn_end(tokenizer) in ends:
        return Template()
    try:
        shown = rendered(tokenizer, [{"role": "user", "content": "x"}], {}, add_generation_prompt=True)
    except LabError:
        return Raw()
    plain = not set(tokenizer(shown, add_special_tokens=False).input_ids) & set(tokenizer.added_tokens_decoder)
    return Template() if plain else Raw()


def asked_and_ended(
    settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[Prompter, frozenset[int]]:
    """How a checkpoint is asked if nothing else is said, and every token that ends its texts."""
    named, end_of_turn = None if settings is None else settings.eos_token_id, turn_end(tokenizer)
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    ends = frozenset(token for token in ids if isinstance(token, int))
    prompter = Prompter(format=own_format(tokenizer, ends), tokenizer=tokenizer)
    return prompter, ends if end_of_turn is None else ends | {end_of_turn}


def typed_format(
    text: str,
    *,
    own: PromptFormat,
    system: str | None = None,
    arguments: Sequence[tuple[str, str | int | float | bool | None]] = (),
    examples: Sequence[tuple[str, str]] = (),
) -> PromptFormat:
    """The format that a user names: auto (the checkpoint's `own`), raw, template, few-shot:N, or a path to a .jinja.

    `system` and `arguments` are for templates, `examples` what worked examples are taken from. Raises ModelError for
    another text, a file that is not there, or too few examples.
    """
    name, _, number = text.partition(":")
    template = Template(system=system, arguments=tuple(arguments))
    if name == "few-shot":
        if not (number.isdecimal() and 0 < int(number) <= len(examples)):
            raise ModelError(f"prompt format {text!r}: want few-shot:N with N from 1 to {len(examples)}")
        return FewShot(examples=tuple(examples[: int(number)]))
    if text.endswith((".jinja", ".jinja2", ".j2")):
        if not Path(text).is_file():
            raise ModelError(f"no Jinja template at {text}; check the path")
        try:
            return Jinja(source=Path(text).read_text(encoding="utf-8"), name=Path(text).name)
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read the template {text}: {condensed(error)}; want a text in UTF-8") from error
    named = {"auto": template if isinstance(own, Template) else own, "raw": Raw(), "template": template}
    if text not in named:
        raise ModelError(f"prompt format {text!r}: want auto, raw, template, few-shot:N, or a path to a .jinja file")
    return named[text]
