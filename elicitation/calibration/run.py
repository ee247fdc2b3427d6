"""run: a calibration from the installed organisms to its tables and its page."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import polars as pl
import torch

from elicitation.calibration.assess import assess
from elicitation.calibration.case import EFFORTS, Effort, KnownCase, case_out, case_study, known_cases
from elicitation.calibration.leak import LEAKING, LEAKS, Case, leaks
from elicitation.calibration.paths import path_rows, path_starts, shipped_paths
from elicitation.calibration.record import AGREEMENT, RECORDS, TRIALS, agreement, records
from elicitation.estimators.estimate import ESTIMATES
from elicitation.estimators.forgetting import DIVERGENCE, DROP
from elicitation.estimators.ladder_share import published_share
from elicitation.report.calibration.page import PATH, CalibrationPage, render_calibration
from elicitation.report.kit.provenance_section import TableFile
from elicitation.report.study.forgetting_scatter import FORGETTING
from elicitation.report.study.tables import LADDER
from elicitation.study.context import prepare
from elicitation.study.directory import claimed, write_readme
from elicitation.study.run import measure
from elicitation.study.tables import read_estimates, read_evidence
from lab.models.device import resolve_device
from lab.records.errors import ModelError
from lab.records.provenance import canonical_json, digest, file_digest, provenance
from lab.records.seeds import numpy_generator
from lab.records.tables import Schema, read_table, write_table, write_text
from lab.scoring.evidence import ARMS, Control, Role


class Stopwatch:
    """A study's `Watch` that adds up the time between reports, under the stage that reports at the end of it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.last = time.monotonic()

    def __call__(self, stage: str, n_done: int, _: int) -> None:
        """A report of nothing done opens a stage: the time before it is the work that led there."""
        now = time.monotonic()
        key = stage if n_done else f"before {stage}"
        self.spent[key] = self.spent.get(key, 0.0) + now - self.last
        self.last = now

    def by_estimator(self, arms: pl.DataFrame) -> dict[str, float]:
        """Seconds for the evidence that only this estimator, or only it and one other, needs; `arms` is `ARMS`."""

        def of(wanted: pl.Expr, when: str = "") -> float:
            return sum(self.spent.get(f"{when}traces: {name}", 0.0) for name in arms.filter(wanted)["arm"])

        role, greedy, control = pl.col("role"), pl.col("decoding") == "greedy", pl.col("control")
        vector = (role == Role.VECTOR_FIRST_TOKEN) & control.fill_null("").is_in(["", Control.RANDOM_VECTORS])
        fitted = sum(seconds for key, seconds in self.spent.items() if key.startswith("traces: fit-"))
        reading = self.spent.get("reading", 0.0)
        return {
            "E1": 0.0,
            "E2": reading,
            "E3": reading,
            "E4": of((role == Role.RERANKED) | ((role == Role.TUNED) & greedy)),
            # Vectors are fitted before the base is decoded greedily, the published methods before their first arm.
            "E5": fitted + of(vector) + of((role == Role.BASE) & greedy, "before "),
            "P1": of(role.str.starts_with(Role.P1)) + of(role.str.starts_with(Role.P1), "before "),
            "P2": of(role.str.starts_with(Role.P2)),
        }


def trials(case: KnownCase, effort: Effort, out: Path, *, seed: int, device: str) -> pl.DataFrame:
    """`TRIALS` of one case; its study lies in `out/cases/<case>`, and is not run twice."""
    directory = case_out(out, case)
    study = case_study(case, effort, seed=seed, device=device)
    finished = out / "trials" / f"{case.directory}-{digest([case, effort, study])}.parquet"
    if finished.exists():
        return read_table(finished, TRIALS)
    stopwatch = Stopwatch()
    context = prepare(study, directory, stopwatch)
    with claimed(directory, study):
        measured = measure(context)
        timing = directory / "seconds.json"
        if not timing.exists():
            arms = read_table(measured.tables.path / "arms.parquet", ARMS)
            write_text(timing, canonical_json(stopwatch.by_estimator(arms)))
    analysis = study.analysis
    evidence = read_evidence(measured.evidence, measured.tables)
    table = assess(
        {
            "case": case.name,
            "kind": case.kind,
            "seed": case.seed,
            "truth_low": case.truth_low,
            "truth_high": case.truth_high,
        },
        case.truth,
        pl.concat([read_estimates(measured.estimates), published_share(evidence, analysis)]),
        evidence,
        replace(analysis, n_boot=effort.n_replica_boot),
        json.loads(timing.read_text(encoding="utf-8")),
        n_replicas=effort.n_replicas,
        generator=numpy_generator(seed, "replicas", case.name),
    )
    parents = {"estimates": measured.estimates.digest}
    made_by = provenance("trials", [case, effort], parents, device=context.device, dtype=context.dtype, seed=seed)
    write_table(finished, table, TRIALS, made_by)
    return table


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

Watch = Callable[[str, int, int], None]
"""Told (stage, items just done, items in all)."""


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
