"""trials: one case, from its study to the rows that score every estimator on it."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl

from lab.calibration.assess import assess
from lab.calibration.trial import TRIALS
from lab.estimators.rival_share import rival_share
from lab.provenance import canonical_json, digest, provenance
from lab.seeds import numpy_generator
from lab.tables import read_table, write_table, write_text
from steering.calibration.case import KnownCase, case_out, case_study
from steering.calibration.effort import Effort
from steering.calibration.stopwatch import Stopwatch
from steering.study.bench import claimed, prepare
from steering.study.estimated import read_estimates, read_evidence
from steering.study.run import measure


def trials(case: KnownCase, effort: Effort, out: Path, *, seed: int, device: str) -> pl.DataFrame:
    """`TRIALS` of one case; its study lies in `out/cases/<case>`, and is not run twice."""
    directory = case_out(out, case)
    study = case_study(case, effort, seed=seed, device=device)
    finished = out / "trials" / f"{case.directory}-{digest([case, effort, study])}.parquet"
    if finished.exists():
        return read_table(finished, TRIALS)
    stopwatch = Stopwatch()
    bench = prepare(study, directory, stopwatch)
    with claimed(directory, study):
        measured = measure(bench)
        timing = directory / "seconds.json"
        if not timing.exists():
            write_text(timing, canonical_json(stopwatch.by_estimator()))
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
        pl.concat([read_estimates(measured.estimates), rival_share(evidence, analysis)]),
        evidence,
        replace(analysis, n_boot=effort.n_replica_boot),
        json.loads(timing.read_text(encoding="utf-8")),
        n_replicas=effort.n_replicas,
        generator=numpy_generator(seed, "replicas", case.name),
    )
    parents = {"estimates": measured.estimates.digest}
    made_by = provenance("trials", [case, effort], parents, device=bench.device, dtype=bench.dtype, seed=seed)
    write_table(finished, table, TRIALS, made_by)
    return table
