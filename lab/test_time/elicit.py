"""elicit: answers of a model by one method, with no tuned model and no weight changed; and the methods by name."""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed, uniforms
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import BestPrompt, Fitting, Temperature, prompt_forms
from lab.test_time.letters import LikeliestLetter
from lab.test_time.method import Asked, Cost, Elicitation, Elicited, PartialCompletion, continued, ended, tokens_written


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfConsistency:
    """Many sampled completions, and the answer that most of them state.

    With one vote this is plain sampling at the same temperature, which is its control: what the vote itself adds.
    """

    n_votes: int = 40
    """Completions behind one answer; 40 in the paper."""
    temperature: float = 0.7
    """As the paper has it for its largest models."""

    def __post_init__(self) -> None:
        if self.n_votes < 1:
            raise DecodingError(f"self-consistency of {self.n_votes} votes: want at least one")

    def answer(self, asked: Asked) -> Elicited:
        """Answers of each problem, each the completion that stands for a vote of its own.

        Answer s is decided by the samples s * n_votes to (s + 1) * n_votes - 1 of the problem, so votes share nothing.
        The paper compares answers and keeps no reasoning; here the first completion that states the winning answer
        stands for the vote, so that its process can be judged. A vote won by bare answers is then seldom strictly
        right.
        """
        decoding, n_drawn = replace(asked.decoding, temperature=self.temperature), asked.n_samples * self.n_votes
        votes = sample(asked.model, asked.problems, n_drawn, decoding, seed=asked.seed, batch_size=asked.batch_size)
        traces: list[Trace] = []
        for start in range(0, len(votes), self.n_votes):
            electorate = votes[start : start + self.n_votes]
            answers = [asked.task.read_answer(trace.text) for trace in electorate]
            winner = electorate[majority(answers, same=asked.task.same_answer)]
            traces.append(replace(winner, sample_index=winner.sample_index // self.n_votes))
        return Elicited(traces, Cost(n_tokens=tokens_written(votes, asked.problems)))


def majority(answers: Sequence[str | None], *, same: Callable[[str, str], bool]) -> int:
    """Where the most frequent answer is stated first; of equally frequent ones, that which was seen first.

    None is no vote; where nobody votes it is 0. An answer counts for the first earlier one that `same` says it equals.
    """
    stated = {place: answer for place, answer in enumerate(answers) if answer is not None}
    ballots: dict[int, int] = {}
    for place, answer in stated.items():
        found = next((first for first in ballots if same(answer, stated[first])), place)
        ballots[found] = ballots.get(found, 0) + 1
    return max(ballots, key=lambda first: ballots[first], default=0)


def answer_span(read_answer: Callable[[str], str | None], text: str) -> range | None:
    """The characters of the answer that a task's `read_answer` finds in `text`; None where it finds no such words.

    It is the last place where the answer stands and with another in its place the task reads something else, whatever
    the form of the task; where there is no such place (the same number closes two sentences), the last place of all.
    """
    answer = read_answer(text)
    if not answer:
        return None
    # Looking ahead finds places that overlap, too.
    places = [found.start() for found in re.finditer(f"(?={re.escape(answer)})", text)]
    other = "y" if answer == "x" else "x"
    read = (at for at in reversed(places) if read_answer(text[:at] + other + text[at + len(answer) :]) != answer)
    start = next(read, places[-1] if places else None)
    return None if start is None else range(start, start + len(answer))


def token_span(model: Model, tokens: Sequence[int], characters: range) -> range:
    """The tokens of a completion whose text has a part in `characters` of the completion's."""

    def n_characters(n_tokens: int) -> int:
        return len(model.text(tokens[:n_tokens]))

    counts = range(len(tokens) + 1)
    first = bisect_right(counts, characters.start, key=n_characters) - 1
    return range(first, bisect_left(counts, characters.stop, key=n_characters))


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
            opened = branches(model, [encode_prompt(model, problem, greedy) for problem in some], self, greedy)
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
    notes = gap(logits, tokens)
    return [
        [
            ended(
                model,
                PartialCompletion(prompt=tuple(prompt), tokens=(token,), logprobs=(logprob,), notes=(note,)),
                0,
                decoding,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSampling:
    """Karan and Du 2025, "Reasoning with Sampling" (arXiv 2510.14901).

    Without moves this is sampling at temperature 1 / alpha, which is its control: what the moves add.
    """

    alpha: float = 4.0
    """Texts are drawn in proportion to the alpha-th power of their probability; 4 in the paper."""
    n_blocks: int = 16
    """Parts in which a text grows to the token limit, with moves after each; 16 in the paper (192 tokens of 3,072)."""
    n_moves: int = 10
    """Moves after each block; 10 in the paper."""

    def __post_init__(self) -> None:
        if not 1 <= self.alpha < math.inf:
            raise DecodingError(f"power sampling with alpha {self.alpha}: want a number of at least 1")
        if self.n_blocks < 1 or self.n_moves < 0:
            raise DecodingError(
                f"power sampling in {self.n_blocks} blocks with {self.n_moves} moves each: want at least 1 and 0"
            )

    def limits(self, max_new_tokens: int) -> tuple[int, ...]:
        """The token limit of each block; the last one is the whole."""
        blocks = range(1, self.n_blocks + 1)
        return tuple(sorted({math.ceil(max_new_tokens * block / self.n_blocks) for block in blocks}))

    def answer(self, asked: Asked) -> Elicited:
        """Completions of each problem, each the end of a chain of its own; ordered by problem, then sample.

        A block adds tokens at temperature 1 / alpha to every text that has not ended, up to the block's limit, and
        makes its moves among the texts under that limit; the moves of the last block have p(text)^alpha as their
        stationary distribution over the texts under the token limit of `asked.decoding`, where p is the model's
        distribution at temperature 1 with nothing cut off and a text that reaches the limit counts as it stands. Of
        `asked.decoding` only limits are used.

        A departure from the paper: a text that ends before its block goes on being moved, and may become longer again.
        """
        model, decoding, batch_size = asked.model, asked.decoding, asked.batch_size
        chains = [Chain(problem, index, asked.seed) for problem in asked.problems for index in range(asked.n_samples)]
        prompts = [tuple(encode_prompt(model, chain.problem, decoding)) for chain in chains]
        drafts = [PartialCompletion(prompt=prompt) for prompt in prompts]
        n_tokens = np.zeros(len(chains), dtype=np.int64)
        for block, limit in enumerate(self.limits(decoding.max_new_tokens)):
            within = replace(decoding, max_new_tokens=limit)
            n_before = [len(partial.tokens) for partial in drafts]
            drafts = proposed(model, chains, drafts, self.alpha, within, ("block", block), batch_size)
            n_tokens += [len(partial.tokens) - n for partial, n in zip(drafts, n_before, strict=True)]
            for move in range(self.n_moves):
                moved = move_once(model, chains, drafts, self.alpha, within, (block, move), batch_size)
                drafts = moved.drafts
                n_tokens += moved.n_tokens
        traces = [
            partial.trace(model, chain.problem, chain.sample_index, decoding)
            for partial, chain in zip(drafts, chains, strict=True)
        ]
        of_problem = n_tokens.reshape(len(asked.problems), asked.n_samples).sum(axis=1)
        return Elicited(traces, Cost(n_tokens=tuple(of_problem.tolist())))


class Moved(NamedTuple):
    """Texts after one move."""

    drafts: list[PartialCompletion]
    accepted: list[bool | None]
    """None where the text was too short for the cut that was drawn, and nothing was proposed."""
    n_tokens: Int[np.ndarray, " draft"]
    """Tokens generated for the proposals."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One Markov chain of texts, and where its random numbers come from."""

    problem: Problem
    sample_index: int
    seed: int

    def key(self, *names: str | int) -> int:
        """The key for one of its purposes."""
        return child_seed(self.seed, self.problem.id, self.sample_index, "power", *names)


def move_once(
    model: Model,
    chains: Sequence[Chain],
    drafts: Sequence[PartialCompletion],
    alpha: float,
    decoding: Decoding,
    step: tuple[int, int],
    batch_size: int,
) -> Moved:
    """One Metropolis-Hastings move of every text x towards p(x)^alpha over texts of at most `max_new_tokens` tokens.

    A cut c is drawn uniformly from 0 to max_new_tokens - 1. If x has more than c tokens, x' keeps c of them and is
    written on from there with q, the model at temperature 1 / alpha, until it ends or is full; else x stays. x' becomes
    the text with probability

        min(1, [p(x')^alpha q(x after c)] / [p(x)^alpha q(x' after c)])  =  min(1, Z(x' after c) / Z(x after c)),

    where Z is the product, over the tokens after the cut, the end token included, of the sum over the vocabulary of
    p(token | text before)^alpha: q is p^alpha over that sum, so every p^alpha of a token written cancels. Each suffix
    counts in its whole length. At alpha 1 all sums are 1 and every proposal is accepted.

    The paper draws the cut among the tokens that x has. That is the same where all texts are equally long; where they
    end at different lengths the chance of a cut would differ on the way there and back, by a factor of the two
    lengths, which a cut drawn from the limit does not need.
    """
    cut_numbers = numbers(chains, "cut", step)
    cuts = [int(number * decoding.max_new_tokens) for number in cut_numbers]
    moving = [index for index, partial in enumerate(drafts) if cuts[index] < len(partial.tokens)]
    kept = [drafts[index].cut(cuts[index]) for index in moving]
    moving_chains = [chains[index] for index in moving]
    proposals = proposed(model, moving_chains, kept, alpha, decoding, ("move", *step), batch_size)
    results = list(drafts)
    accepted: list[bool | None] = [None] * len(drafts)
    n_tokens = np.zeros(len(drafts), dtype=np.int64)
    accept_numbers = numbers(chains, "accept", step)
    for index, proposal in zip(moving, proposals, strict=True):
        cut = cuts[index]
        log_ratio = math.fsum(proposal.notes[cut:]) - math.fsum(drafts[index].notes[cut:])
        accepts = bool(accept_numbers[index] < math.exp(min(0.0, log_ratio)))
        accepted[index] = accepts
        n_tokens[index] = len(proposal.tokens) - cut
        if accepts:
            results[index] = proposal
    return Moved(results, accepted, n_tokens)


def proposed(
    model: Model,
    chains: Sequence[Chain],
    drafts: Sequence[PartialCompletion],
    alpha: float,
    decoding: Decoding,
    names: tuple[str | int, ...],
    batch_size: int,
) -> list[PartialCompletion]:
    """The drafts written on at temperature 1 / alpha, each token noted with the log of its normaliser."""
    keys = np.array([chain.key(*names) for chain in chains], dtype=np.uint64)
    sharpened = replace(decoding, temperature=1 / alpha, top_p=1.0)
    return continued(model, drafts, keys, sharpened, watch=partial(log_normaliser, alpha=alpha), batch_size=batch_size)


def log_normaliser(logits: Float[Tensor, "row d_vocab"], *, alpha: float) -> Float[Tensor, " row"]:
    """Natural log of the sum over the vocabulary of p(token)^alpha: 0 at alpha 1, else below."""
    return (alpha * logits.float().log_softmax(dim=-1)).logsumexp(dim=-1)


def numbers(chains: Sequence[Chain], purpose: str, step: tuple[int, int]) -> Float[np.ndarray, " chain"]:
    """One number in [0, 1) for each chain."""
    return uniforms(np.array([chain.key(purpose, *step) for chain in chains], dtype=np.uint64), 0)


METHODS: dict[str, Callable[[Task], Elicitation]] = {
    "prompt": lambda fit: BestPrompt(forms=prompt_forms(fit), fitting=Fitting(problems=fit.problems)),
    "temperature": lambda fit: Temperature(fitting=Fitting(problems=fit.problems)),
    "self-consistency": lambda _: SelfConsistency(),
    "cot-decoding": lambda _: CotDecoding(),
    "power": lambda _: PowerSampling(),
    "letter": lambda _: LikeliestLetter(),
}
"""Name -> the method as published; what is chosen among several is chosen on the problems of the task given to it."""


def elicit(
    model: Model,
    task: Task,
    problems: Sequence[Problem],
    method: Elicitation,
    decoding: Decoding,
    *,
    n_samples: int = 1,
    seed: int,
    batch_size: int = 256,
) -> Elicited:
    """`n_samples` answers of each problem; one where nothing is random: in CoT-decoding, of the likeliest letter,
    and at temperature 0.

    `decoding` gives the limits, and for `BestPrompt` the temperature and top-p too; the others say what they use of it.
    What else holds is said by `Elicitation.answer`.
    """
    asked = Asked(
        model=model,
        task=task,
        problems=problems,
        decoding=decoding,
        n_samples=n_samples,
        seed=seed,
        batch_size=batch_size,
    )
    return method.answer(asked)
