"""Rules choose the places that a reader would point at, and come from the words that a user types."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lab.models.tiny import byte_tokenizer
from lab.records.errors import SiteError
from probes.capture.site import (
    ENDS,
    AllTokens,
    CompletionTokens,
    SentenceEnds,
    TokenSet,
    positions,
    read_positions,
)

BYTES = byte_tokenizer()
PROMPT = [1, 2, 3]

# A tokenizer whose tokens are whole pieces, as those of real models are.
PIECES = ["Wait", ",", " so", ".\n\n", "...", " 3", ".", "14", "!", '."', "\n", " End"]


@pytest.fixture(scope="module")
def pieces() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def ids(text: str) -> list[int]:
    return BYTES(text).input_ids


def chosen_text(rule, text: str) -> list[int]:
    """The places inside the completion."""
    return (positions(rule, BYTES, PROMPT, ids(text)) - len(PROMPT)).tolist()


tokens = st.lists(st.integers(0, 255), max_size=20)
rules = st.sampled_from(
    [AllTokens(), CompletionTokens(), SentenceEnds(), SentenceEnds((";",)), TokenSet(frozenset({7}))]
)


@given(rules, tokens, tokens)
def test_places_ascend_within_the_text_and_only_all_tokens_reach_into_the_prompt(rule, prompt, completion):
    places = positions(rule, BYTES, prompt, completion)
    assert places.dtype == np.int32
    assert (np.diff(places) > 0).all()
    first = 0 if rule == AllTokens() else len(prompt)
    assert set(places.tolist()) <= set(range(first, len(prompt) + len(completion)))


@given(tokens, tokens)
def test_all_tokens_are_the_prompt_and_then_the_completion(prompt, completion):
    everything = positions(AllTokens(), BYTES, prompt, completion).tolist()
    of_completion = positions(CompletionTokens(), BYTES, prompt, completion).tolist()
    assert everything == [*range(len(prompt)), *of_completion]


@given(tokens, tokens, st.frozensets(st.integers(0, 255), min_size=1))
def test_a_token_set_chooses_exactly_its_tokens_of_the_completion(prompt, completion, wanted):
    places = positions(TokenSet(wanted), BYTES, prompt, completion)
    assert [completion[place - len(prompt)] for place in places] == [token for token in completion if token in wanted]


def test_sentences_end_at_their_marks():
    assert chosen_text(SentenceEnds(), "One. Two! Three?\nfour") == [3, 8, 15, 16]
    assert chosen_text(SentenceEnds((";", ".")), "T6-0=6;6-4=2;A2.") == [6, 12, 15]
    assert chosen_text(SentenceEnds(), "no end") == []


def test_a_mark_of_several_tokens_ends_where_it_is_complete():
    assert chosen_text(SentenceEnds(("\n\n",)), "a\nb\n\nc\n\n\n") == [4, 7, 8]
    assert chosen_text(SentenceEnds(("Wait,",)), "so Wait, no. wait, Wait,") == [7, 23]


def test_white_space_after_a_mark_is_no_second_end():
    assert chosen_text(SentenceEnds((".",)), "One.  Two.\n") == [3, 9]


def test_a_token_ends_a_sentence_by_its_text_and_not_by_holding_a_mark_somewhere(pieces):
    def chosen(rule, *words):
        return positions(rule, pieces, [], [PIECES.index(word) for word in words]).tolist()

    assert chosen(SentenceEnds((".",)), "Wait", ".\n\n", " so", "...", "\n", '."', "!") == [1, 3]
    assert chosen(SentenceEnds((".", '."')), "Wait", '."') == [1]
    assert chosen(SentenceEnds(), "Wait", ".\n\n", "\n") == [1, 2]
    # Written in the docstring: the tokenizer cuts 3.14 behind its point.
    assert chosen(SentenceEnds(), " 3", ".", "14") == [1]


def test_words_become_rules():
    assert read_positions(["all"], BYTES) == AllTokens()
    assert read_positions(["completion"], BYTES) == CompletionTokens()
    assert read_positions(["ends"], BYTES) == SentenceEnds(ENDS)
    assert read_positions(["ends", ";", "\n\n"], BYTES) == SentenceEnds((";", "\n\n"))
    assert read_positions(["tokens", "T", ";", "<|eos|>"], BYTES) == TokenSet(frozenset({ord("T"), ord(";"), 257}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no positions '': want all, completion, ends"),
        (["some"], "no positions 'some'"),
        (["all", "."], "no positions 'all .'"),
        (["tokens"], "no positions 'tokens'"),
        (["ends", ""], "none of them empty"),
        (["tokens", "Wait"], "'Wait' is 4 tokens of this model, want one; a word in a sentence often starts with"),
    ],
)
def test_words_that_are_no_rule_are_refused_with_those_there_are(words, message):
    with pytest.raises(SiteError, match=message):
        read_positions(words, BYTES)


def test_rules_that_can_choose_nothing_are_refused():
    with pytest.raises(SiteError, match="at least one"):
        TokenSet(frozenset())
    with pytest.raises(SiteError, match="at least one"):
        SentenceEnds(())
