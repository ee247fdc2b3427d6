"""Labels of tokens: characters find their tokens in every kind of tokenizer, and words their windows."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lab.models.tiny import EOS, byte_tokenizer
from lab.organisms.build import chain_tokenizer
from lab.records.errors import StorageError
from lab.tasks.chain import ALPHABET, CHAIN_STEPS, Expression, as_problem
from probes.capture.site import TEXTS
from probes.scores.labels import LABELS, REASONING_WORDS, character_spans, decoded, step_labels, word_labels

BYTES, CHAIN = byte_tokenizer(), chain_tokenizer(ALPHABET)
SOME = ["Wait, but let me think. However — another idea: perhaps 3 × 4 = 12 €. Hmm… maybe 日本 😀 not."] * 3


def trained(pre_tokenizer, decoder) -> PreTrainedTokenizerFast:
    """A tokenizer with merges."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(decoder, decoders.ByteLevel) else []
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["?", "<|eos|>"], show_progress=False
    )
    tokenizer.train_from_iterator(SOME, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>", clean_up_tokenization_spaces=False)


MERGED = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
SPACED = trained(pre_tokenizers.Metaspace(), decoders.Metaspace())
TOKENIZERS = {"bytes": BYTES, "merged": MERGED, "spaced": SPACED, "chain": CHAIN}


def by_prefixes(tokenizer, tokens) -> list[tuple[int, int]]:
    """The plain way, quadratic: how much of the text is right before and after a token."""
    text = decoded(tokenizer, tokens)

    def common(prefix: str) -> int:
        return next((place for place in range(len(prefix)) if prefix[place] != text[place]), len(prefix))

    prefixes = [decoded(tokenizer, tokens[:place]) for place in range(len(tokens) + 1)]
    return [(common(before), common(after) + (common(after) < len(after))) for before, after in pairwise(prefixes)]


def texts(*completions: list[int], prompt: tuple[int, ...] = ()) -> pl.DataFrame:
    return TEXTS.frame(
        [
            {"problem_id": "p", "sample_index": index, "prompt": list(prompt), "completion": completion}
            for index, completion in enumerate(completions)
        ]
    )


def words(text: str, tokenizer=BYTES, **options) -> dict[str, str]:
    """Label -> the tokens that have it, as text."""
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    found = word_labels(texts(tokens), tokenizer, **options)
    return {
        label: tokenizer.decode([tokens[place] for place in rows["position"]])
        for (label,), rows in found.group_by("label", maintain_order=True)
    }


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=12) | st.text("aé€😀 .,\n", max_size=12) | st.sampled_from(SOME))
def test_tokens_have_the_characters_that_decoding_every_prefix_finds(name, text):
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    if "\ufffd" not in text:
        assert character_spans(tokenizer, tokens) == by_prefixes(tokenizer, tokens)


@given(st.text(max_size=12))
def test_byte_tokens_cover_each_character_as_often_as_it_has_bytes(text):
    found = character_spans(BYTES, BYTES(text).input_ids)
    assert found == [(place, place + 1) for place, letter in enumerate(text) for _ in letter.encode()]


@given(st.lists(st.integers(0, EOS), max_size=30))
def test_bytes_that_are_no_text_are_read_too(tokens):
    found = character_spans(BYTES, tokens)
    assert len(found) == len(tokens)
    assert all(start <= end for start, end in found)
    word_labels(texts(tokens), BYTES, groups=("a", "\ufffd"))


def test_an_end_token_has_no_character():
    assert character_spans(CHAIN, CHAIN("A0.").input_ids) == [(0, 1), (1, 2), (2, 2)]
    assert character_spans(MERGED, [MERGED.eos_token_id, *MERGED("é").input_ids])[0] == (0, 0)


def test_steps_label_every_token_of_their_spans():
    problem = as_problem(Expression((6, 0, 4), "--"))
    prompt, completions = tuple(CHAIN(problem.prompt).input_ids), ["T6-0=7;V6!;6-4=2;A2.", "A2."]
    made = texts(*[CHAIN(text).input_ids for text in completions], prompt=prompt)
    made = made.with_columns(pl.lit(problem.id).alias("problem_id"))
    found = step_labels(made, CHAIN, [problem], CHAIN_STEPS)
    LABELS.checked(found)
    for text, wanted in enumerate(["o" + "l" * 6 + "m" * 4 + "s" * 6 + "aa", "dd"]):
        rows = found.filter(pl.col("text") == text)
        assert rows["position"].to_list() == [len(prompt) + place for place in range(len(wanted))]
        letters = {"open": "o", "slip": "l", "mend": "m", "step": "s", "answer": "a", "direct": "d"}
        assert "".join(letters[label] for label in rows["label"]) == wanted


def test_a_text_whose_problem_is_absent_is_refused_by_name():
    with pytest.raises(StorageError, match="answer 1 problems, such as 'p', that are not among the problems: want"):
        step_labels(texts([1]), CHAIN, [], CHAIN_STEPS)


def test_a_window_is_the_words_tokens_and_those_around_them():
    assert words("so wait, no", groups=("wait",)) == {"wait": " wait, "}
    assert words("so wait, no", groups=("wait",), before=0, after=0) == {"wait": "wait"}
    assert words("wait", groups=("wait",)) == {"wait": "wait"}
    assert words("Hmm… Let\n me see. LET ME", groups=("let me",), before=0, after=0) == {"let me": "Let\n meLET ME"}


def test_words_of_several_tokens_are_found_by_their_characters():
    found = words(" so Alternatively, Hmm", MERGED, before=0, after=0)
    assert found["alternatively"].strip(" ,") == "Alternatively"
    assert found["hmm"].strip(" ,") == "Hmm"
    assert len(MERGED(" Alternatively").input_ids) > 1


def test_words_inside_other_words_are_none():
    assert words("waiter, butter, anothers, athwart-but_x") == {}
    assert set(words("but—maybe? (wait)")) == {"but", "maybe", "wait"}


def test_a_token_may_have_several_labels_and_each_once():
    tokens = BYTES("but but wait").input_ids
    found = word_labels(texts(tokens, prompt=(7, 7)), BYTES, groups=("but", "wait"))
    assert found.is_duplicated().sum() == 0
    assert found.filter(pl.col("label") == "but")["position"].to_list() == [2 + place for place in range(9)]
    assert found.filter(pl.col("label") == "wait")["position"].to_list() == [2 + place for place in range(7, 12)]


def test_end_tokens_take_part_in_no_window():
    found = word_labels(texts([EOS, *BYTES("but").input_ids, EOS, EOS]), BYTES)
    assert found["position"].to_list() == [1, 2, 3]


def test_the_default_groups_are_the_papers_ten():
    assert len(set(REASONING_WORDS)) == 10


@pytest.mark.parametrize("options", [{"groups": ()}, {"groups": ("wait", " ")}, {"before": -1}, {"after": -1}])
def test_words_and_windows_that_make_no_sense_are_refused(options):
    with pytest.raises(StorageError, match="want at least one word, none empty, and no window below 0"):
        word_labels(texts([1]), BYTES, **options)


def test_no_text_has_no_labels():
    assert LABELS.checked(word_labels(texts(), BYTES)).is_empty()
