"""Known completions are replayed as if a model wrote them, and stop strings are found as they are complete."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.models.engine import Reply, ScriptedEngine, found_stop
from lab.models.tiny import EOS, byte_tokenizer, tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem

TOKENIZER = byte_tokenizer()
PROBLEM = Problem(id="p", prompt="2+2?", answer="4", family="", source="")


def replayed(*texts, n_samples=1, **decoding):
    engine = ScriptedEngine(texts={"p": texts}, tokenizer=TOKENIZER, end=EOS)
    model = replace(tiny_model(), engine=engine)
    return sample(model, [PROBLEM], n_samples, Decoding(**decoding), seed=0)


def test_scripts_come_in_turn_and_end():
    traces = replayed("four", "4", n_samples=3)
    assert [(trace.text, trace.stop) for trace in traces] == [("four", "eos"), ("4", "eos"), ("four", "eos")]
    assert traces[0].tokens == (*b"four", EOS)


def test_a_script_is_cut_at_the_limit_and_before_a_stop_string():
    assert [(trace.text, trace.stop) for trace in replayed("123456", max_new_tokens=4)] == [("1234", "length")]
    (trace,) = replayed("4\nQuestion: 5", stop=("\nQuestion",))
    assert (trace.text, trace.stop, len(trace.tokens)) == ("4", "stop", 10)


def test_an_end_inside_a_script_ends_it():
    assert replayed("4<|eos|>5")[0].text == "4"


def test_a_problem_without_a_script_is_refused():
    with pytest.raises(DecodingError, match="no script for the problem 'p'"):
        replayed()


LETTERS = "ab\né🙂"


@given(st.text(alphabet=LETTERS, max_size=40), st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_found_with_the_token_that_completes_it(text, stops):
    tokens = list(TOKENIZER(text).input_ids)
    for n_tokens in range(1, len(tokens) + 1):
        read = TOKENIZER.decode(tokens[:n_tokens])
        assert found_stop(TOKENIZER, tokens[:n_tokens], stops) == any(stop in read for stop in stops) or any(
            found_stop(TOKENIZER, tokens[:n], stops) for n in range(1, n_tokens)
        )


@pytest.mark.parametrize("token", [-1, 258])
def test_a_token_that_the_model_has_not_is_refused(token):
    class Foreign:
        def complete(self, requests, limits):
            return [Reply((65, token), (0.0, 0.0), "length") for _ in requests]

    model = replace(tiny_model(), engine=Foreign())
    with pytest.raises(DecodingError, match=rf"the engine wrote token {token} for 'p', and .* has 258"):
        sample(model, [PROBLEM], 1, Decoding(max_new_tokens=4), seed=0)
