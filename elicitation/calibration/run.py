"""run: a calibration from the installed organisms to its tables and its page."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import polars as pl
import torch

from elicitation.calibration.record import LEAKING, TABLES, TRIALS, Case, agreement, leaks, records, shipped
from elicitation.calibration.trials import EFFORTS, Effort, KnownCase, case_out, known_cases, trials
from elicitation.estimators.estimate import ESTIMATES
from elicitation.estimators.forgetting import DIVERGENCE, DROP
from elicitation.pages.calibration.figures import FORGETTING, PATH
from elicitation.pages.calibration.page import CalibrationPage, render_calibration
from elicitation.pages.kit.document import Origin
from elicitation.pages.study.tables import LADDER
from elicitation.study.config import Watch
from elicitation.study.run import table_file
from lab.metrics.bootstrap import interval_columns, mean_interval, resamples
from lab.models.device import resolve_device
from lab.models.load import load
from lab.models.source import BuiltInModel
from lab.post_training.path_test import PathTest, path_test, strict_rates
from lab.records.errors import ModelError, WorkerError
from lab.records.provenance import digest, provenance
from lab.records.seeds import numpy_generator
from lab.records.stage import alone, write_readme
from lab.records.tables import read_table, write_table, write_text
from lab.tasks.source import open_task, task_source

N_TEST_PROBLEMS, N_TEST_SAMPLES, N_BOOT = 200, 8, 2000
"""Of the path test."""
SCHEMAS = {schema.name: schema for schema in (*TABLES, PATH)}
PARTS = {
    "calibration.html": "how far every estimator is off, and what every arm leaks: begin here",
    "records.parquet": "how well each estimator did over all trials",
    "trials.parquet": "every estimate of every case against its truth",
    "agreement.parquet": "how far every two estimators lie apart",
    "leaks.parquet": "what every arm recovered where there is nothing to recover",
    "path.parquet": "how far each base gets by itself",
    "cases": "the study of each case, as `lab study` leaves it but for its report",
    "trials": "the trials of each case",
    "paths": "what each base did",
}
"""Name in the directory of a calibration -> what it is."""


class Calibrated(NamedTuple):
    """Where a calibration's results lie."""

    page: Path
    records: pl.DataFrame
    trials: pl.DataFrame


def calibrate(
    effort: Effort | Literal["quick", "full"],
    out: Path | str,
    *,
    seed: int = 0,
    device: str = "auto",
    jobs: int = 1,
    only: Sequence[str] = (),
    command: str = "elicitation.calibrate",
    watch: Watch = lambda *_: None,
) -> Calibrated:
    """Runs every case that is not yet there, then writes trials, records, agreement and `calibration.html`.

    `jobs` cases run at once, one thread each, so that they do not wait for each other's cores; `only` names organisms
    to keep to, all when empty. Raises ModelError where `only` names none with a known answer.

    >>> el.calibrate("quick", "runs/none", only=["nobody"])
    Traceback (most recent call last):
    lab.records.errors.ModelError: no organism with a known answer among nobody: there are ...
    """
    out, effort = Path(out), EFFORTS[effort] if isinstance(effort, str) else effort
    chosen_device = resolve_device(device)
    cases = [case for case in known_cases() if not only or case.tuned in only]
    if not cases:
        known = ", ".join(dict.fromkeys(case.tuned for case in known_cases()))
        raise ModelError(f"no organism with a known answer among {', '.join(only)}: there are {known}")
    started = time.monotonic()
    run_trials = partial(trials, effort=effort, out=out, seed=seed, device=str(chosen_device))
    with alone(out):
        table = TRIALS.checked(pl.concat(in_parallel("cases", run_trials, cases, jobs, watch)))
    found = {"trials": table, "records": records(table), "agreement": agreement(table), "leaks": leaked(cases, out)}
    path = shipped(PATH, "paths")
    if effort.path is not None:
        if starts := path_starts(cases):
            run_path = partial(path_rows, test=effort.path, out=out, seed=seed, device=str(chosen_device))
            path = PATH.checked(pl.concat(in_parallel("paths", run_path, starts, jobs, watch)))
        found["path"] = path
    parents = {"cases": digest(cases)}
    made_by = provenance("calibrate", effort, parents, device=str(chosen_device), dtype="float32", seed=seed)
    for name, frame in found.items():
        write_table(out / f"{name}.parquet", frame, SCHEMAS[name], made_by)
    files = tuple(table_file(out / f"{name}.parquet", SCHEMAS[name], f"{name}.parquet") for name in found)
    page = CalibrationPage(
        title="Calibration",
        **{name: found[name] for name in ("trials", "records", "agreement", "leaks")},
        forgetting=forgetting_rows(cases, out),
        path=path,
        minutes=(time.monotonic() - started) / 60,
        origin=Origin(made_by=made_by, command=command, files=files),
    )
    write_text(out / "calibration.html", render_calibration(page))
    write_readme(out, f"A calibration, by: {command}", PARTS, {})
    return Calibrated(out / "calibration.html", found["records"], table)


Item = TypeVar("Item")


def in_parallel(
    stage: str, work: Callable[[Item], pl.DataFrame], items: Sequence[Item], jobs: int, watch: Watch
) -> list[pl.DataFrame]:
    """`work` on every item, in the items' order, by `jobs` processes; the first fault stops the rest."""
    watch(stage, 0, len(items))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=quietly) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                watch(stage, 1, len(items))
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker ended before its case, most often for want of memory: try fewer --jobs; what is finished is "
                "kept, and the same command goes on from there"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # A case takes minutes; each is resumable, and a user who stops will not wait for it.
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        return [future.result() for future in futures]


def quietly() -> None:
    """Sets up a worker: one thread, no bars or warnings of libraries, and Ctrl-C left to the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def leaked(cases: Sequence[KnownCase], out: Path) -> pl.DataFrame:
    """`LEAKS`: what every arm recovered on the organisms where there is nothing to recover."""
    return leaks(
        [
            Case(case.name, case.kind, read_table(case_out(out, case) / "tables" / "ladder.parquet", LADDER))
            for case in cases
            if case.kind in LEAKING
        ]
    )


def forgetting_rows(cases: Sequence[KnownCase], out: Path) -> pl.DataFrame:
    """`FORGETTING`: what each case lost on its old task against how far tuning moved the model on the new one."""
    rows: list[dict[str, object]] = []
    for case in cases:
        estimates = read_table(case_out(out, case) / "estimates" / "estimates.parquet", ESTIMATES)
        of = dict(estimates.filter(pl.col("estimator") == "E10").select("quantity", "value").iter_rows())
        rows.append({"case": case.name, "kl": of[DIVERGENCE], "drop": of[DROP]})
    return FORGETTING.frame(rows).filter(pl.col("kl").is_finite() & pl.col("drop").is_finite())


@dataclass(frozen=True, kw_only=True, slots=True)
class PathStart:
    """A base model and the task it is to get better at by itself."""

    base: str
    task: str


def path_starts(cases: Sequence[KnownCase]) -> tuple[PathStart, ...]:
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
    routes = {0: "base model", 1: "one round", test.n_rounds: f"{test.n_rounds} rounds"}
    rows: list[dict[str, object]] = []
    for n_rounds, route in routes.items():
        model = load(BuiltInModel(name=start.base), device=torch.device(device), dtype=torch.float32)
        # The trainer's bars and figures would bury the one bar of all paths.
        with tempfile.TemporaryDirectory() as work, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            path_test(model, learned, test, n_rounds=n_rounds, seed=seed, work=Path(work))
        rates = strict_rates(model, tested, N_TEST_SAMPLES, test.decoding, seed=seed)
        found = interval_columns(mean_interval(rates, weights))
        rows.append({"base": start.base, "task": start.task, "route": route, **found})
    table = PATH.frame(rows)
    write_table(finished, table, PATH, provenance("path", test, {}, device=device, dtype="float32", seed=seed))
    return table
