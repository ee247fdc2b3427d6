"""Arms: the rungs of the ladder and their controls, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, Steer, Takeover
from steering.hybrid.router import Always, AtRandom, AtSteps, Disagreement
from steering.vector import SteeringVector

OPENING = AtSteps((0,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of answering between the base and the tuned model."""

    name: str
    label: str
    kind: Literal["rung", "control"]
    control_of: str | None = None
    hybrid: Hybrid


def ladder(vectors: Mapping[str, tuple[SteeringVector, ...]], opening_rate: float) -> tuple[Arm, ...]:
    """The arms that can be listed before any of them has run, each control behind its rung, from the least help on.

    `vectors` has `mean`, `fitted`, and many random draws of the norm of either, `like-mean` and `like-fitted`;
    `opening_rate` is the share of tokens that open a completion.
    """

    def steer(name: str) -> Steer:
        return Steer(tuple(Add(vector) for vector in vectors[name]))

    return (
        Arm(
            name="mean-opening",
            label="+ mean-difference vector at the first token",
            kind="rung",
            hybrid=Hybrid(OPENING, steer("mean")),
        ),
        Arm(
            name="random-mean",
            label="random vectors of its norm at the first token",
            kind="control",
            control_of="mean-opening",
            hybrid=Hybrid(OPENING, steer("like-mean")),
        ),
        Arm(
            name="fitted-always",
            label="+ fitted vector at every token",
            kind="rung",
            hybrid=Hybrid(Always(), steer("fitted")),
        ),
        Arm(
            name="random-always",
            label="random vectors at every token",
            kind="control",
            control_of="fitted-always",
            hybrid=Hybrid(Always(), steer("like-fitted")),
        ),
        Arm(
            name="fitted-opening",
            label="+ fitted vector at the first token",
            kind="rung",
            hybrid=Hybrid(OPENING, steer("fitted")),
        ),
        Arm(
            name="random-opening",
            label="random vectors at the first token",
            kind="control",
            control_of="fitted-opening",
            hybrid=Hybrid(OPENING, steer("like-fitted")),
        ),
        Arm(
            name="fitted-scattered",
            label="fitted vector at random tokens, as often",
            kind="control",
            control_of="fitted-opening",
            hybrid=Hybrid(AtRandom(opening_rate), steer("fitted")),
        ),
        Arm(
            name="fitted-disagreement",
            label="+ fitted vector where the tuned model disagrees",
            kind="rung",
            hybrid=Hybrid(Disagreement(), steer("fitted")),
        ),
        Arm(
            name="random-disagreement",
            label="random vectors where the tuned model disagrees",
            kind="control",
            control_of="fitted-disagreement",
            hybrid=Hybrid(Disagreement(), steer("like-fitted")),
        ),
        Arm(
            name="takeover-disagreement",
            label="+ token takeover where the tuned model disagrees",
            kind="rung",
            hybrid=Hybrid(Disagreement(), Takeover()),
        ),
    )


def takeover_control(rate: float) -> Arm:
    """Takeover at random tokens, as often as the takeover rung took over when it ran."""
    return Arm(
        name="takeover-scattered",
        label="token takeover at random tokens, as often",
        kind="control",
        control_of="takeover-disagreement",
        hybrid=Hybrid(AtRandom(rate), Takeover()),
    )
