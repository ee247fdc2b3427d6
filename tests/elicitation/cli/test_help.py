"""The help of the command line: an example of every verb, which works as it stands, within eighty columns."""

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import get_args

import pytest
import tyro

from elicitation.cli import commands, feature_commands, pair_commands, vector_commands
from elicitation.cli.commands import Command
from elicitation.cli.main import help_text, parsed

MODULES = (commands, feature_commands, pair_commands, vector_commands)
EXAMPLE = re.compile(r"^Example: (lab .+)$", re.MULTILINE)


def verbs(kinds: object, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type]]:
    """The words and the class of every verb, and of every verb below it."""
    for annotated in get_args(kinds):
        kind, named = get_args(annotated)
        words = (*before, named.name)
        yield words, kind
        if "do" in (fields := inspect.get_annotations(kind)):
            yield from verbs(get_args(fields["do"])[0], words)


VERBS = dict(verbs(Command))
EXAMPLES = [line for module in MODULES for line in EXAMPLE.findall(inspect.getsource(module).replace("    ", ""))]


def test_verbs_below_verbs_are_found():
    assert {("study",), ("capture", "repair"), ("sae", "compare"), ("organisms", "list"), ("doctor",)} <= set(VERBS)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_has_an_example_of_itself_that_parses(words):
    (example,) = EXAMPLE.findall(inspect.getdoc(VERBS[words]) or "")
    argv = shlex.split(example)
    assert argv[: len(words) + 1] == ["lab", *words]
    command = parsed(argv[1:])
    assert isinstance(command, VERBS[words[:1]])


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_anywhere_in_the_help_parses(example):
    assert parsed(shlex.split(example)[1:]) is not None


def test_an_example_with_a_flag_that_is_not_there_is_noticed(capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(["demo", "--depth", "3"])
    assert "--depth" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), *VERBS], ids=" ".join)
def test_no_line_of_help_is_wider_than_eighty_columns(lab, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, complaint = lab(*words, "--help")
    assert (code, complaint) == (0, "")
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_an_example_that_is_cut_can_be_copied_whole(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    _, shown, _ = lab("sae", "train", "--help")
    start = shown.index("Example: ") + len("Example: ")
    copied = shown[start : shown.index("\n\n", start)]
    assert copied.count("\\\n") >= 2
    (example,) = EXAMPLE.findall(inspect.getdoc(VERBS["sae", "train"]) or "")
    assert shlex.split(copied.replace("\\\n", " ")) == shlex.split(example)


def test_lab_alone_prints_the_help_and_where_to_start(lab):
    code, shown, complaint = lab()
    assert (code, complaint) == (0, "")
    assert shown == lab("--help")[1]
    assert "New here? `lab demo`" in shown
    for (name, *below), kind in VERBS.items():
        if not below:
            purpose = (inspect.getdoc(kind) or "").partition("\n\n")[0]
            assert f"• {name} {purpose}" in " ".join(shown.replace("│", " ").split())


def test_nothing_that_is_not_given_is_shown_as_a_default(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for words in VERBS:
        _, shown, _ = lab(*words, "--help")
        assert "(default: None)" not in shown, words
        assert "(default: )" not in shown, words
        assert "{None}" not in shown, words


def test_lines_in_frames_and_short_lines_are_left_alone():
    framed = "╭─ options ─╮\n│ " + "x " * 60 + "│"
    assert help_text(framed, 40) == framed
    assert help_text("short\n\nshort", 40) == "short\n\nshort"
    assert help_text("word " * 20, 40).splitlines() == ["word " * 7 + "word"] * 2 + ["word word word word"]


def test_tyro_still_names_a_subcommand_as_the_overview_reads_it():
    assert tyro.conf.subcommand("demo").name == "demo"  # pyright: ignore[reportAttributeAccessIssue]
