"""What the arms of hand-made evidence are there for, by the names that the tests give them."""

import polars as pl

from lab.scoring.evidence import ARMS, ArmKey, Control, Role

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
"""Names that no study uses: nothing may go by them."""


def arms_of(verdicts: pl.DataFrame) -> pl.DataFrame:
    """`ARMS` of those arms of `KEYS` that have verdicts."""
    return ARMS.frame([row(name, KEYS[name]) for name in verdicts["arm"].unique(maintain_order=True)])


def row(name: str, key: ArmKey) -> dict[str, object]:
    """A row of `ARMS`."""
    return {
        "arm": name,
        "label": name,
        "role": key.role,
        "decoding": key.decoding,
        "control": key.control,
        "control_of": None,
    }
