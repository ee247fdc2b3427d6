"""run: a calibration from the installed organisms to its tables and its page."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl
import torch

from lab.calibration.agreement import AGREEMENT, agreement
from lab.calibration.leak import LEAKING, LEAKS, Case, leaks
from lab.calibration.record import RECORDS, records
from lab.calibration.trial import TRIALS
from lab.errors import ModelError
from lab.estimators.estimate import ESTIMATES
from lab.estimators.forgetting import DIVERGENCE, DROP
from lab.models.device import resolve_device
from lab.provenance import digest, file_digest, provenance
from lab.report.calibration_page import CalibrationPage, render_calibration
from lab.report.forgetting_scatter import FORGETTING
from lab.report.ledger import LADDER
from lab.report.path_plot import PATH
from lab.report.provenance_section import TableFile
from lab.tables import Schema, read_table, write_table, write_text
from steering.calibration.case import KnownCase, case_out, known_cases
from steering.calibration.effort import Effort
from steering.calibration.paths import path_rows, path_starts, shipped_paths
from steering.calibration.trials import trials

Watch = Callable[[str, int, int], None]
"""Told (stage, items just done, items in all)."""


class Calibrated(NamedTuple):
    """Where a calibration's results lie."""

    page: Path
    records: pl.DataFrame
    trials: pl.DataFrame


def calibrate(
    effort: Effort, out: Path, *, seed: int, device: str, jobs: int, only: Sequence[str], command: str, watch: Watch
) -> Calibrated:
    """Runs every case that is not yet there, then writes trials, records, agreement and `calibration.html`.

    `jobs` cases run at once, one thread each, so that they do not wait for each other's cores; `only` names organisms
    to keep to, all when empty. Raises ModelError where `only` names none with a known answer.
    """
    chosen_device = resolve_device(device)
    cases = [case for case in known_cases() if not only or case.tuned in only]
    if not cases:
        known = ", ".join(dict.fromkeys(case.tuned for case in known_cases()))
        raise ModelError(f"no organism with a known answer among {', '.join(only)}: there are {known}")
    started = time.monotonic()
    run_trials = partial(trials, effort=effort, out=out, seed=seed, device=str(chosen_device))
    table = TRIALS.checked(pl.concat(in_parallel("cases", run_trials, cases, jobs, watch)))
    path = shipped_paths()
    if effort.path is not None and (starts := path_starts(cases)):
        run_path = partial(path_rows, test=effort.path, out=out, seed=seed, device=str(chosen_device))
        path = PATH.checked(pl.concat(in_parallel("paths", run_path, starts, jobs, watch)))
    found = {"trials": table, "records": records(table), "agreement": agreement(table), "leaks": leaked(cases, out)}
    schemas: dict[str, Schema] = {
        "trials": TRIALS,
        "records": RECORDS,
        "agreement": AGREEMENT,
        "leaks": LEAKS,
        "path": PATH,
    }
    if effort.path is not None:
        found["path"] = path
    made_by = provenance(
        "calibrate", effort, {"cases": digest(cases)}, device=str(chosen_device), dtype="float32", seed=seed
    )
    files = []
    for name, frame in found.items():
        file = out / f"{name}.parquet"
        write_table(file, frame, schemas[name], made_by)
        files.append(TableFile(path=file.name, schema=schemas[name], n_rows=frame.height, digest=file_digest(file)))
    page = CalibrationPage(
        title="Calibration",
        trials=table,
        records=found["records"],
        agreement=found["agreement"],
        leaks=found["leaks"],
        forgetting=forgetting_rows(cases, out),
        path=path,
        made_by=made_by,
        command=command,
        minutes=(time.monotonic() - started) / 60,
        files=tuple(files),
    )
    write_text(out / "calibration.html", render_calibration(page))
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
