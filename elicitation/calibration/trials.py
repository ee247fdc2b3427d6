"""Trials: pairs with a known answer -> the study of each -> its estimates against the truth, on replicas too."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from math import nan
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Shaped

from elicitation.calibration.record import LEAKING, SCORED, TRIALS
from elicitation.estimators.estimate import Analysis, Estimator
from elicitation.estimators.ladder_share import PUBLISHED, published_share
from elicitation.estimators.panel import ESTIMATORS, SHARES
from elicitation.study.config import OwnHelp, Study, prepare
from elicitation.study.run import measure
from elicitation.study.tables import read_estimates, read_evidence
from lab.models.source import shipped_names
from lab.organisms.card import read_card
from lab.post_training.path_test import PathTest
from lab.records.provenance import canonical_json, digest, provenance
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import claimed
from lab.records.tables import read_table, write_table, write_text
from lab.sampling.trace import Decoding
from lab.scoring.evidence import ARMS, ArmKey, Control, Evidence, Role
from steering.routing.routing import RoutingFit

NEEDED = (
    ArmKey(Role.VECTOR_FIRST_TOKEN),
    ArmKey(Role.VECTOR_FIRST_TOKEN, "sampled", Control.RANDOM_VECTORS),
    ArmKey(Role.BASE, "greedy"),
    ArmKey(Role.TUNED, "greedy"),
    ArmKey(Role.VECTOR_FIRST_TOKEN, "greedy"),
    ArmKey(Role.VECTOR_FIRST_TOKEN, "greedy", Control.RANDOM_VECTORS),
    ArmKey(Role.RERANKED, "greedy"),
    ArmKey(Role.RERANKED, "greedy", Control.SECOND_CHOICE),
)
"""The arms that estimators look at."""
PUBLISHED_ARMS = (
    ArmKey(Role.P1, "greedy"),
    ArmKey(Role.P1_MENDED, "greedy"),
    ArmKey(Role.P1_MENDED, "greedy", Control.ALL_RANDOM),
    ArmKey(Role.P2, "greedy"),
    ArmKey(Role.P2, "greedy", Control.RANDOM_VECTORS),
)
"""Both published methods, the first with its faults mended, and random vectors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """The sizes of a study, and of what calibration adds to it."""

    n_problems: int = 160
    n_samples: int = 4
    n_curve_samples: int = 48
    n_score_samples: int = 16
    n_old_samples: int = 2
    n_fit_problems: int = 96
    arms: tuple[ArmKey, ...] = NEEDED
    """Of the ladder; all when empty."""
    published_arms: tuple[ArmKey, ...] = PUBLISHED_ARMS
    """Of the published methods; all when empty."""
    n_boot: int = 2000
    n_replicas: int = 30
    """Bootstrap replicas of each problem set, on which intervals are asked again for the truth."""
    n_replica_boot: int = 200
    path: PathTest | None = field(default_factory=lambda: PathTest(n_problems=200))
    """The path test; None shows the one that the package carries."""


FULL = Effort()
QUICK = Effort(n_problems=64, n_curve_samples=32, n_fit_problems=64, n_boot=1000, n_replicas=10, path=None)
EFFORTS = {"quick": QUICK, "full": FULL}


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownCase:
    """A pair whose answer is known."""

    name: str
    """The tuned organism's, with a number behind a slash where it has several tasks."""
    kind: str
    seed: int
    base: str
    tuned: str
    task: str
    old_task: str | None
    """What the tuning was not about; None where it was about all that the base could do."""
    truth: float
    """NaN where there is none."""
    truth_low: float
    truth_high: float

    @property
    def directory(self) -> str:
        """Where its tables go."""
        return self.name.replace("/", "-")


def known_cases() -> Iterator[KnownCase]:
    """Every case of the small models, in the order of their names; those of adapters would take hours."""
    for name in shipped_names():
        card = read_card(name)
        truths = card["truth"] if card["recipe"]["kind"] != "LowRank" else []
        for number, truth in enumerate(truths, start=1):
            share, low, high = (nan if truth[key] is None else truth[key] for key in ("share", "low", "high"))
            yield KnownCase(
                name=name if len(truths) == 1 else f"{name}/{number}",
                kind=truth["kind"],
                seed=card["seed"],
                base=card["parent"],
                tuned=name,
                task=truth["task"],
                old_task=None if card["old_task"] == truth["task"] else card["old_task"],
                truth=share,
                truth_low=low,
                truth_high=high,
            )


SIZES = (
    *("n_problems", "n_samples", "n_curve_samples", "n_score_samples", "n_old_samples", "n_fit_problems"),
    *("n_boot", "published_arms"),
)
"""What the study of a case has of an effort as it is."""


def case_study(case: KnownCase, effort: Effort, *, seed: int, device: str) -> Study:
    """The study that measures a case; every case draws problems of its own, so that trials are independent.

    All arms run where none has anything to recover, so that what each leaks is seen; elsewhere those that estimators
    look at, and the published methods where they are scored beside them.
    """
    leaks = case.kind in LEAKING
    compared = leaks or case.kind in SCORED
    sizes = {name: getattr(effort, name) for name in SIZES}
    pair = {name: getattr(case, name) for name in ("base", "tuned", "task", "old_task")}
    return Study(
        arms=() if leaks else (*effort.arms, *(ArmKey(role, "greedy") for role in PUBLISHED.values() if compared)),
        own_help=OwnHelp() if leaks else None,
        routing=RoutingFit() if leaks else None,
        published_hybrids=compared,
        ks=tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= effort.n_curve_samples),
        decoding=Decoding(max_new_tokens=96),
        seed=child_seed(seed, "case", case.name) % 1_000_000,
        batch_size=1024,
        device=device,
        **pair,
        **sizes,
    )


def case_out(out: Path, case: KnownCase) -> Path:
    """The directory of a case's study."""
    return out / "cases" / case.directory


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
