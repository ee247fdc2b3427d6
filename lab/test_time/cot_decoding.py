"""CotDecoding: greedy branches behind the likeliest first tokens; the surest answer wins (Wang and Zhou 2024)."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.sampling.decode import decoded
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from lab.sampling.decoding import Decoding
from lab.sampling.sample import encode_prompt, end_tokens
from lab.sampling.trace import Trace
from lab.tasks.source import Task
from lab.test_time.method import Asked, Cost, Elicited
from lab.test_time.partial_completion import PartialCompletion, continued, ended


def answer_span(read_answer: Callable[[str], str | None], text: str) -> range | None:
    """The characters of the answer that a task's `read_answer` finds in `text`; None where it finds no such words.

    It is the last place where the answer stands and without which the task reads something else, whatever the form of
    the task; where there is no such place (the same number closes two sentences), the last place of all.
    """
    answer = read_answer(text)
    if answer is None:
        return None
    places = list(_places(answer, text))
    read = (start for start in places if read_answer(text[:start] + text[start + len(answer) :]) != answer)
    start = next(read, places[0] if places else None)
    return None if start is None else range(start, start + len(answer))


def token_span(model: Model, tokens: Sequence[int], characters: range) -> range:
    """The tokens of a completion whose text has a part in `characters` of the completion's."""

    def n_characters(n_tokens: int) -> int:
        return len(decoded(model.tokenizer, list(tokens[:n_tokens])))

    counts = range(len(tokens) + 1)
    first = bisect_right(counts, characters.start, key=n_characters) - 1
    return range(first, bisect_left(counts, characters.stop, key=n_characters))


def _places(part: str, text: str) -> Iterator[int]:
    """Where `part` begins in `text`, from the last place to the first; overlapping ones too."""
    start = text.rfind(part) if part else -1
    while start >= 0:
        yield start
        start = text.rfind(part, 0, start + len(part) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CotDecoding:
    """Branches at the first token, each completed greedily.

    With one branch this is greedy decoding, which is its control: what looking aside adds.
    """

    n_branches: int = 10
    """The likeliest first tokens, as many as this; 10 in the paper (a small vocabulary has fewer)."""

    def __post_init__(self) -> None:
        if self.n_branches < 1:
            raise DecodingError(f"CoT-decoding with {self.n_branches} branches: want at least one")

    def answer(self, asked: Asked) -> Elicited:
        """One answer a problem: the branch whose answer the model is surest of ("Chain-of-Thought Reasoning Without
        Prompting", arXiv 2402.10200, without its aggregation over branches). Nothing is random.

        A branch's score is the mean, over the tokens of the answer that it states, of the probability of the token
        written less that of the likeliest other one: the paper's gap of the top two wherever the token is the greedy
        one. At the branching token the paper's gap would be the same for all branches, so that branches which answer at
        once could not be told apart; there the difference may be negative. A branch that states no answer loses to all
        that do; of equal scores the branch of the likelier first token wins. Only the limits of `asked.decoding` are
        used.
        """
        model, greedy = asked.model, replace(asked.decoding, temperature=0.0, top_p=1.0)
        traces: list[Trace] = []
        n_tokens: list[int] = []
        stride = max(1, asked.batch_size // self.n_branches)
        for start in range(0, len(asked.problems), stride):
            some = asked.problems[start : start + stride]
            opened = branches(model, [encode_prompt(model, problem.prompt, greedy) for problem in some], self, greedy)
            flat = [branch for of_problem in opened for branch in of_problem]
            keys = np.zeros(len(flat), dtype=np.uint64)
            written = iter(continued(model, flat, keys, greedy, watch=greedy_gap, batch_size=asked.batch_size))
            for problem, of_problem in zip(some, opened, strict=True):
                finished = [next(written) for _ in of_problem]
                candidates = [partial.trace(model, problem, 0, greedy) for partial in finished]
                scores = [
                    surety(model, asked.task, trace, partial.notes)
                    for trace, partial in zip(candidates, finished, strict=True)
                ]
                traces.append(candidates[int(np.argmax(scores))])
                n_tokens.append(sum(len(partial.tokens) for partial in finished))
        return Elicited(traces, Cost(n_tokens=tuple(n_tokens)))


@torch.inference_mode()
def branches(
    model: Model, prompts: Sequence[Sequence[int]], method: CotDecoding, decoding: Decoding
) -> list[list[PartialCompletion]]:
    """For each prompt drafts of one token, the likeliest first."""
    padded = left_padded(model, prompts)
    owner = torch.arange(len(prompts), device=model.device)
    batch = Batch(padded.tokens, padded.mask, owner, np.zeros(len(prompts), dtype=np.uint64))
    logits = CachedDecoder(model, batch).propose().logits.float()
    if not logits.logsumexp(dim=-1).isfinite().all():
        raise DecodingError("the model gave first-token logits that are not finite; try --dtype float32")
    # Stable, so that which of equal tokens is taken does not depend on the batch.
    tokens = logits.sort(dim=-1, descending=True, stable=True).indices[:, : method.n_branches]
    logprobs = logits.log_softmax(dim=-1).gather(1, tokens)
    notes, ends = gap(logits, tokens), end_tokens(model)
    return [
        [
            ended(
                model,
                PartialCompletion(prompt=tuple(prompt), tokens=(token,), logprobs=(logprob,), notes=(note,)),
                0,
                decoding,
                ends,
            )
            for token, logprob, note in zip(*columns, strict=True)
        ]
        for prompt, *columns in zip(prompts, tokens.tolist(), logprobs.tolist(), notes.tolist(), strict=True)
    ]


def gap(logits: Float[Tensor, "row d_vocab"], tokens: Int[Tensor, "row chosen"]) -> Float[Tensor, "row chosen"]:
    """The probability of each given token less that of the likeliest other one: above 0 only for the greedy token."""
    probabilities = logits.float().softmax(dim=-1)
    top = probabilities.topk(2, dim=-1)
    runner_up = torch.where(tokens == top.indices[:, :1], top.values[:, 1:], top.values[:, :1])
    return probabilities.gather(1, tokens) - runner_up


def greedy_gap(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """The gap of the top two probabilities."""
    return gap(logits, logits.float().argmax(dim=-1, keepdim=True))[:, 0]


def surety(model: Model, task: Task, trace: Trace, gaps: Sequence[float]) -> float:
    """The mean of the tokens' `gaps` over the answer that a completion states; -inf where it states none."""
    characters = answer_span(task.read_answer, trace.text)
    if characters is None:
        return -np.inf
    span = token_span(model, trace.tokens, characters)
    return float(np.mean(gaps[span.start : span.stop]))
