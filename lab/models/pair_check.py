"""check: what two checkpoints have in common, by their configurations and tokenizers, before any weight is read."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, assert_never

import polars as pl
import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lab.models.anatomy import Anatomy, find_anatomy
from lab.models.checkpoint import (
    ADAPTER,
    MOST_PARAMETERS,
    PROBES,
    downloaded,
    one_line,
    read_config,
    read_tokenizer,
    require_rows,
    require_settings,
    require_weights,
    stored_in,
    without_numbers,
)
from lab.models.device import device_memory, flop_rate
from lab.models.load import Model
from lab.models.pair import MOST_LISTED, renamed_tokens, require_alike
from lab.models.prompt_format import Prompter, Raw, Template, asked_and_ended, has_template
from lab.models.source import (
    SHARDED,
    WHOLE,
    AdapterModel,
    BuiltInModel,
    GgufModel,
    HubModel,
    LocalModel,
    ModelSource,
    adapter_base,
    built_in_source,
    source_name,
)
from lab.records.errors import ModelError
from lab.records.tables import Column, Schema

Verdict: TypeAlias = Literal["ok", "differs", "note", "refused"]
PAIR = Schema(
    "pair",
    (
        Column("fact", pl.String, "What was looked at."),
        Column("base", pl.String, "What it is in the base model."),
        Column("tuned", pl.String, "What it is in the tuned model."),
        Column(
            "verdict",
            pl.String,
            "`ok`; `differs`: and may; `note`: worth knowing before hours are spent; `refused`: no study can begin.",
        ),
        Column("advice", pl.String, "What follows from it, or what to do; empty where nothing does."),
    ),
)
Question: TypeAlias = tuple[str, str]
"""A prompt, and how its answer begins."""
EXAMPLE: Question = ("What is 6 times 7?", "")
HERE, ABSENT = "safetensors", "not here"
SHOWN = 480
"""Characters of a prompt that are shown."""
SHORT, LONG = 1024, 24.0
"""New tokens below which a model that thinks first seldom comes to an answer; hours that are worth a word."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """What is known of a model without its weights; what could not be read is None, and `refusals` say why."""

    name: str
    config: PreTrainedConfig | None = None
    settings: GenerationConfig | None = None
    """How it writes if nothing else is said."""
    anatomy: Anatomy | None = None
    """Of a network without numbers."""
    n_parameters: int = 0
    n_active: int = 0
    """Parameters that take part in one token: of a mixture of experts, not all."""
    prompter: Prompter | None = None
    """How it is asked, and its tokenizer."""
    ends: frozenset[int] = frozenset()
    weights: str = HERE
    """Where they are."""
    refusals: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model) -> "Checkpoint":
        """That of a loaded model, asked as it is asked; the ends are its own, whatever its pair's are."""
        found = cls(name=model.name, weights="loaded").sized(model.network.config, model.network)
        return replace(found.asked(model.tokenizer, model.network.generation_config), prompter=model.prompter)

    def asked(self, tokenizer: PreTrainedTokenizerBase, settings: GenerationConfig | None) -> "Checkpoint":
        """With a tokenizer; ModelError where `assemble` would refuse it."""
        if tokenizer.pad_token_id is None and tokenizer.eos_token is None:
            raise ModelError(f"{self.name}: its tokenizer has neither a pad nor an end token; add one to it")
        prompter, ends = asked_and_ended(settings, tokenizer)
        return replace(self, settings=settings, prompter=prompter, ends=ends)

    def sized(self, config: PreTrainedConfig, network: PreTrainedModel | None = None) -> "Checkpoint":
        """With its sizes; ModelError where the family is unknown."""
        if network is None:
            with one_line(f"cannot make the network of {self.name}"):
                network = without_numbers(config, most=MOST_PARAMETERS, name=self.name)
        anatomy, counts = find_anatomy(network), {name: one.numel() for name, one in network.named_parameters()}
        n_chosen = getattr(config.get_text_config(decoder=True), "num_experts_per_tok", None)
        idle = 1 - n_chosen / anatomy.n_experts if anatomy.n_experts and n_chosen else 0
        n_idle = round(idle * sum(count for name, count in counts.items() if ".experts." in name))
        total = sum(counts.values())
        return replace(self, config=config, anatomy=anatomy, n_parameters=total, n_active=total - n_idle)


class Fact(NamedTuple):
    """One row of `PAIR`."""

    fact: str
    base: str
    tuned: str
    verdict: Verdict = "ok"
    advice: str = ""


@dataclass(frozen=True, slots=True)
class PairCheck:
    """All that was found, in reading order."""

    facts: tuple[Fact, ...]

    @property
    def refusals(self) -> tuple[Fact, ...]:
        """Why no study of this pair can begin; none where one can."""
        return tuple(fact for fact in self.facts if fact.verdict == "refused")

    @property
    def table(self) -> pl.DataFrame:
        """As `PAIR`."""
        return PAIR.frame([fact._asdict() for fact in self.facts])


class Machine(NamedTuple):
    """What a study would run on, and how much it would run."""

    device: torch.device
    dtype: torch.dtype
    batch_size: int
    n_completions: int
    """At most, of all arms together."""


def read_checkpoint(source: ModelSource) -> Checkpoint:
    """What stands beside the weights; of the hub only small files are fetched. Nothing is raised: `refusals` has it."""
    refusals: list[str] = []
    found = Checkpoint(name=source_name(source))
    with _noted(refusals):
        match source:
            case BuiltInModel():
                found = replace(read_checkpoint(built_in_source(source)), name=found.name)
                asked = found.prompter and Prompter(format=Raw(), tokenizer=found.prompter.tokenizer)
                return replace(found, prompter=asked)
            case AdapterModel(path=path):
                below = read_checkpoint(adapter_base(source))
                found = replace(below, name=found.name, weights=f"an adapter on {below.name}")
                require_weights(path, "adapter_config.json", (ADAPTER,), may_lack=True)
                if (path / "tokenizer_config.json").is_file():
                    found = found.asked(read_tokenizer(path, found.config), found.settings)
                return replace(found, refusals=(*found.refusals, *refusals))
            case GgufModel(path=path):
                from lab.models.gguf_weights import read_gguf_header

                config, tokenizer = read_gguf_header(path)
                found = replace(found, weights="in the GGUF file")
                found = found.asked(tokenizer, GenerationConfig.from_model_config(config)).sized(config)
            case HubModel(name=name, revision=revision):
                path = downloaded(name, revision, weights=False)
                found = _in_directory(path, replace(found, weights="on the hub"), refusals)
            case LocalModel(path=path):
                there = any((path / name).is_file() for name in (WHOLE, SHARDED))
                with _noted(refusals):
                    require_weights(path, "config.json", (WHOLE, SHARDED), may_lack=True)
                found = _in_directory(path, replace(found, weights=HERE if there else ABSENT), refusals)
            case never:
                assert_never(never)
        if found.anatomy is not None and found.prompter is not None:
            require_rows(found.prompter.tokenizer, found.anatomy.d_vocab, found.name)
    return replace(found, refusals=(*found.refusals, *refusals))


def _in_directory(path: Path, found: Checkpoint, refusals: list[str]) -> Checkpoint:
    """What the files in `path` say, each read whatever became of the others."""
    config = settings = None
    with _noted(refusals), one_line(f"cannot read the configuration in {path}"):
        if (path / "config.json").is_file():
            config = read_config(path, stored_in(path) if found.weights == HERE else None)
            settings = GenerationConfig.from_model_config(config)
        if (path / "generation_config.json").is_file():
            require_settings(path)
            settings = GenerationConfig.from_pretrained(path, local_files_only=True)
    with _noted(refusals):
        found = found.asked(read_tokenizer(path), settings)
    with _noted(refusals):
        return found if config is None else found.sized(config)
    return found


@contextmanager
def _noted(refusals: list[str]) -> Iterator[None]:
    """Within the block, what refuses is put down, and ends the block."""
    try:
        yield
    except ModelError as error:
        refusals.append(str(error))


def check(
    base: Checkpoint,
    tuned: Checkpoint,
    *,
    questions: Sequence[Question] = (EXAMPLE,),
    max_new_tokens: int = 96,
    machine: Machine | None = None,
) -> PairCheck:
    """What is alike, what is not, what is refused, and what to do about it; nothing is raised for what models are.

    Without a `machine` nothing is said of memory and time.
    """
    there = Fact("weights", base.weights, tuned.weights)
    if ABSENT in (base.weights, tuned.weights):
        there = there._replace(verdict="note", advice="a study wants safetensors there")
    facts = [Fact("model", base.name, tuned.name), there]
    advice = "mend what it names, or choose another checkpoint: it cannot be studied as it is"
    facts += [Fact("can be read", said, "", "refused", advice) for said in base.refusals]
    facts += [Fact("can be read", "", said, "refused", advice) for said in tuned.refusals]
    if base.anatomy is not None and tuned.anatomy is not None:
        facts += _shapes(base, base.anatomy, tuned, tuned.anatomy)
    if base.prompter is not None and tuned.prompter is not None:
        prompters = base.prompter, tuned.prompter
        facts += _tokens(base.ends, tuned.ends, *prompters, [prompt for prompt, _ in questions])
        try:
            facts += _prompts(*prompters, questions[0])
            longest = [max(len(prompter.ids(*question)) for question in questions) for prompter in prompters]
        except ModelError as error:
            facts.append(Fact("one prompt", "", "", "refused", str(error)))
        else:
            facts += _lengths(base, tuned, longest, max_new_tokens)
            if machine is not None:
                facts += _costs(base, tuned, max(longest) + max_new_tokens, max_new_tokens, machine)
    return PairCheck(tuple(facts))


def _row(fact: str, cells: Iterable[object], advice: str = "", verdict: Verdict = "ok") -> Fact:
    base, tuned = (f"{value:,}" if type(value) is int else str(value) for value in cells)
    return Fact(fact, base, tuned, verdict, advice)


def _compared(fact: str, cells: Iterable[object], advice: str = "", verdict: Verdict = "differs") -> Fact:
    """A row with `verdict` and `advice` where the two are not alike."""
    row = _row(fact, cells, advice, verdict)
    return row if row.base != row.tuned else row._replace(verdict="ok", advice="")


def _shapes(base: Checkpoint, of_base: Anatomy, tuned: Checkpoint, of_tuned: Anatomy) -> Iterator[Fact]:
    """What the networks are."""

    def said(name: str) -> tuple[object, object]:
        return getattr(base.config, name, None), getattr(tuned.config, name, None)

    refused = "their activations cannot be compared: want a base and a model that was tuned from it"
    yield _compared("family", (of_base.family, of_tuned.family), "one was not tuned from the other as it is")
    yield _compared("blocks", (of_base.n_layers, of_tuned.n_layers), refused, "refused")
    yield _compared("width", (of_base.d_model, of_tuned.d_model), refused, "refused")
    rows = of_base.d_vocab, of_tuned.d_vocab
    yield _compared("rows of vocabulary", rows, f"texts of both may hold the first {min(rows):,} tokens")
    yield _compared("parameters", (base.n_parameters, tuned.n_parameters))
    yield _compared("embeddings", ("tied" if tied else "not tied" for tied in said("tie_word_embeddings")))
    dtypes = (str(dtype or "not said").removeprefix("torch.") for dtype in said("dtype"))
    yield _compared("stored as", dtypes, "both are read in the one precision that is asked for")


def _tokens(
    ends: frozenset[int], tuned_ends: frozenset[int], base: Prompter, tuned: Prompter, prompts: Sequence[str]
) -> Iterator[Fact]:
    """How texts are read, and where they end."""
    one, other = base.tokenizer, tuned.tokenizer
    try:
        renamed = renamed_tokens(one, other)
        require_alike(one, other, prompts)
    except ModelError as error:
        yield Fact("reading of texts", f"{len(one):,} tokens", f"{len(other):,} tokens", "refused", str(error))
    else:
        yield _row("reading of texts", [f"the same ids of {len(PROBES)} probes, {len(prompts)} prompts"] * 2)
        rest = f", and {len(renamed) - MOST_LISTED} more" if len(renamed) > MOST_LISTED else ""
        names = [
            ", ".join(f"{each.token} {each[side] or 'absent'}" for each in renamed[:MOST_LISTED]) for side in (1, 2)
        ]
        told = "one id and two names, or a name in one model alone: texts are compared by ids"
        yield _compared("special tokens", (f"{some}{rest}" or "the same" for some in names), told)
    cells = (
        ", ".join(f"{token} {tokenizer.decode([token])}" for token in sorted(found))
        for tokenizer, found in ((one, ends), (other, tuned_ends))
    )
    union = ", ".join(map(str, sorted(ends | tuned_ends)))
    yield _compared("ends", cells, f"a text ends at any of {union}, whichever model writes")


def _prompts(base: Prompter, tuned: Prompter, question: Question) -> Iterator[Fact]:
    """How a problem is put to either."""
    both = base, tuned
    told = "the base brings a template, but does not stop where that ends a turn: it is asked raw"
    told *= isinstance(base.format, Raw) and has_template(base.tokenizer)
    yield _compared("prompt format", (each.format for each in both), told)
    ids = [each.ids(*question) for each in both]
    texts = (str(each.tokenizer.decode(read, skip_special_tokens=False)) for each, read in zip(both, ids, strict=True))
    unknown = [sum(one == each.tokenizer.unk_token_id for one in read) for each, read in zip(both, ids, strict=True)]
    fact = _compared("one prompt", map(_without_middle, texts))
    advice = f"{max(unknown)} of its tokens are of no text that the model knows: is this its task?"
    yield fact._replace(verdict="note", advice=advice) if max(unknown) and question != EXAMPLE else fact
    yield _compared("default system turn", (_without_middle(each.default_system) or "none" for each in both))
    yield _compared("thinking", map(_thinking, both))
    counts = [
        next((at for at, token in enumerate(read) if token != each.tokenizer.bos_token_id), 0)
        for each, read in zip(both, ids, strict=True)
    ]
    cells = (f"{each.tokenizer.bos_token}, {n} x" if n else "none" for each, n in zip(both, counts, strict=True))
    fact = _compared("token that opens a text", cells)
    yield fact._replace(verdict="note", advice="it stands there more than once") if max(counts) > 1 else fact


def _thinking(prompter: Prompter) -> str:
    """What the template, if the model is asked by it, has to do with thoughts."""
    template = str(prompter.tokenizer.chat_template) if isinstance(prompter.format, Template) else ""
    if not any(mark in template for mark in ("</think>", "[/THINK]", "<|channel|>")):
        return "not known to the prompt"
    return "opened by the prompt" if prompter.opened else "opened by the model"


def _without_middle(text: str) -> str:
    left = len(text) - SHOWN
    return text if left <= 0 else f"{text[: SHOWN // 2]} [... {left:,} characters ...] {text[-SHOWN // 2 :]}"


def _lengths(base: Checkpoint, tuned: Checkpoint, longest: Sequence[int], max_new_tokens: int) -> Iterator[Fact]:
    """Whether prompts and completions fit."""
    contexts = [model.anatomy and model.anatomy.context for model in (base, tuned)]
    fact = _compared("context", ("no limit" if context is None else context for context in contexts))
    rooms = [context - length for context, length in zip(contexts, longest, strict=True) if context is not None]
    if rooms:
        advice, fits = f"prompts leave {min(rooms):,} tokens for an answer", min(rooms) >= max_new_tokens
        lower = f"{advice}: lower --max-new-tokens, which is {max_new_tokens:,}"
        fact = fact._replace(advice=advice) if fits else fact._replace(verdict="refused", advice=lower)
    yield fact
    thinks = tuned.prompter is not None and "opened" in _thinking(tuned.prompter)
    cut = "a model that thinks first is cut before it answers: give --max-new-tokens some thousands"
    is_short = thinks and max_new_tokens < SHORT
    yield _row("new tokens", [max_new_tokens] * 2, cut if is_short else "", "note" if is_short else "ok")


def _costs(
    base: Checkpoint, tuned: Checkpoint, n_positions: int, max_new_tokens: int, machine: Machine
) -> Iterator[Fact]:
    """Memory against what the machine has, and arithmetic of the time."""
    size, both = machine.dtype.itemsize, (base, tuned)
    weights = [model.n_parameters * size for model in both]
    caches = [machine.batch_size * n_positions * _cached(model) * size for model in both]
    cells = (f"{one / 1e9:,.1f} GB, cache {more / 1e9:,.1f} GB" for one, more in zip(weights, caches, strict=True))
    needed, there = sum(weights) + sum(caches), device_memory(machine.device)
    precision, place = str(machine.dtype).removeprefix("torch."), machine.device
    told = f"{needed / 1e9:,.1f} GB for both in {precision} with {machine.batch_size} rows"
    told += "" if there is None else f"; {place} has {there / 1e9:,.1f} GB"
    more = ": give a smaller --batch-size" if sum(weights) < (there or 0) else ": want a larger one, or smaller models"
    fits = there is None or needed < there
    yield _row("memory", cells, told if fits else told + more, "ok" if fits else "note")
    rate, n_tokens = flop_rate(machine.device, machine.dtype), machine.n_completions * max_new_tokens
    hours = [2 * model.n_active * n_tokens / rate / 3600 for model in both]
    told = (
        f"arithmetic, no run: {n_tokens:,} tokens at most, times 2, times parameters, at {rate / 1e12:.2g} TFLOP/s "
        "measured here in products of large matrices; decoding reaches a fraction of that"
    )
    yield _row("time", (f"{each:,.1f} hours" for each in hours), told, "ok" if sum(hours) < LONG else "note")


def _cached(model: Checkpoint) -> int:
    """Keys and values of one token, all blocks together."""
    if model.anatomy is None:
        return 0
    config = model.config and model.config.get_text_config(decoder=True)
    n_heads = getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or model.anatomy.d_model // n_heads
    return 2 * model.anatomy.n_layers * (getattr(config, "num_key_value_heads", None) or n_heads) * width
