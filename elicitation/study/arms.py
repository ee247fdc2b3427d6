"""Arms: the rungs of the ladder and their controls, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from elicitation.report.study.tables import Family
from lab.scoring.evidence import ArmKey, Control, Role
from lab.test_time.method import Elicitation
from lab.test_time.prompts import BestPrompt
from steering.edit import Add
from steering.edited import Edited
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

FIRST_TOKEN = AtSteps((0,))
Method: TypeAlias = Hybrid | Edited | Elicitation
"""How an arm answers: both models in step, the base under edits, or the base by prompt and decoding alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of answering between the base and the tuned model."""

    role: Role
    """What it is there for; a control has the role of its rung."""
    name: str
    label: str
    method: Method
    control: Control | None = None
    """What it controls for; None for a rung."""
    control_of: str | None = None
    temperature: float | None = None
    """Another temperature than the study's: a help of its own, since sampling costs accuracy; 0 draws one sample."""

    @property
    def kind(self) -> Literal["rung", "control"]:
        """Whether it adds one kind of help, or is the placebo of a rung."""
        return "rung" if self.control is None else "control"

    @property
    def key(self) -> ArmKey:
        """By which estimators ask for it."""
        return ArmKey(self.role, "greedy" if self.temperature == 0 else "sampled", self.control)


class Instead(NamedTuple):
    """A control, as far as it differs from its rung."""

    control: Control
    name: str
    label: str
    method: Method


def rung(
    role: Role,
    name: str,
    label: str,
    method: Method,
    *controls: Instead,
    temperature: float | None = None,
) -> tuple[Arm, ...]:
    """A rung and, behind it, its controls, decoded as it is."""
    first = Arm(role=role, name=name, label=label, method=method, temperature=temperature)
    return (first, *(replace(first, **each._asdict(), control_of=name) for each in controls))


def ladder(vectors: Mapping[str, tuple[SteeringVector, ...]], first_rate: float, top: int) -> tuple[Arm, ...]:
    """The arms that can be listed before any of them has run, each control behind its rung; takeover comes last.

    `vectors` may have `mean`, `fitted` (on all disagreements) and `first_token` (on those of first tokens), each with
    many random draws of its norm, `like-mean` and so on; arms whose vectors are missing are left out. `first_rate` is
    the share of tokens that are the first of a completion, `top` the number of first choices that count as likely.
    """
    steers = {kind: Steer(Drawn(tuple(map(Add, drawn)))) for kind, drawn in vectors.items()}
    return (
        *rung(Role.BASE, "base-greedy", "+ greedy decoding", Hybrid(Never(), Takeover()), temperature=0.0),
        *(mean_arms(steers) if "mean" in steers else ()),
        *(fitted_arms(steers) if "fitted" in steers else ()),
        *(first_token_arms(steers, first_rate) if "first_token" in steers else ()),
        *replacement_arms(top),
        *rung(
            Role.TAKEOVER,
            "takeover-disagreement",
            "+ token takeover, at disagreement",
            Hybrid(Disagreement(), Takeover()),
        ),
    )


def replacement_arms(top: int) -> tuple[Arm, ...]:
    """Oracle replacement of reranked tokens, greedily, between the base and the tuned model decoded so."""
    second = Hybrid(Reranked(top), SecondChoice())
    return (
        *rung(
            Role.TUNED,
            "tuned-greedy",
            "tuned model, greedy decoding",
            Hybrid(Always(), Takeover()),
            temperature=0.0,
        ),
        *rung(
            Role.RERANKED,
            "reranked-greedy",
            "+ reranked tokens taken over, greedy",
            Hybrid(Reranked(top), Takeover()),
            Instead(Control.SECOND_CHOICE, "rank2-greedy", "base's second choice there, greedy", second),
            temperature=0.0,
        ),
    )


def mean_arms(steers: Mapping[str, Steer]) -> tuple[Arm, ...]:
    """The mean difference, where it was measured."""
    drawn = Hybrid(FIRST_TOKEN, steers["like-mean"])
    return rung(
        Role.MEAN_DIFFERENCE,
        "mean-first-token",
        "+ mean difference, first token",
        Hybrid(FIRST_TOKEN, steers["mean"]),
        Instead(Control.RANDOM_VECTORS, "random-mean", "random vectors, first token", drawn),
    )


def fitted_arms(steers: Mapping[str, Steer]) -> tuple[Arm, ...]:
    """The vector fitted on all disagreements, everywhere and where the tuned model disagrees."""
    places = (
        (Role.VECTOR_ALWAYS, "always", "every token", Always()),
        (Role.VECTOR_DISAGREEMENT, "disagreement", "at disagreement", Disagreement()),
    )
    return tuple(
        arm
        for role, name, words, router in places
        for arm in rung(
            role,
            f"fitted-{name}",
            f"+ fitted vector, {words}",
            Hybrid(router, steers["fitted"]),
            Instead(
                Control.RANDOM_VECTORS,
                f"random-{name}",
                f"random vectors, {words}",
                Hybrid(router, steers["like-fitted"]),
            ),
        )
    )


def first_token_arms(steers: Mapping[str, Steer], first_rate: float) -> tuple[Arm, ...]:
    """The vector fitted on first tokens, at the first token."""
    vector, role = steers["first_token"], Role.VECTOR_FIRST_TOKEN
    fitted, drawn = Hybrid(FIRST_TOKEN, vector), Hybrid(FIRST_TOKEN, steers["like-first_token"])
    scattered = Hybrid(AtRandom(first_rate), vector)
    return (
        *rung(
            role,
            "fitted-first-token",
            "+ fitted vector, first token",
            fitted,
            Instead(Control.RANDOM_VECTORS, "random-first-token", "random vectors, first token", drawn),
            Instead(Control.RANDOM_TOKENS, "fitted-scattered", "fitted vector, random tokens", scattered),
        ),
        *rung(
            role,
            "fitted-greedy",
            "+ fitted vector, first token, greedy",
            fitted,
            Instead(Control.RANDOM_VECTORS, "random-greedy", "random vectors, first token, greedy", drawn),
            temperature=0.0,
        ),
    )


def scattered(arm: Arm, rate: float, top: int) -> Arm | None:
    """The control of a rung's router: what the rung does, at random tokens, as often as it did when it ran.

    None for what has no router of its own, or has this control already. Where the rung takes over likely tokens, the
    control draws one of the base's `top` first choices.
    """
    if arm.control is not None or not isinstance(arm.method, Hybrid):
        return None
    name, label = f"{arm.name}-scattered", f"{arm.label.removeprefix('+ ')}, at random tokens instead"
    method = replace(arm.method, router=AtRandom(rate))
    match arm.role:
        case Role.TAKEOVER:
            name, label = "takeover-scattered", "token takeover, random tokens"
        case Role.RERANKED:
            name, label = "scattered-greedy", "a likely token at random tokens, greedy"
            method = Hybrid(AtRandom(rate), LikelyToken(top))
        case Role.VECTOR_SCHEDULE | Role.VECTOR_ENTROPY | Role.VECTOR_PROBE | Role.CATEGORIES_PROBE:
            pass
        case _:
            return None
    return replace(arm, name=name, label=label, method=method, control=Control.RANDOM_TOKENS, control_of=arm.name)


def arm_family(arm: Arm) -> Family:
    """The group of the ladder in which an arm, or the rung that it controls, is shown."""
    if arm.role in PUBLISHED_ROLES:
        return "published"
    match arm.method:
        case BestPrompt():
            return "prompt"
        case Edited():
            return "vector"
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


PUBLISHED_ROLES = (Role.P1, Role.P1_SWITCHED, Role.P1_MENDED, Role.P2, Role.P2_SWITCHED)
"""Roles of published methods of others, and of the same with a fault switched."""
