"""An error of any library becomes one printable line that still says why."""

import json

import pytest
from transformers import LlamaConfig

from lab.records.errors import StorageError, condensed


def test_what_is_wrong_with_a_field_of_a_configuration_is_said():
    with pytest.raises(Exception, match="rms_norm_eps") as caught:
        LlamaConfig(rms_norm_eps="x")  # pyright: ignore[reportArgumentType]
    line = condensed(caught.value)
    assert "field 'rms_norm_eps': TypeError: Field 'rms_norm_eps' expected float, got str (value: 'x')" in line


def test_of_a_traceback_its_last_line_is_left():
    text = "it fell\nTraceback (most recent call last):\n  File 'x', line 1\n  1 / 0\nZeroDivisionError: by zero\n"
    assert condensed(RuntimeError(text)) == "RuntimeError: it fell ZeroDivisionError: by zero"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("a\n"), "KeyError: 'a\\n'"),
        (ValueError(""), "ValueError: no reason given"),
        (ValueError("a\n\n\t b\x1b[1m \ud800"), "ValueError: a b\\x1b[1m \\ud800"),
        (StorageError("no room"), "no room"),
        (KeyboardInterrupt(), "KeyboardInterrupt: no reason given"),
    ],
)
def test_every_error_is_one_printable_line(error, line):
    assert condensed(error) == line
    assert line.isprintable()


def test_a_long_text_is_cut_between_words():
    assert condensed(ValueError("word " * 1000), 40) == "ValueError: word word word word word ..."
    assert len(condensed(json.JSONDecodeError("x" * 1000, "", 0))) <= 404


def test_an_error_that_cannot_say_itself_is_told_by_its_kind():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert condensed(MuteError()) == "MuteError: no reason given"
