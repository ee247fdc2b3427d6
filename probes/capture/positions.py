"""positions: which tokens of a text are looked at, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from lab.records.errors import SiteError

ENDS = (".", "!", "?", "\n")
"""What ends a sentence of English, or a line."""


@dataclass(frozen=True, slots=True)
class AllTokens:
    """Every token, of the prompt too."""


@dataclass(frozen=True, slots=True)
class CompletionTokens:
    """Every token of the completion, its end token too."""


@dataclass(frozen=True, slots=True)
class SentenceEnds:
    """The tokens of the completion with which one of these strings is complete, at the end of the text so far.

    White space behind it in the same token does not matter (a token such as `.\\n\\n` ends a sentence at `.`), and a
    string may be spread over several tokens. A full stop inside a number is an end if the tokenizer cuts there.
    """

    ends: tuple[str, ...] = ENDS

    def __post_init__(self) -> None:
        if not self.ends or not all(self.ends):
            raise SiteError(f"sentence ends {list(self.ends)}: want at least one string, none of them empty")


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The tokens of the completion that are one of these ids."""

    tokens: frozenset[int]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise SiteError("a token set of no tokens: want at least one")


Positions: TypeAlias = AllTokens | CompletionTokens | SentenceEnds | TokenSet


def positions(
    rule: Positions, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], completion: Sequence[int]
) -> Int[np.ndarray, " chosen"]:
    """The places that `rule` chooses in the text `prompt` + `completion`, ascending, counted from 0 at its start."""
    first = len(prompt)
    match rule:
        case AllTokens():
            chosen = range(first + len(completion))
        case CompletionTokens():
            chosen = range(first, first + len(completion))
        case TokenSet(tokens=tokens):
            chosen = [first + place for place, token in enumerate(completion) if token in tokens]
        case SentenceEnds(ends=ends):
            chosen = [first + place for place in _sentence_ends(ends, tokenizer, completion)]
        case never:
            assert_never(never)
    return np.array(chosen, dtype=np.int32)


def read_positions(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Positions:
    """The rule that a user names: `all`, `completion`, `ends [STRING ...]` or `tokens STRING ...`.

    Raises SiteError for any other words, and for a string that is not exactly one token of the model.
    """
    name, *strings = words or ("",)
    if name == "all" and not strings:
        return AllTokens()
    if name == "completion" and not strings:
        return CompletionTokens()
    if name == "ends":
        return SentenceEnds(tuple(strings) or ENDS)
    if name == "tokens" and strings:
        return TokenSet(frozenset(single_token(text, tokenizer) for text in strings))
    raise SiteError(
        f"no positions {' '.join(words)!r}: want all, completion, ends [STRING ...] or tokens STRING [STRING ...]"
    )


def single_token(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise SiteError(
            f"{text!r} is {len(ids)} tokens of this model, want one; a word in a sentence often starts with a space"
        )
    return ids[0]


def _sentence_ends(ends: Sequence[str], tokenizer: PreTrainedTokenizerBase, completion: Sequence[int]) -> list[int]:
    pieces = {token: str(tokenizer.decode([token])) for token in set(completion)}
    longest = max(map(len, ends))
    found, before = [], ""
    for place, token in enumerate(completion):
        text = before + pieces[token]
        bare = text.rstrip()
        if any(
            # Complete with this token, so not where only white space follows an earlier end.
            text.endswith(end) if end[-1].isspace() else bare.endswith(end) and len(bare) > len(before)
            for end in ends
        ):
            found.append(place)
        before = text[-longest:]
    return found
