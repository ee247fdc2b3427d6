"""Damaged files of every kind are refused in one line, or taken where nothing in them tells; no reader does worse."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.liars import KINDS, SECONDS, Outcome, build_all, tried

ROOT = Path(__file__).parents[1]
N_EACH, N_QUICK = 30, 3
SECONDS_TO_BEGIN = 120


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("built")
    build_all(directory, [*KINDS])
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_copies_of_everything_are_refused_or_harmless(kind, built, tmp_path):
    outcomes = [tried(kind, number, built, tmp_path) for number in range(N_QUICK)]
    assert [outcome for outcome in outcomes if outcome.is_fault] == []


@pytest.mark.slow
def test_four_hundred_damaged_copies_are_refused_or_harmless(tmp_path):
    asked = [(kind, number) for kind in KINDS for number in range(N_QUICK, N_QUICK + N_EACH)]
    outcomes = [*outcomes_of(asked, tmp_path)]
    assert len(outcomes) == len(asked) >= 400
    assert [outcome for outcome in outcomes if outcome.is_fault] == []
    # Else the damage is none, or nothing can be read.
    assert sum(outcome.became == "refused" for outcome in outcomes) > 250
    assert sum(outcome.became == "accepted" for outcome in outcomes) > 20


def outcomes_of(asked: list[tuple[str, int]], directory: Path) -> Iterator[Outcome]:
    """What becomes of each copy, in a process that is ended and begun again where one does not come back."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    while asked:
        words = [f"{kind}:{number}" for kind, number in asked]
        command = [sys.executable, str(ROOT / "tests" / "liars.py"), str(directory), *words]
        # Without a buffer, in which lines would lie unseen.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment, cwd=ROOT)
        assert process.stdout is not None
        patience = SECONDS_TO_BEGIN
        while asked:
            ready, _, _ = select.select([process.stdout], [], [], patience)
            line = process.stdout.readline() if ready else b""
            (kind, number), *asked = asked
            if not line:
                process.kill()
                told = f"exit status {process.wait()}" if ready else "no answer"
                yield Outcome(kind, f"number {number}", True, "died" if ready else "hung", told)
                break
            yield Outcome(*json.loads(line))
            patience = SECONDS + 10
        process.kill()
        process.wait()
        process.stdout.close()
