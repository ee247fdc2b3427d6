"""Engine: what writes completions in a model's place, where nothing has to be read or changed inside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from lab.records.errors import DecodingError


class Request(NamedTuple):
    """One completion that is wanted, with the address that its random numbers hang on."""

    problem_id: str
    sample_index: int
    seed: int
    prompt: tuple[int, ...]
    """Token ids to continue."""


class Limits(NamedTuple):
    """How completions are drawn, and what ends them."""

    temperature: float
    """0 is greedy decoding."""
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]
    """Texts that end a completion; `found_stop` finds them."""
    ends: frozenset[int]
    """Tokens that end one; the end stands among its tokens."""


class Reply(NamedTuple):
    """One completion."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural log-probability of each token at temperature 1."""
    stop: str
    """"eos", "stop" (a stop string) or "length"."""


@runtime_checkable
class Engine(Protocol):
    """Writes completions of token ids; vectors, hybrids and scores never ask it, since they need the passes."""

    def complete(self, requests: Sequence[Request], limits: Limits) -> Iterable[Reply]:
        """One reply for each request, in their order."""
        ...


def found_stop(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether a stop string is complete with the last of `tokens`, special ones read as text.

    Only the last tokens are decoded, as many as the longest string can take; where one is found there, it is looked for
    in the whole, since a text may decode otherwise from its middle.
    """
    if not stops:
        return False
    # A character may take four tokens of a byte each.
    n_last = 4 * max(map(len, stops)) + 4

    def holds(some: Sequence[int]) -> bool:
        text = str(tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return any(stop in text for stop in stops)

    return holds(tokens[-n_last:]) and (len(tokens) <= n_last or holds(tokens))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScriptedEngine:
    """Completions that are known already, such as those that a real model wrote, in the place of new ones.

    With it a study of stored completions runs on models of the right shape and tokenizer, whatever their weights.
    """

    texts: Mapping[str, Sequence[str]]
    """For each problem by its id, in turn for its samples; special tokens stand in them as text."""
    tokenizer: PreTrainedTokenizerBase
    end: int
    """The token that ends a text, where its script does not."""

    def complete(self, requests: Sequence[Request], limits: Limits) -> Iterator[Reply]:
        """The scripts, cut at the first end, stop string or the limit; a token has log-probability 0: none was drawn.

        Raises DecodingError for a problem that has no script.
        """
        for request in requests:
            if not (scripts := self.texts.get(request.problem_id)):
                raise DecodingError(f"no script for the problem {request.problem_id!r}: want at least one text")
            text = scripts[request.sample_index % len(scripts)]
            written = [*self.tokenizer(text, add_special_tokens=False).input_ids, self.end]
            tokens, stop = written[: limits.max_new_tokens], "length"
            for n_tokens in range(1, len(tokens) + 1):
                if tokens[n_tokens - 1] in limits.ends:
                    tokens, stop = tokens[:n_tokens], "eos"
                    break
                if found_stop(self.tokenizer, tokens[:n_tokens], limits.stop):
                    tokens, stop = tokens[:n_tokens], "stop"
                    break
            yield Reply(tuple(tokens), (0.0,) * len(tokens), stop)
