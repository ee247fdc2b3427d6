"""A process killed in the middle of writing a file leaves nothing that the same command does not mend."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.elicitation.cli.test_sae_features_attribute_taxonomy import TASK, chain_commands, files, stores

__all__ = ["stores"]
pytestmark = pytest.mark.slow
VERBS = ("sample", "capture", "saes", "effects")
SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def commands(nursery, stores, checkpoints) -> dict[str, tuple[str, ...]]:
    """By the name of what each writes, without its --out; every one has run once, into `whole`."""
    known, model = chain_commands(checkpoints.tuned), ("--model", str(checkpoints.tuned))
    sampled = ("sample", *model, *TASK, "--n-problems", "25", "--n-samples", "3", "--max-new-tokens", "12")
    read = ("capture", "run", *model, "--traces", "t.parquet", "--sites", *SITES, "--positions", "all")
    found = {
        "sample": sampled,
        "capture": (*read, "--shard-mib", "0.1"),
        **{name: known[name][:-2] for name in ("saes", "effects")},
    }
    # An attribution needs the SAEs where its command names them.
    assert nursery.lab(stores, known["saes"]) == 0, (stores / "stderr.txt").read_text()
    for name, argv in found.items():
        assert nursery.lab(stores, (*argv, "--out", out(name, "whole"))) == 0, (stores / "stderr.txt").read_text()
    return found


def out(name: str, place: str) -> str:
    return f"{place}/{name}" + (".parquet" if name == "sample" else "")


def results(directory: Path, name: str) -> dict[str, bytes]:
    return {file: told for file, told in files(directory).items() if file.partition("/")[0].partition(".")[0] == name}


def half_written(directory: Path) -> set[Path]:
    found = [*directory.rglob(".*.partial"), *directory.rglob(".tmp??????")]
    return {path for path in found if path.is_file() and path.stat().st_size}


def killed_at_sight(nursery, stores, argv, place: Path, n_seen: int) -> bool:
    """Kills `argv` with the `n_seen`th file that is seen half written; False where it ended before."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    process, seen = nursery.start(stores, argv), set()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        try:
            seen |= half_written(place)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if len(seen) >= n_seen or state == "Z":
            break
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return nursery.answer() == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", VERBS)
def test_the_same_command_ends_with_the_bytes_of_one_that_was_never_stopped(nursery, stores, commands, name, seed):
    draw, place = random.Random(f"{name} {seed}"), stores / f"killed-{seed}"
    argv = (*commands[name], "--out", out(name, place.name))
    whole = results(stores / "whole", name)
    if seed < 2:
        assert any(killed_at_sight(nursery, stores, argv, place, n) for n in (draw.choice((1, 2)), 1, 1, 1))
    else:
        # Before the last byte of some file, at an exact place, and by the kernel: nothing is tidied up either.
        limit = int(len(draw.choice([*whole.values()])) * draw.uniform(0.3, 0.99))
        assert nursery.lab(stores, argv, die_beyond=limit) == -signal.SIGXFSZ
    assert results(place, name) != whole
    assert nursery.lab(stores, argv) == 0, (stores / "stderr.txt").read_text()
    assert results(place, name) == whole
    assert [path for path in place.rglob(".*") if path.name.startswith(f".{name}")] == []
