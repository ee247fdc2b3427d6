"""Effort: how much is sampled for each case of a calibration."""

from dataclasses import dataclass

from lab.post_training.path_test import PathTest

NEEDED = (
    "greedy",
    "fitted-opening",
    "random-opening",
    "fitted-greedy",
    "random-greedy",
    "tuned-greedy",
    "reranked-greedy",
    "rank2-greedy",
)
"""The arms that estimators look at."""
RIVALLED = ("p1", "p1-mended", "p1-mended-random", "p2", "p2-norm-matched")
"""Both published methods, the first with its faults mended, and random vectors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """The sizes of a study, and of what calibration adds to it."""

    n_problems: int
    n_samples: int
    n_curve_samples: int
    n_score_samples: int
    n_old_samples: int
    n_fit_problems: int
    arms: tuple[str, ...]
    """Of the ladder; all when empty."""
    rival_arms: tuple[str, ...]
    """Of the published methods; all when empty."""
    n_boot: int
    n_replicas: int
    """Bootstrap replicas of each problem set, on which intervals are asked again for the truth."""
    n_replica_boot: int
    path: PathTest | None
    """The path test; None shows the one that the package carries."""


QUICK = Effort(
    n_problems=64,
    n_samples=4,
    n_curve_samples=32,
    n_score_samples=16,
    n_old_samples=2,
    n_fit_problems=64,
    arms=NEEDED,
    rival_arms=RIVALLED,
    n_boot=1000,
    n_replicas=10,
    n_replica_boot=200,
    path=None,
)
FULL = Effort(
    n_problems=160,
    n_samples=4,
    n_curve_samples=48,
    n_score_samples=16,
    n_old_samples=2,
    n_fit_problems=96,
    arms=NEEDED,
    rival_arms=RIVALLED,
    n_boot=2000,
    n_replicas=30,
    n_replica_boot=200,
    path=PathTest(n_problems=200),
)
