"""Case: one pair and task of a calibration, with its true elicited share, as the organisms' cards tell it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path

from lab.models.source import organism_directory, organism_names
from lab.sampling.decoding import Decoding
from lab.seeds import child_seed
from steering.calibration.effort import Effort
from steering.study.config import Study


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
    """Every case of the installed organisms, in the order of their names."""
    for name in organism_names():
        card = json.loads((organism_directory(name) / "card.json").read_text(encoding="utf-8"))
        truths = card.get("truth", [])
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


def case_study(case: KnownCase, effort: Effort, *, seed: int, device: str) -> Study:
    """The study that measures a case; every case draws problems of its own, so that trials are independent."""
    return Study(
        base=case.base,
        tuned=case.tuned,
        task=case.task,
        old_task=case.old_task,
        n_problems=effort.n_problems,
        n_samples=effort.n_samples,
        n_curve_samples=effort.n_curve_samples,
        n_score_samples=effort.n_score_samples,
        n_old_samples=effort.n_old_samples,
        n_fit_problems=effort.n_fit_problems,
        arms=effort.arms,
        ks=tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= effort.n_curve_samples),
        decoding=Decoding(max_new_tokens=96),
        n_boot=effort.n_boot,
        seed=child_seed(seed, "case", case.name) % 1_000_000,
        batch_size=1024,
        device=device,
    )


def case_out(out: Path, case: KnownCase) -> Path:
    """The directory of a case's study."""
    return out / "cases" / case.directory
