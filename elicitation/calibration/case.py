"""Case: one pair and task of a calibration, with its true elicited share, as the organisms' cards tell it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

from elicitation.calibration.record import LEAKING, SCORED
from elicitation.estimators.ladder_share import PUBLISHED
from elicitation.study.config import OwnHelp, Study
from lab.models.source import shipped_names
from lab.organisms.card import read_card
from lab.post_training.path_test import PathTest
from lab.records.seeds import child_seed
from lab.sampling.trace import Decoding
from lab.scoring.evidence import ArmKey, Control, Role
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
    return Study(
        base=case.base,
        tuned=case.tuned,
        task=case.task,
        old_task=case.old_task,
        arms=() if leaks else (*effort.arms, *(ArmKey(role, "greedy") for role in PUBLISHED.values() if compared)),
        own_help=OwnHelp() if leaks else None,
        routing=RoutingFit() if leaks else None,
        published_hybrids=compared,
        ks=tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= effort.n_curve_samples),
        decoding=Decoding(max_new_tokens=96),
        seed=child_seed(seed, "case", case.name) % 1_000_000,
        batch_size=1024,
        device=device,
        **sizes,
    )


def case_out(out: Path, case: KnownCase) -> Path:
    """The directory of a case's study."""
    return out / "cases" / case.directory
