"""Segments are spans of tokens: in order, apart, and each there as often as it was written."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.models.tiny import EOS
from lab.records.errors import SiteError, StorageError
from lab.tasks.chain import CHAIN_STEPS
from probes.taxonomy.segments import Sentences, Steps, segments
from probes.taxonomy.survey import any_token, last_token, token_before

from .conftest import CHAINS, PROBLEMS, made_texts

STEPS = Steps(CHAIN_STEPS, PROBLEMS)


def sentences(model, *completions: str, prompt: str = "<1?", ends: tuple[str, ...] = (".", "!")) -> pl.DataFrame:
    return segments(Sentences(ends), model.tokenizer, made_texts({prompt: completions}))


def words_of(row: dict, texts: pl.DataFrame) -> str:
    text = texts.row(row["text"], named=True)
    return bytes([*text["prompt"], *text["completion"]][row["first"] : row["last"] + 1]).decode()


def test_a_sentence_that_is_written_twice_is_two_segments(model):
    found = sentences(model, "So. No. So.")
    assert found["words"].to_list() == ["So.", "No.", "So."]
    assert found.select("first", "last").rows() == [(3, 5), (6, 9), (10, 13)]
    assert found["label"].null_count() == 3


def test_what_follows_the_last_end_is_a_segment_too(model):
    assert sentences(model, "One. Two")["words"].to_list() == ["One.", "Two"]


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="ab .!", max_size=30), min_size=1, max_size=4))
def test_sentences_stand_apart_in_order_and_leave_out_no_character_but_space(model, completions):
    texts = made_texts({"<1?": completions})
    try:
        found = segments(Sentences((".", "!")), model.tokenizer, texts)
    except StorageError:
        assert not any(text.strip() for text in completions)
        return
    for text, completion in enumerate(completions):
        mine = found.filter(pl.col("text") == text)
        assert "".join(mine["words"]).replace(" ", "") == completion.replace(" ", "")
        assert (mine["first"] <= mine["last"]).all()
        assert (mine["last"][:-1] < mine["first"][1:]).all()
        assert all(words_of(row, texts).strip() == row["words"] for row in mine.iter_rows(named=True))


def test_an_end_token_by_itself_is_no_segment(model):
    texts = made_texts({"<1?": ["One."]}).with_columns(
        pl.lit([*b"One.", EOS], dtype=pl.List(pl.Int32)).alias("completion")
    )
    assert segments(Sentences(), model.tokenizer, texts)["words"].to_list() == ["One."]


def test_steps_are_the_spans_of_the_grammar_with_their_labels(model):
    found = segments(STEPS, model.tokenizer, made_texts())
    assert found.filter(pl.col("text") == 1).select("words", "label", "first", "last").rows() == [
        ("T", "open", 7, 7),
        ("6-0=6;", "step", 8, 13),
        ("6-4=3;", "slip", 14, 19),
        ("V2!;", "mend", 20, 23),
        ("A2", "answer", 24, 25),
    ]
    assert found["text"].n_unique() == sum(map(len, CHAINS.values()))


def test_the_tokens_of_a_step_are_its_words(model):
    texts = made_texts()
    found = segments(STEPS, model.tokenizer, texts)
    assert all(words_of(row, texts) == row["words"] for row in found.iter_rows(named=True))


def test_texts_without_a_segment_are_refused(model):
    with pytest.raises(StorageError, match="no segment in 2 texts: want completions with sentences"):
        sentences(model, "", "  ")


def test_a_text_of_an_unknown_problem_is_refused(model):
    with pytest.raises(StorageError, match="answers 'chain:6-0-4', which is not among 0 problems"):
        segments(Steps(CHAIN_STEPS, {}), model.tokenizer, made_texts())


def test_sentence_ends_of_nothing_are_refused(model):
    with pytest.raises(SiteError, match="want at least one string"):
        sentences(model, "One.", ends=())


def test_readings_stand_where_they_say(model):
    found = segments(STEPS, model.tokenizer, made_texts())
    last, before = last_token(found), token_before(found)
    assert last["first"].to_list() == last["last"].to_list() == found["last"].to_list()
    assert before["first"].to_list() == before["last"].to_list() == (found["first"] - 1).to_list()


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_any_token_is_one_of_the_segment_and_a_function_of_the_seed(model, seed):
    found = segments(STEPS, model.tokenizer, made_texts())
    one = any_token(found, seed)
    assert one["first"].equals(one["last"])
    assert ((found["first"] <= one["first"]) & (one["first"] <= found["last"])).all()
    assert one.equals(any_token(found, seed))


def test_there_is_no_token_before_the_start_of_a_text(model):
    found = segments(Sentences(), model.tokenizer, made_texts({"<1?": ["One."]}).with_columns(prompt=[]))
    with pytest.raises(StorageError, match="1 segments stand at the start of their text, without a token before"):
        token_before(found)
