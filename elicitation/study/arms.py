"""Arms: the rungs of the ladder and their controls, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from elicitation.report.study.tables import Family
from lab.test_time.elicit import Elicitation
from lab.test_time.prompts import BestPrompt
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import LikelyToken, SecondChoice, Steer, Takeover
from steering.hybrid.routers import (
    Always,
    AtRandom,
    AtSteps,
    BaseProbe,
    Disagreement,
    EntropyAbove,
    Never,
    Reranked,
    Scheduled,
)
from steering.hybrid.sweep import Sweep, TunedChooser
from steering.hybrid.vector_table import Drawn, PerCategory
from steering.vector import SteeringVector

OPENING = AtSteps((0,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of answering between the base and the tuned model."""

    name: str
    label: str
    kind: Literal["rung", "control"]
    control_of: str | None = None
    method: Hybrid | Elicitation
    temperature: float | None = None
    """Another temperature than the study's: a help of its own, since sampling costs accuracy; 0 draws one sample."""
    is_published: bool = False
    """Whether it is a published method of others, or a control of one."""


def ladder(vectors: Mapping[str, tuple[SteeringVector, ...]], opening_rate: float, top: int) -> tuple[Arm, ...]:
    """The arms that can be listed before any of them has run, each control behind its rung; takeover comes last.

    `vectors` may have `mean`, `fitted` (on all disagreements) and `opening` (on those of first tokens), each with many
    random draws of its norm, `like-mean` and so on; arms whose vectors are missing are left out. `opening_rate` is the
    share of tokens that open a completion, `top` the number of first choices that count as likely.
    """
    steers = {kind: Steer(Drawn(tuple(map(Add, drawn)))) for kind, drawn in vectors.items()}
    arms = (
        Arm(name="greedy", label="+ greedy decoding", kind="rung", method=Hybrid(Never(), Takeover()), temperature=0.0),
    )
    arms += mean_arms(steers) if "mean" in steers else ()
    arms += fitted_arms(steers) if "fitted" in steers else ()
    arms += opening_arms(steers, opening_rate) if "opening" in steers else ()
    return (
        *arms,
        *replacement_arms(top),
        Arm(
            name="takeover-disagreement",
            label="+ token takeover, at disagreement",
            kind="rung",
            method=Hybrid(Disagreement(), Takeover()),
        ),
    )


def replacement_arms(top: int) -> tuple[Arm, ...]:
    """Oracle replacement of reranked tokens, greedily, between the base and the tuned model decoded so."""
    return (
        Arm(
            name="tuned-greedy",
            label="tuned model, greedy decoding",
            kind="rung",
            method=Hybrid(Always(), Takeover()),
            temperature=0.0,
        ),
        Arm(
            name="reranked-greedy",
            label="+ reranked tokens taken over, greedy",
            kind="rung",
            method=Hybrid(Reranked(top), Takeover()),
            temperature=0.0,
        ),
        Arm(
            name="rank2-greedy",
            label="base's second choice there, greedy",
            kind="control",
            control_of="reranked-greedy",
            method=Hybrid(Reranked(top), SecondChoice()),
            temperature=0.0,
        ),
    )


def mean_arms(steers: Mapping[str, Steer]) -> tuple[Arm, ...]:
    """The mean difference, where it was measured."""
    return (
        Arm(
            name="mean-opening",
            label="+ mean difference, first token",
            kind="rung",
            method=Hybrid(OPENING, steers["mean"]),
        ),
        Arm(
            name="random-mean",
            label="random vectors, first token",
            kind="control",
            control_of="mean-opening",
            method=Hybrid(OPENING, steers["like-mean"]),
        ),
    )


def fitted_arms(steers: Mapping[str, Steer]) -> tuple[Arm, ...]:
    """The vector fitted on all disagreements, everywhere and where the tuned model disagrees."""
    fitted, drawn = steers["fitted"], steers["like-fitted"]
    return (
        Arm(
            name="fitted-always",
            label="+ fitted vector, every token",
            kind="rung",
            method=Hybrid(Always(), fitted),
        ),
        Arm(
            name="random-always",
            label="random vectors, every token",
            kind="control",
            control_of="fitted-always",
            method=Hybrid(Always(), drawn),
        ),
        Arm(
            name="fitted-disagreement",
            label="+ fitted vector, at disagreement",
            kind="rung",
            method=Hybrid(Disagreement(), fitted),
        ),
        Arm(
            name="random-disagreement",
            label="random vectors, at disagreement",
            kind="control",
            control_of="fitted-disagreement",
            method=Hybrid(Disagreement(), drawn),
        ),
    )


def opening_arms(steers: Mapping[str, Steer], opening_rate: float) -> tuple[Arm, ...]:
    """The vector fitted on first tokens, at the first token."""
    fitted, drawn = steers["opening"], steers["like-opening"]
    return (
        Arm(
            name="fitted-opening",
            label="+ fitted vector, first token",
            kind="rung",
            method=Hybrid(OPENING, fitted),
        ),
        Arm(
            name="random-opening",
            label="random vectors, first token",
            kind="control",
            control_of="fitted-opening",
            method=Hybrid(OPENING, drawn),
        ),
        Arm(
            name="fitted-scattered",
            label="fitted vector, random tokens",
            kind="control",
            control_of="fitted-opening",
            method=Hybrid(AtRandom(opening_rate), fitted),
        ),
        Arm(
            name="fitted-greedy",
            label="+ fitted vector, first token, greedy",
            kind="rung",
            method=Hybrid(OPENING, fitted),
            temperature=0.0,
        ),
        Arm(
            name="random-greedy",
            label="random vectors, first token, greedy",
            kind="control",
            control_of="fitted-greedy",
            method=Hybrid(OPENING, drawn),
            temperature=0.0,
        ),
    )


def replacement_control(rate: float, top: int) -> Arm:
    """A likely token at random tokens, as often as the replacement rung replaced when it ran."""
    return Arm(
        name="scattered-greedy",
        label="a likely token at random tokens, greedy",
        kind="control",
        control_of="reranked-greedy",
        method=Hybrid(AtRandom(rate), LikelyToken(top)),
        temperature=0.0,
    )


def takeover_control(rate: float) -> Arm:
    """Takeover at random tokens, as often as the takeover rung took over when it ran."""
    return Arm(
        name="takeover-scattered",
        label="token takeover, random tokens",
        kind="control",
        control_of="takeover-disagreement",
        method=Hybrid(AtRandom(rate), Takeover()),
    )


def arm_family(arm: Arm) -> Family:
    """The group of the ladder in which an arm, or the rung that it controls, is shown."""
    if arm.is_published:
        return "published"
    match arm.method:
        case BestPrompt():
            return "prompt"
        case Hybrid(router=Never()):
            return "decoding"
        case Hybrid(intervention=Sweep(chooser=TunedChooser())):
            return "selector"
        case Hybrid(intervention=Steer() | Sweep()) as hybrid if hybrid.needs_tuned:
            return "tuned router"
        case Hybrid(intervention=Steer(table=table) | Sweep(table=table), router=router):
            own = isinstance(router, BaseProbe | EntropyAbove | Scheduled) or isinstance(table, PerCategory)
            return "own router" if own else "vector"
        case Hybrid():
            return "takeover"
        case _:
            return "decoding"
