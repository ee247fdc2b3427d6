"""Hand-made evidence: its arms go by names that no study uses, so that nothing can go by them."""

import polars as pl

from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES, ArmKey, Control, Evidence, Role, arm_row

KEYS = {
    "base": ArmKey(Role.BASE),
    "tuned": ArmKey(Role.TUNED),
    "base greedy": ArmKey(Role.BASE, "greedy"),
    "tuned greedy": ArmKey(Role.TUNED, "greedy"),
    "vector": ArmKey(Role.VECTOR_FIRST_TOKEN),
    "vector greedy": ArmKey(Role.VECTOR_FIRST_TOKEN, "greedy"),
    "random": ArmKey(Role.VECTOR_FIRST_TOKEN, "sampled", Control.RANDOM_VECTORS),
    "random greedy": ArmKey(Role.VECTOR_FIRST_TOKEN, "greedy", Control.RANDOM_VECTORS),
    "reranked greedy": ArmKey(Role.RERANKED, "greedy"),
    "second greedy": ArmKey(Role.RERANKED, "greedy", Control.SECOND_CHOICE),
    "scattered greedy": ArmKey(Role.RERANKED, "greedy", Control.RANDOM_TOKENS),
    "first method": ArmKey(Role.P1, "greedy"),
    "second method": ArmKey(Role.P2, "greedy"),
}


def arms_of(verdicts: pl.DataFrame) -> pl.DataFrame:
    """`ARMS` of those arms of `KEYS` that have verdicts."""
    return ARMS.frame([arm_row(name, KEYS[name]) for name in verdicts["arm"].unique(maintain_order=True)])


def evidence_of(
    verdicts: pl.DataFrame,
    *,
    scores: pl.DataFrame | None = None,
    ranks: pl.DataFrame | None = None,
    process: pl.DataFrame | None = None,
    old_verdicts: pl.DataFrame | None = None,
) -> Evidence:
    """Evidence of arms of `KEYS`; tables that are not given have no rows."""
    return Evidence(
        arms=arms_of(verdicts),
        verdicts=verdicts,
        scores=SCORES.frame([]) if scores is None else scores,
        ranks=RANKS.frame([]) if ranks is None else ranks,
        process=PROCESS.frame([]) if process is None else process,
        old_verdicts=VERDICTS.frame([]) if old_verdicts is None else old_verdicts,
    )
