"""The help of the command line: an example of every verb, which works as it stands, within the terminal's columns."""

import inspect
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import tyro

from elicitation.cli.main import VERBS, Command, asked, docstring, parse
from elicitation.cli.terminal import Terminal
from lab.records.errors import TaskError

ROOT = Path(__file__).parents[3]
EXAMPLE = re.compile(r"^Example: (lab .+)$", re.MULTILINE)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
COMMAND = re.compile(r"^(lab (?:[^\n]*\\\n)*[^\n]+)$", re.MULTILINE)
MODULES = {verb: import_module(module) for verb, module in VERBS.items()}
SEVERAL = {verb: module.COMMAND for verb, module in MODULES.items() if isinstance(module.COMMAND, dict)}
HELPS = {(verb,): module.__doc__ or "" for verb, module in MODULES.items()} | {
    (verb, word): kind.__doc__ or "" for verb, kinds in SEVERAL.items() for word, kind in kinds.items()
}
"""The words of every verb, and its help."""
FLAGS = [words for words in HELPS if words[0] not in SEVERAL or len(words) == 2]
"""Those that take flags."""


def typed(line: str) -> Command | None:
    return asked(Terminal(shlex.split(line)[1:]))


def test_verbs_below_verbs_are_found():
    assert {("study",), ("capture", "repair"), ("sae", "compare"), ("models", "list"), ("doctor",)} <= set(HELPS)


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_every_verb_has_an_example_of_itself_that_parses(words):
    (example,) = EXAMPLE.findall(inspect.cleandoc(HELPS[words]))
    assert shlex.split(example)[: len(words) + 1] == ["lab", *words]
    command = typed(example)
    kind = MODULES[words[0]].COMMAND
    assert isinstance(command, tuple(kind.values()) if isinstance(kind, dict) else kind)


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line in COMMAND.findall(page.read_text())]
)
def test_every_command_that_a_page_shows_parses(page, line):
    # Counts that the page leaves to its reader are words in capitals.
    assert typed(re.sub(r" [A-Z]{1,4} ", " 7 ", line.replace("\\\n", " "))) is not None, page


def test_an_example_with_a_flag_that_is_not_there_is_noticed(capsys):
    with pytest.raises(SystemExit, match="2"):
        typed("lab demo --depth 3")
    assert "--depth" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), *HELPS], ids=" ".join)
def test_no_line_of_help_is_wider_than_the_terminal_and_no_missing_value_is_shown_as_a_default(lab, monkeypatch, words):
    for columns in (80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, shown, complaint = lab(*words, "--help")
        assert (code, complaint) == (0, "")
        assert [line for line in shown.splitlines() if len(line) > columns] == []
        for noise in ("(default: None)", "(default: )", "None}", "when None"):
            assert noise not in shown


@pytest.mark.parametrize("words", FLAGS, ids=" ".join)
def test_every_flag_says_what_it_is(lab, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "400")
    _, shown, _ = lab(*words, "--help")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if match := re.match(r"│ (--[a-z][\w.-]*( \S+)?( \[.*?\]\])?)", line):
            said = line[match.end() :] + ("" if re.match(r"│ +--", after) else after)
            assert re.search(r"[A-Za-z]{2}", re.sub(r"\((default.*?|required)\)", "", said)), line


def test_an_example_that_is_cut_can_be_copied_whole(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    _, shown, _ = lab("sae", "train", "--help")
    start = shown.index("Example: ") + len("Example: ")
    copied = shown[start : shown.index("\n\n", start)]
    assert copied.count("\\\n") >= 2
    (example,) = EXAMPLE.findall(inspect.cleandoc(HELPS["sae", "train"]))
    assert shlex.split(copied.replace("\\\n", " ")) == shlex.split(example)


@pytest.mark.parametrize("words", [(), *((verb,) for verb in SEVERAL)], ids=" ".join)
def test_a_verb_of_several_alone_says_what_each_is_for(lab, words):
    code, shown, complaint = lab(*words)
    assert (code, complaint) == (0, "")
    assert shown == lab(*words, "--help")[1]
    for below, text in HELPS.items():
        if below[:-1] == words:
            purpose = inspect.cleandoc(text).partition("\n\n")[0]
            assert f"• {below[-1]} {' '.join(purpose.split())}" in " ".join(shown.replace("│", " ").split())
    assert words or "New here? `lab demo`" in shown


def test_the_overview_reads_docstrings_of_modules_that_it_does_not_import():
    assert {verb: docstring(module) for verb, module in VERBS.items()} == {
        verb: inspect.cleandoc(module.__doc__ or "") for verb, module in MODULES.items()
    }


def test_the_overview_loads_no_heavy_library_and_answers_within_a_second_of_an_idle_machine():
    code = "import sys; from elicitation.cli.main import main; main(); print('LOADED', *sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}

    def ran(code: str) -> tuple[float, str]:
        start = time.perf_counter()
        command = [sys.executable, "-c", code, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return time.perf_counter() - start, done.stdout

    runs = [(ran("pass")[0], *ran(code)) for _ in range(3)]
    loaded = set(runs[0][2].partition("LOADED")[2].split())
    assert not {"torch", "transformers", "polars", "plotly", "numpy"} & loaded
    assert not {name for name in loaded if name.startswith(("elicitation.study", "elicitation.cli.study", "probes"))}
    # Processor time is shared with whatever else runs here, so the bare interpreter is the yardstick.
    bare, ours = (sorted(times)[1] for times in zip(*((bare, ours) for bare, ours, _ in runs), strict=True))
    assert ours < max(1.0, 20 * bare)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    size: int = 2
    """Its size."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise TaskError(f"size {self.size}: want at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration."""

    name: str = field(metadata={"flag": None})
    plain: Part = field(default_factory=Part, metadata={"flag": ""})
    other: Part | None = field(default_factory=lambda: Part(size=3))
    """Another part."""
    seen: int = field(default=1, metadata={"flag": "looks"})
    """How
    often."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A command."""

    RESUMES: ClassVar[bool] = False
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: Config(name="given"))

    def run(self, terminal: Terminal) -> None:
        """Does nothing."""


def test_flags_are_the_fields_of_configurations_as_their_metadata_says(capsys):
    argv = ["--size", "5", "--other.size", "7", "--looks", "9"]
    config = Config(name="given", plain=Part(size=5), other=Part(size=7), seen=9)
    assert parse(Example, argv, prog="lab").config == config
    # What is not typed is that of a default.
    assert parse(Example, ["--size", "1"], prog="lab", default=Example(config=config)).config == Config(
        name="given", plain=Part(size=1), other=Part(size=7), seen=9
    )
    with pytest.raises(SystemExit, match="0"):
        parse(Example, ["--help"], prog="lab")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--name" not in shown
    assert "How often. (default: 1)" in shown
    assert "Another part." in shown


def test_what_a_configuration_refuses_is_its_own_error_however_deep_it_lies():
    with pytest.raises(TaskError, match=r"^size 0: want at least 1$"):
        parse(Example, ["--other.size", "0"], prog="lab")
