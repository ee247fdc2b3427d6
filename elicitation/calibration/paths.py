"""paths: the path test on the bases of the suite, and the table of it that ships with the package."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from elicitation.calibration.case import KnownCase
from elicitation.report.calibration.figures import PATH
from lab.metrics.bootstrap import mean_interval, resamples
from lab.models.load import load
from lab.models.source import BuiltInModel
from lab.post_training.path_test import PathTest, path_test, strict_rates
from lab.records.provenance import digest, provenance
from lab.records.seeds import numpy_generator
from lab.records.tables import read_table, write_table
from lab.tasks.source import open_task, task_source

N_TEST_PROBLEMS, N_TEST_SAMPLES, N_BOOT = 200, 8, 2000
SHIPPED = Path(__file__).parent / "shipped" / "paths.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class PathStart:
    """A base model and the task it is to get better at by itself."""

    base: str
    task: str


def path_starts(cases: list[KnownCase]) -> tuple[PathStart, ...]:
    """The distinct bases and tasks of seed 0: skills that are locked, rare, in parts, or missing."""
    kinds = ("LOCKED", "DILUTED", "ATOMS", "TAUGHT")
    starts = [PathStart(base=case.base, task=case.task) for case in cases if case.kind in kinds and case.seed == 0]
    return tuple(dict.fromkeys(starts))


def path_rows(start: PathStart, test: PathTest, out: Path, *, seed: int, device: str) -> pl.DataFrame:
    """`PATH` rows of one start: before, after one round, after several; kept in `out/paths`, and not run twice."""
    finished = out / "paths" / f"{digest([start, test, seed])}.parquet"
    if finished.exists():
        return read_table(finished, PATH)
    source = task_source(start.task)
    learned = open_task(source, n_problems=test.n_problems, seed=seed, held_out=False)
    tested = open_task(source, n_problems=N_TEST_PROBLEMS, seed=seed)
    weights = resamples(N_TEST_PROBLEMS, N_BOOT, numpy_generator(seed, "paths"))
    rows: list[dict[str, object]] = []
    for n_rounds in (0, 1, test.n_rounds):
        model = load(BuiltInModel(name=start.base), device=torch.device(device), dtype=torch.float32)
        # The trainer's bars and figures would bury the one bar of all paths.
        with tempfile.TemporaryDirectory() as work, silence():
            path_test(model, learned, test, n_rounds=n_rounds, seed=seed, work=Path(work))
        rates = strict_rates(model, tested, N_TEST_SAMPLES, test.decoding, seed=seed)
        interval = mean_interval(rates, weights)
        rows.append(
            {
                "base": start.base,
                "task": start.task,
                "route": {0: "base model", 1: "one round"}.get(n_rounds, f"{n_rounds} rounds"),
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
            }
        )
    table = PATH.frame(rows)
    write_table(finished, table, PATH, provenance("path", test, {}, device=device, dtype="float32", seed=seed))
    return table


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps what is printed within the block from the terminal; exceptions come out as ever."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def shipped_paths() -> pl.DataFrame:
    """The path test that the package carries; no rows where it carries none."""
    return read_table(SHIPPED, PATH) if SHIPPED.exists() else PATH.frame([])
