"""Ctrl-C and SIGTERM: what lies on disk is whole, the user is told how to go on, and no traceback is shown."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elicitation.cli.main import Terminated, advice, asked, stoppable
from elicitation.cli.terminal import Terminal
from tests.conftest import one_line

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
ONE_QUICK = [STOPS[0], pytest.param(*STOPS[1], marks=pytest.mark.slow)]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert path.exists()


@pytest.mark.parametrize(("number", "code"), ONE_QUICK)
def test_a_stopped_study_says_how_to_go_on_and_keeps_the_stages_that_are_done(
    nursery, study_argv, tmp_path, number, code
):
    process = nursery.start(tmp_path, study_argv)
    wait_for(tmp_path / "runs" / "traces" / "base")
    os.kill(process, number)
    assert nursery.answer() == code
    told = one_line((tmp_path / "stderr.txt").read_text())
    assert told == f"lab: stopped; to go on: {shlex.join(['lab', *study_argv])}"
    assert [*tmp_path.rglob("*.partial")] == []
    done = [path for path in (tmp_path / "runs").glob("*/**/*") if ".work" not in path.parts]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done if path.is_file()}
    assert any(path.parent.name == "base" for path in before)
    assert not (tmp_path / "runs" / "report.html").exists()
    given_again = shlex.split(told.partition("to go on: ")[2])
    assert nursery.lab(tmp_path, given_again[1:]) == 0, (tmp_path / "stderr.txt").read_text()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    printed = (tmp_path / "stdout.txt").read_text()
    assert "Strict pass@1" in printed
    assert f"report: {tmp_path / 'runs' / 'report.html'}" in printed


SLOW_TO_TIDY = """
import os, signal, sys, time
from elicitation.cli.main import stoppable
number = getattr(signal, sys.argv[1])
with stoppable("lab: stopped; to go on: lab study"):
    try:
        os.kill(os.getpid(), number)
        time.sleep(30)
    finally:
        os.kill(os.getpid(), number)
        time.sleep(30)
"""
ENDING = """
import atexit, os, signal, sys, time
from elicitation.cli.main import stoppable
number = getattr(signal, sys.argv[1])
atexit.register(time.sleep, 30)
atexit.register(os.kill, os.getpid(), number)
with stoppable("lab: stopped; to go on: lab study"):
    os.kill(os.getpid(), number)
    time.sleep(30)
"""


@pytest.mark.parametrize(("number", "code"), STOPS)
@pytest.mark.parametrize("program", [SLOW_TO_TIDY, ENDING], ids=["while it tidies up", "while it ends"])
def test_a_second_stop_ends_at_once_without_a_traceback(program, number, code):
    root = Path(__file__).parents[3]
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program, number.name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert (ended.returncode, ended.stdout) == (code, "")
    assert one_line(ended.stderr) == "lab: stopped; to go on: lab study"
    assert time.monotonic() - start < 25


def test_the_handlers_of_before_are_back_after_work_that_was_not_stopped():
    before = [signal.getsignal(number) for number, _ in STOPS]
    with stoppable("unused"):
        assert [signal.getsignal(number) for number, _ in STOPS] != before
    assert [signal.getsignal(number) for number, _ in STOPS] == before


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stop_that_was_raised_inside_ends_with_its_code(stop, code, capsys):
    with pytest.raises(SystemExit) as left, stoppable("lab: stopped"):
        raise stop
    assert left.value.code == code
    assert capsys.readouterr().err == "lab: stopped\n"


GOES_ON = [
    "demo",
    "study --pair a b --out runs/x",
    "calibrate --quick",
    "vectors --pair a b --out x",
    "attribute --model a --sae x --out x",
    "capture run --model a --traces x --sites blocks.0.hook_resid_post --out x",
    "capture repair x",
    "sae train --store x --sizes 4 --out x",
    "models build zero-base",
]
STARTS_AGAIN = [
    "sample --model a --out 'my traces.parquet'",
    "capture verify x",
    "sae compare --pair a b --out x",
    "features --sae x --store x --out x",
    "taxonomy --store x --out x",
    "export --vector x --out x",
    "models list",
    "models fetch",
    "doctor",
]


@pytest.mark.parametrize("words", GOES_ON)
def test_a_command_that_goes_on_says_so(words):
    assert advised(words) == f"lab: stopped; to go on: lab {words}"


@pytest.mark.parametrize("words", STARTS_AGAIN)
def test_a_command_that_kept_nothing_says_so(words):
    assert advised(words) == f"lab: stopped; nothing was kept; to start again: lab {words}"


def advised(words: str) -> str:
    terminal = Terminal(shlex.split(words))
    command = asked(terminal)
    assert command is not None
    return advice(command, terminal.line)
