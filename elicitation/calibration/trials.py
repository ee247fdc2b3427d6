"""trials: the study of a case, its estimates against its truth, and again on replicas of its problems."""

import json
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Shaped

from elicitation.calibration.case import Effort, KnownCase, case_out, case_study
from elicitation.calibration.record import TRIALS
from elicitation.estimators.estimate import Analysis, Estimator
from elicitation.estimators.ladder_share import published_share
from elicitation.estimators.panel import ESTIMATORS, SHARES
from elicitation.study.context import claimed, prepare
from elicitation.study.run import measure
from elicitation.study.tables import read_estimates, read_evidence
from lab.records.provenance import canonical_json, digest, provenance
from lab.records.seeds import numpy_generator
from lab.records.tables import read_table, write_table, write_text
from lab.scoring.evidence import ARMS, Control, Evidence, Role


def replica(evidence: Evidence, generator: np.random.Generator) -> Evidence:
    """Evidence on as many problems, drawn from those there are; a problem drawn twice counts as two.

    The old task's problems are their own set, and are drawn on their own.
    """
    ids = np.array(sorted(evidence.verdicts["problem_id"].unique().to_list()))
    drawn = drawing(ids, generator)
    tables = {
        field.name: redrawn(getattr(evidence, field.name), drawn)
        for field in fields(evidence)
        if field.name not in ("arms", "old_verdicts")
    }
    old = evidence.old_verdicts
    if not old.is_empty():
        old = redrawn(old, drawing(np.array(sorted(old["problem_id"].unique().to_list())), generator))
    return Evidence(arms=evidence.arms, **tables, old_verdicts=old)


def drawing(ids: Shaped[np.ndarray, " problem"], generator: np.random.Generator) -> pl.DataFrame:
    """Old and new names of the problems drawn."""
    chosen = generator.choice(ids, size=len(ids))
    return pl.DataFrame({"problem_id": chosen, "copy": [f"{index:06d}" for index in range(len(ids))]})


def redrawn(table: pl.DataFrame, drawn: pl.DataFrame) -> pl.DataFrame:
    """`table` with one copy of a problem's rows for each time it was drawn, under its new name."""
    joined = drawn.join(table, on="problem_id", how="inner")
    return joined.with_columns(pl.col("copy").alias("problem_id")).select(table.columns)


SHARE_ESTIMATORS: tuple[Estimator, ...] = (*(ESTIMATORS[name] for name in SHARES), published_share)
"""Those that give an elicited share, and the published methods that are read as one."""


def assess(
    named: Mapping[str, object],
    truth: float,
    estimates: pl.DataFrame,
    evidence: Evidence,
    analysis: Analysis,
    seconds: Mapping[str, float],
    *,
    n_replicas: int,
    generator: np.random.Generator,
) -> pl.DataFrame:
    """`TRIALS`: one row for each share in `estimates`.

    `named` holds the columns that name the case and its truth, `seconds` what each estimator's evidence cost. Replicas
    are drawn only where there is a truth to cover; one whose share is refused covers nothing.
    """
    covered: dict[tuple[str, str], list[bool]] = {}
    for _ in range(n_replicas if np.isfinite(truth) else 0):
        again = replica(evidence, generator)
        for estimator in SHARE_ESTIMATORS:
            found = estimator(again, analysis).filter(unit="share")
            for name, quantity, low, high in found.select("estimator", "quantity", "low", "high").iter_rows():
                covered.setdefault((name, quantity), []).append(bool(low <= truth <= high))
    kept = ("estimator", "quantity", "value", "low", "high", "refusal")
    return TRIALS.frame(
        [
            {
                **named,
                "truth": truth,
                **{name: row[name] for name in kept},
                "replicas_covered": float(np.mean(covered.get((row["estimator"], row["quantity"]), [np.nan]))),
                "seconds": seconds.get(row["estimator"], 0.0),
            }
            for row in estimates.filter(unit="share").iter_rows(named=True)
        ]
    )


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
    evidence, named = read_evidence(measured.evidence, measured.tables), ("kind", "seed", "truth_low", "truth_high")
    table = assess(
        {"case": case.name, **{name: getattr(case, name) for name in named}},
        case.truth,
        pl.concat([read_estimates(measured.estimates), published_share(evidence, study.analysis)]),
        evidence,
        replace(study.analysis, n_boot=effort.n_replica_boot),
        json.loads(timing.read_text(encoding="utf-8")),
        n_replicas=effort.n_replicas,
        generator=numpy_generator(seed, "replicas", case.name),
    )
    parents = {"estimates": measured.estimates.digest}
    made_by = provenance("trials", [case, effort], parents, device=context.device, dtype=context.dtype, seed=seed)
    write_table(finished, table, TRIALS, made_by)
    return table
