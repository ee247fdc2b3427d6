"""PowerSampling: completions from a power of the model's own distribution, by Metropolis-Hastings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed, uniforms
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from lab.test_time.method import Asked, Cost, Elicited
from lab.test_time.partial_completion import PartialCompletion, continued


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
        prompts = [tuple(encode_prompt(model, chain.problem.prompt, decoding)) for chain in chains]
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
