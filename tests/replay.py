"""What models of many families write, by their habits, and studies in which networks of their shapes replay it.

A script's text has `{right}` and `{wrong}` for an answer; what is to be made of it is known by construction.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from elicitation.study.config import OwnHelp, Study
from lab.models.engine import Limits, Reply, Request, ScriptedEngine
from lab.models.load import Model, assemble
from lab.models.pair import PromptChoice
from lab.models.tiny import byte_tokenizer, tiny_network
from lab.sampling.trace import Decoding
from lab.scoring.evidence import ArmKey, Role
from lab.tasks.question_rows import SUFFIX
from steering.fits.gradient import GradientFit
from tests.real import tokenizer_directory

Problems: TypeAlias = Mapping[str, tuple[str, int]]
"""Prompt and answer of each problem by its id."""
N_TOKENS = 48
"""Of the longest completion."""


class Script(NamedTuple):
    """A completion, and what a study is to say of it."""

    text: str
    outcome: str
    read_by: str | None
    stop: str = "eos"

    def of(self, answer: int) -> str:
        """The text for a problem."""
        return self.text.replace("{right}", str(answer)).replace("{wrong}", str(answer + 1))


WORK = "First the tens are added and then the ones, and what is carried goes to the tens again. " * 4
"""Goes on beyond the limit."""
BOXED = r"\boxed{{right}}"
RUN_ON = (
    Script(f" {WORK}The answer is {{right}}.", "cut", None, "length"),
    Script(" The answer is {right}.\n\nQuestion: What is 3 + 4?\nAnswer: The answer is 7.", "right", "stated"),
    Script(" {wrong}\n\nHuman: What is 90 + 1?\n\nAssistant: " + WORK, "wrong", "whole", "length"),
    Script(f" The sum is ${BOXED}$.\n\nProblem: What is 5 + 6? Let us add. {WORK}", "right", "box", "length"),
)
"""A base model answers late, or goes on with a problem of its own; read leniently, the first two are right."""
ASTRAY = (Script("?\nAnswer: {wrong}", "wrong", "stated"), Script("", "no answer", None))
"""A model that is asked in another's way."""
R1 = (
    Script(f"<think>\nMaybe {{wrong}}? No, {{right}}.\n</think>\n\n**Final Answer**\n{BOXED}", "right", "box"),
    Script("<think>\nIt is {right}. Wait, " + WORK, "cut", None, "length"),
    Script(f"<think>\nIt is {BOXED}.", "cut", None),
    Script("<think>\nAdd {right} to none.\n</think>\n\nThe answer is {wrong}.", "wrong", "stated"),
)
OPENED = (
    Script(f"Maybe {{wrong}}? No, {{right}}.\n</think>\n\nThe sum is {BOXED}.", "right", "box"),
    Script("It is {right}. Wait, " + WORK, "cut", None, "length"),
    Script(f"It is {BOXED}.", "cut", None),
    Script("It is {right}.\n</think>\n\n**Answer:** {wrong}", "wrong", "stated"),
)
"""The template opened the thought."""
QWEN3 = (
    Script(f"<think>\nOkay, {{wrong}}... no.\n</think>\n\n**Answer:** ${BOXED}$", "right", "box"),
    Script("<think>\n\n</think>\n\nThe sum of both is **{right}**.", "right", "number"),
    Script("<think>\nOkay, " + WORK, "cut", None, "length"),
    Script("<think>\n{right}\n</think>\n\nI cannot say.", "no answer", None),
)
UNTHINKING = (
    Script("The sum of both is **{right}**.", "right", "number"),
    Script(f"### Step 1\nAdd the tens.\n\n### Answer\n\n$$\n{BOXED}\n$$", "right", "box"),
    Script("Both add up to {wrong}.", "wrong", "number"),
    Script(WORK, "cut", None, "length"),
)
BOXING = (
    Script(f"To find the sum, add the ones first.\n\nThe final answer is \\({BOXED}\\).", "right", "box"),
    Script(r"Adding gives \[ {wrong}. \] So the sum is $\boxed{{wrong}}$", "wrong", "box"),
    Script("Adding gives\n\\[\n10 + n = {right}.\n\\]", "right", "formula"),
    Script("To find the sum, " + WORK, "cut", None, "length"),
)
PROSE = (
    Script("The sum is {right}.", "right", "number"),
    Script("Sure! Adding both, we get {wrong}. Is there anything else?", "wrong", "number"),
    Script("Let's add them up. So the answer is {right}.", "right", "stated"),
    Script("I'm sorry, but I cannot help with that.", "no answer", None),
)
ANSWER_LINE = (
    Script("Adding the tens gives 30 and the ones 4.\n\nAnswer: {right}", "right", "stated"),
    Script("{right}? No.\n\nAnswer: ${wrong}$", "wrong", "stated"),
    Script("Answer: \\boxed{{right}}", "right", "box"),
    Script(WORK, "cut", None, "length"),
)
CHANNELS = (
    Script(
        "<|channel|>analysis<|message|>Add: {wrong}? No.<|end|><|start|>assistant<|channel|>final<|message|>It is "
        "**{right}**.<|return|>",
        "right",
        "number",
    ),
    Script(f"<|channel|>final<|message|>{BOXED}<|return|>", "right", "box"),
    Script("<|channel|>analysis<|message|>It is {right}. " + WORK, "cut", None, "length"),
    Script("<|channel|>analysis<|message|>It is {right}.<|end|><|start|>assistant<|return|>", "cut", None),
)
BRACKETED = (
    Script("[THINK]Is it {wrong}? No.[/THINK]The sum is **{right}**.", "right", "number"),
    Script("[THINK]{right}[/THINK]{wrong}", "wrong", "whole"),
    Script("[THINK]It is {right}. " + WORK, "cut", None, "length"),
    Script(f"[THINK]No.[/THINK] {BOXED}</s>", "right", "box"),
)

NASTY = (
    Script("", "no answer", None),
    Script("<think></think>", "no answer", None),
    Script("<think>{right}</think><think>{right}", "no answer", None),
    Script("<script>alert({right})</script><b>{right}</b>", "right", "number"),
    Script("</pre></td>&lt;{{ 7 * 7 }}{% raw %} The answer is {right}.", "right", "stated"),
    Script(f"{BOXED}<|endoftext|>" + "{wrong}", "right", "box"),
    Script("{right}<|im_start|>user\n{wrong}<|im_end|>", "right", "whole"),
    Script("\u2028\u0000\ufffd\u202e The answer is {right}.\r\n", "right", "stated"),
    Script("9" * 10_000, "cut", None, "length"),
    Script("(" * 10_000, "cut", None, "length"),
    Script("[/THINK]</think>[THINK]{right}", "no answer", None),
    Script("The answer is\n\n\n{right}", "right", "stated"),
)


def rate(scripts: Sequence[Script]) -> float:
    """The share of them that is right."""
    return sum(script.outcome == "right" for script in scripts) / len(scripts)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Witness:
    """Writes some texts where it is asked in the model's own way and others elsewhere, and notes how it is asked."""

    own: ScriptedEngine
    astray: ScriptedEngine
    prompts: Mapping[str, Sequence[int]]
    """Of each problem by its id, in the model's own way."""
    asked: set[str] = field(default_factory=set)
    """Problems that came in it."""

    def complete(self, requests: Sequence[Request], limits: Limits) -> Iterator[Reply]:
        """As scripted."""
        for request in requests:
            known = list(request.prompt) == list(self.prompts[request.problem_id])
            if known:
                self.asked.add(request.problem_id)
            yield from (self.own if known else self.astray).complete([request], limits)


def replaying(model: Model, scripts: Sequence[Script], end: str, problems: Problems, prompts) -> Model:
    """The model with an engine that writes `scripts` for every problem, and `ASTRAY` where `prompts` are not its."""
    token = model.tokenizer.convert_tokens_to_ids(end)
    assert isinstance(token, int)
    own, astray = (
        ScriptedEngine(
            texts={name: [script.of(answer) for script in some] for name, (_, answer) in problems.items()},
            tokenizer=model.tokenizer,
            end=token,
        )
        for some in (scripts, ASTRAY)
    )
    return replace(model, engine=Witness(own=own, astray=astray, prompts=prompts))


def shrunk(name: str, *, seed: int) -> PreTrainedModel:
    """A random network of a published model's family, with its vocabulary and settings, of two narrow blocks."""
    directory = tokenizer_directory(name)
    config = AutoConfig.from_pretrained(directory)
    config.update(
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "head_dim": 4, "max_window_layers": 2, "layer_types": ["full_attention"] * 2}
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.generation_config = GenerationConfig.from_pretrained(directory)
    return network


def fresh_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A published tokenizer that may be changed."""
    return AutoTokenizer.from_pretrained(tokenizer_directory(name))


def sums(numbers: Iterable[int]) -> Problems:
    """Prompts and answers by the ids that problems get from the file that `write_sums` makes of them."""
    return {f"sums:{number}": (f"What is {number} + 7?{SUFFIX}", number + 7) for number in numbers}


def write_sums(directory: Path, problems: Problems) -> Path:
    """The file of these problems."""
    rows = [
        {"id": name.removeprefix("sums:"), "question": prompt.removesuffix(SUFFIX), "answer": str(answer)}
        for name, (prompt, answer) in problems.items()
    ]
    (directory / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return directory / "sums.jsonl"


HARMONY = (
    "{%- for turn in messages -%}<|start|>{{ turn['role'] }}"
    "{%- if turn['role'] == 'assistant' -%}<|channel|>final<|message|>{{ turn['content'] }}<|return|>"
    "{%- else -%}<|message|>{{ turn['content'] }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)
INST = (
    "{{- bos_token -}}{%- for turn in messages -%}{%- if turn['role'] == 'user' -%}[INST]{{ turn['content'] }}[/INST]"
    "{%- else -%}{{ turn['content'] }}{{ eos_token }}{%- endif -%}{%- endfor -%}"
)


def stand_in(*special: str, bos: str | None = None, eos: str, template: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer of bytes with the special tokens and the template of a family whose own is not here."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*special]})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, template
    return tokenizer


def stand_in_model(tokenizer: PreTrainedTokenizerBase, *, name: str, seed: int) -> Model:
    """A tiny model of it, for long texts."""
    network = tiny_network("llama", seed=seed, d_vocab=len(tokenizer))
    network.config.max_position_embeddings = 2048
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    return assemble(network, tokenizer, name=name)


def small_study(task: Path, **changed) -> Study:
    """One of few problems and arms: what is told by engines, and one rung in which both models run in step."""
    cheap = {
        "n_problems": 3,
        "n_fit_problems": 6,
        "n_samples": 2,
        "n_curve_samples": 4,
        "ks": (1, 4),
        "n_fit_samples": 2,
        "n_score_samples": 1,
        "decoding": Decoding(max_new_tokens=N_TOKENS),
        "fit": GradientFit(n_steps=2),
        "own_help": OwnHelp(n_fit_samples=1, n_votes=2, temperatures=(1.0,)),
        "routing": None,
        "prompts": PromptChoice(n_problems=2),
        "arms": (ArmKey(Role.READING), ArmKey(Role.SELF_CONSISTENCY), ArmKey(Role.TAKEOVER)),
        "batch_size": 16,
        "n_boot": 200,
    }
    return Study(base="replayed/base", tuned="replayed/tuned", task=str(task), **cheap | changed)
