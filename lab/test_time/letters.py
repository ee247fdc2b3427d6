"""The letter of a choice, without a word of work: the likeliest one, and one at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
import torch

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed, uniforms
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem
from lab.test_time.method import Asked, Cost, Elicited, PartialCompletion

OPENING = "Answer:"
"""What stands between the prompt and the letter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LikeliestLetter:
    """The choice whose letter has the highest log-probability behind the prompt and `OPENING`."""

    def answer(self, asked: Asked) -> Elicited:
        """One answer a problem; nothing is random, and of `asked.decoding` nothing but limits is used.

        Of equally likely letters the first is taken. Raises DecodingError for a problem without choices, and where
        letters are not single tokens of the model.
        """
        traces: list[Trace] = []
        for start in range(0, len(asked.problems), asked.batch_size):
            traces += _likeliest(asked, asked.problems[start : start + asked.batch_size])
        return Elicited(traces, Cost(n_tokens=(1,) * len(traces)))


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomLetter:
    """Any letter of the problem's choices: what `LikeliestLetter` adds to guessing is its gain over this."""

    def answer(self, asked: Asked) -> Elicited:
        """Answers of each problem, drawn uniformly."""
        traces: list[Trace] = []
        for problem in asked.problems:
            written = letter_tokens(asked.model, problem)
            keys = [child_seed(asked.seed, problem.id, index, "letter") for index in range(asked.n_samples)]
            for index, number in enumerate(uniforms(np.array(keys, dtype=np.uint64), 0)):
                tokens = written[int(number * len(written))]
                logprobs = (0.0,) * (len(tokens) - 1) + (-float(np.log(len(written))),)
                traces.append(_trace(asked, problem, index, tokens, logprobs))
        return Elicited(traces, Cost(n_tokens=(0,) * len(asked.problems)))


def letter_tokens(model: Model, problem: Problem) -> list[tuple[int, ...]]:
    """For each choice the tokens of `OPENING` and its letter; DecodingError where not the last one alone differs."""
    letters = ascii_uppercase[: len(problem.choices)]
    written = [tuple(model.tokenizer(f"{OPENING} {letter}", add_special_tokens=False).input_ids) for letter in letters]
    if len(written) < 2 or len({*written}) < len(written) or len({tokens[:-1] for tokens in written}) > 1:
        came = (
            "has no choices" if len(written) < 2 else f"has letters that {model.name} does not write as one token each"
        )
        raise DecodingError(f"problem {problem.id!r} {came}: want at least two choices, with letters of one token")
    return written


@torch.inference_mode()
def _likeliest(asked: Asked, problems: Sequence[Problem]) -> list[Trace]:
    written = [letter_tokens(asked.model, problem) for problem in problems]
    prompts = [encode_prompt(asked.model, problem, asked.decoding) for problem in problems]
    opened = [[*prompt, *tokens[0][:-1]] for prompt, tokens in zip(prompts, written, strict=True)]
    padded = left_padded(asked.model, opened)
    owner = torch.arange(len(opened), device=asked.model.device)
    batch = Batch(padded.tokens, padded.mask, owner, np.zeros(len(opened), dtype=np.uint64))
    logprobs = CachedDecoder(asked.model, batch).propose().logits.float().log_softmax(dim=-1)
    if not logprobs.isfinite().any(dim=-1).all():
        raise DecodingError("the model gave logits of letters that are not finite; try --dtype float32")
    traces: list[Trace] = []
    for problem, tokens, of_row in zip(problems, written, logprobs.cpu(), strict=True):
        values = [float(of_row[each[-1]]) for each in tokens]
        best = int(np.argmax(values))
        # What is forced has log-probability 0.
        logged = (0.0,) * (len(tokens[best]) - 1) + (values[best],)
        traces.append(_trace(asked, problem, 0, tokens[best], logged))
    return traces


def _trace(asked: Asked, problem: Problem, index: int, tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> Trace:
    written = PartialCompletion(prompt=(), tokens=tokens, logprobs=logprobs, notes=(0.0,) * len(tokens), stop="stop")
    return written.trace(asked.model, problem, index, asked.decoding)
