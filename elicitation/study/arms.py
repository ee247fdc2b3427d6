"""Arms: the rungs of the ladder and their controls, as values, each control behind its rung.

First what the base model does by itself (`own_help_arms`), then vectors and replaced tokens (`ladder`), routers and
vectors of categories that were fitted (`routing_arms`), and published methods (`arms_of_published`). Some controls act
as often as their rung did when it ran (`scattered`), so they can be told only then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from elicitation.pages.study.tables import Family
from elicitation.study.config import OwnHelp
from lab.records.seeds import child_seed, torch_generator
from lab.scoring.evidence import ArmKey, Control, Role, arm_row
from lab.tasks.source import Task
from lab.test_time.choice import BestPrompt, Fitting, Temperature, prompt_forms
from lab.test_time.elicit import CotDecoding, SelfConsistency
from lab.test_time.letters import LikeliestLetter, RandomLetter
from lab.test_time.method import Elicitation
from lab.test_time.reading import LenientReading
from steering.edit import Add, Edited
from steering.hybrid.hybrid import Hybrid, Router
from steering.hybrid.interventions import (
    Drawn,
    LikelyToken,
    PerCategory,
    SecondChoice,
    Steer,
    Sweep,
    Takeover,
    TunedChooser,
    VectorTable,
)
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
from steering.routing.category_vectors import CategoryVectors, any_category, exchanged, random_vectors
from steering.routing.routing import Routing
from steering.vector import SteeringVector

FIRST_TOKEN = AtSteps((0,))
N_RANDOM = 256
"""Random vectors that a random control spreads its rows over: so many that which were drawn hardly matters."""
Vectors = Mapping[str, tuple[SteeringVector, ...]]
"""`mean`, `fitted` (on all disagreements), `first_token` (on those of first tokens), each alone, as far as there are;
and many random draws of the norm of each, `like-mean` and so on."""


@dataclass(frozen=True, slots=True)
class AskedAs:
    """The base as it is, asked in another of the offered ways."""

    way: str


Method: TypeAlias = Hybrid | Edited | AskedAs | Elicitation
"""How an arm answers: both models in step, the base under edits, or the base by prompt and decoding alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of answering: one of the models alone, a rung between the two, or a control."""

    role: Role
    """What it is there for; a control has the role of its rung."""
    name: str
    label: str
    method: Method | None = None
    """None for a model alone."""
    control: Control | None = None
    """What it controls for; None for a rung."""
    control_of: str | None = None
    """For a control, the name of its rung."""
    temperature: float | None = None
    """Another temperature than the study's: a help of its own, since sampling costs accuracy; 0 draws one sample."""

    @property
    def key(self) -> ArmKey:
        """By which estimators ask for it."""
        return ArmKey(self.role, "greedy" if self.temperature == 0 else "sampled", self.control)

    @property
    def kind(self) -> Literal["end", "rung", "control"]:
        """Whether it is a model alone, one kind of help, or the placebo of one."""
        return "end" if self.method is None else "rung" if self.control is None else "control"

    @property
    def named(self) -> dict[str, object]:
        """The columns that name it in a table of the report."""
        return {"arm": self.name, "label": self.label}

    @property
    def row(self) -> dict[str, object]:
        """Its row of `ARMS`."""
        return arm_row(self.name, self.key, label=self.label, control_of=self.control_of)


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


def own_help_arms(settings: OwnHelp, task: Task, fit_task: Task) -> tuple[Arm, ...]:
    """How answers are read, where the judge can read leniently; prompt and decoding rungs.

    What is chosen among several is chosen on the problems of `fit_task`.

    The listed prompts are worked examples and a forced first token where the task has chains, else instructions. The
    control of a rung is the same without its one ingredient; of the prompt and the temperature that is the base. Where
    every problem has choices, their letters are also compared at once, without work.
    """
    fitting = Fitting(problems=fit_task.problems, n_samples=settings.n_fit_samples)
    prompt = BestPrompt(forms=prompt_forms(task), fitting=fitting)
    temperature = Temperature(temperatures=settings.temperatures, fitting=fitting)
    one_vote = Instead(Control.ONE_VOTE, "one-vote", "one answer, as the voters draw it", SelfConsistency(n_votes=1))
    one_branch = Instead(Control.ONE_BRANCH, "one-branch", "its first branch alone", CotDecoding(n_branches=1))
    votes, branches = SelfConsistency(n_votes=settings.n_votes), CotDecoding(n_branches=settings.n_branches)
    power, unmoved = settings.power, replace(settings.power, n_moves=0)
    any_letter = Instead(Control.RANDOM_CHOICE, "random-letter", "a random letter", RandomLetter())
    letters = rung(Role.LETTER, "letter", "+ likeliest letter at once", LikeliestLetter(), any_letter)
    no_moves = Instead(Control.NO_MOVES, "power-unmoved", "temperature 1 / alpha, without moves", unmoved)
    read = ()
    if task.judge.first_answer is not None:
        method = LenientReading(factor=settings.lenient_factor)
        read = rung(Role.READING, "read-first", "+ first answer read", method)
    return (
        *read,
        *rung(Role.PROMPT, "prompt", "+ best prompt", prompt),
        *rung(Role.TEMPERATURE, "temperature", "+ best temperature", temperature),
        *rung(Role.SELF_CONSISTENCY, "self-consistency", f"+ majority of {settings.n_votes}", votes, one_vote),
        *rung(Role.COT_DECODING, "cot-decoding", "+ CoT-decoding", branches, one_branch),
        *rung(Role.POWER_SAMPLING, "power", f"+ power sampling, alpha {power.alpha:g}", power, no_moves),
        *(letters if all(problem.choices for problem in task.problems) else ()),
    )


def steer(vectors: tuple[SteeringVector, ...]) -> Steer:
    """Adds one of them to each row."""
    return Steer(Drawn(tuple(map(Add, vectors))))


def steered(
    vectors: Vectors,
    kind: str,
    role: Role,
    router: Router,
    names: tuple[str, str],
    words: str,
    *more: Instead,
    temperature: float | None = None,
) -> tuple[Arm, ...]:
    """A rung that adds one vector where `router` says, which `words` do too, and its controls, the first random ones.

    `names` are the rung's and that control's. None where there is no such vector.
    """
    if kind not in vectors:
        return ()
    what, (name, random) = "mean difference" if kind == "mean" else "fitted vector", names
    method, by_chance = (Hybrid(router, steer(vectors[which])) for which in (kind, f"like-{kind}"))
    drawn = Instead(Control.RANDOM_VECTORS, random, f"random vectors, {words}", by_chance)
    return rung(role, name, f"+ {what}, {words}", method, drawn, *more, temperature=temperature)


def ladder(vectors: Vectors, first_rate: float, top: int) -> Iterator[Arm]:
    """The arms of vectors and of replaced tokens; takeover comes last.

    Arms whose vectors are missing are left out. `first_rate` is the share of tokens that are the first of a completion,
    `top` the number of first choices that count as likely. Replacement of reranked tokens is greedy, between the base
    and the tuned model decoded so.
    """
    yield from rung(Role.BASE, "base-greedy", "+ greedy decoding", Hybrid(Never(), Takeover()), temperature=0.0)
    names = "mean-first-token", "random-mean"
    yield from steered(vectors, "mean", Role.MEAN_DIFFERENCE, FIRST_TOKEN, names, "first token")
    names = "fitted-always", "random-always"
    yield from steered(vectors, "fitted", Role.VECTOR_ALWAYS, Always(), names, "every token")
    names = "fitted-disagreement", "random-disagreement"
    yield from steered(vectors, "fitted", Role.VECTOR_DISAGREEMENT, Disagreement(), names, "at disagreement")
    if "first_token" in vectors:
        at_first = partial(steered, vectors, "first_token", Role.VECTOR_FIRST_TOKEN, FIRST_TOKEN)
        elsewhere = Hybrid(AtRandom(first_rate), steer(vectors["first_token"]))
        places = Instead(Control.RANDOM_TOKENS, "fitted-scattered", "fitted vector, random tokens", elsewhere)
        yield from at_first(("fitted-first-token", "random-first-token"), "first token", places)
        yield from at_first(("fitted-greedy", "random-greedy"), "first token, greedy", temperature=0.0)
    tuned, replaced = Hybrid(Always(), Takeover()), Hybrid(Reranked(top), Takeover())
    yield from rung(Role.TUNED, "tuned-greedy", "tuned model, greedy decoding", tuned, temperature=0.0)
    second = Hybrid(Reranked(top), SecondChoice())
    choice = Instead(Control.SECOND_CHOICE, "rank2-greedy", "base's second choice there, greedy", second)
    label = "+ reranked tokens taken over, greedy"
    yield from rung(Role.RERANKED, "reranked-greedy", label, replaced, choice, temperature=0.0)
    takeover = Hybrid(Disagreement(), Takeover())
    yield from rung(Role.TAKEOVER, "takeover-disagreement", "+ token takeover, at disagreement", takeover)


def routing_arms(routing: Routing, vectors: Vectors, *, seed: int) -> Iterator[Arm]:
    """The arms of fitted routers and category vectors.

    First those that leave the tuned model alone: the fitted vector when the schedule, the entropy or the probe says so,
    and category vectors when the probe does. Then category vectors that the tuned model chooses. `scattered` gives each
    of the former the control of its router. A table of which no category has a vector has no arm.
    """
    probe = BaseProbe(routing.probe)
    if "fitted" in vectors:
        fitted = steer(vectors["fitted"])
        schedule, entropy = Hybrid(routing.schedule, fitted), Hybrid(routing.entropy, fitted)
        yield from rung(Role.VECTOR_SCHEDULE, "fitted-schedule", "+ fitted vector, schedule", schedule)
        yield from rung(Role.VECTOR_ENTROPY, "fitted-entropy", "+ fitted vector, entropy", entropy)
        names = "fitted-probe", "random-probe"
        yield from steered(vectors, "fitted", Role.VECTOR_PROBE, probe, names, "base's probe")
    of_base, of_tuned = (child_seed(seed, name) for name in ("probe", "disagreement"))
    yield from category_arms(Role.CATEGORIES_PROBE, routing.base_side, probe, "probe", "base's probe", of_base)
    role, words = Role.CATEGORIES_DISAGREEMENT, "tuned categories at disagreement"
    yield from category_arms(role, routing.tuned_side, Disagreement(), "disagreement", words, of_tuned)


def category_arms(
    role: Role, found: CategoryVectors, router: Router, suffix: str, when: str, seed: int
) -> tuple[Arm, ...]:
    """Category vectors where `router` opens, beside vectors of other categories and of none.

    With a single fitted vector there is no other category, and random vectors alone are the control.
    """
    if not found.fitted:
        return ()
    random = random_vectors(found, N_RANDOM, seed=seed)
    tables: list[tuple[Control, str, str, VectorTable]] = [
        (Control.RANDOM_VECTORS, "random-categories", "random vectors of their norms", random)
    ]
    if len(found.fitted) > 1:
        others = exchanged(found, torch_generator(seed, "exchanged"))
        tables += [
            (Control.OTHER_CATEGORIES, "shuffled-categories", "vectors of other categories", others),
            (Control.RANDOM_CATEGORIES, "any-category", "vectors of random categories", any_category(found)),
        ]
    controls = (
        Instead(control, f"{name}-{suffix}", f"{label}, {when}", Hybrid(router, Steer(table)))
        for control, name, label, table in tables
    )
    method = Hybrid(router, Steer(found.table))
    return rung(role, f"categories-{suffix}", f"+ category vectors, {when}", method, *controls)


def arms_of_published(fitted: Path, *, seed: int) -> Iterator[Arm]:
    """The published methods, greedy as published, each also with one fault mended or its vectors replaced.

    `fitted` is where `published_stage` put what they are made of.
    """
    # Here, since few studies run them.
    from steering.published_hybrids.arms import published_arms
    from steering.published_hybrids.published_hybrids import load_published

    for arm in published_arms(load_published(fitted), seed=seed):
        listed = arm.listed
        yield Arm(
            role=listed.role,
            name=listed.name,
            label=listed.label if arm.control_of else f"+ {listed.label}",
            method=arm.hybrid,
            control=listed.control,
            control_of=arm.control_of,
            temperature=0.0,
        )


def scattered(arm: Arm, rate: float, top: int) -> Arm | None:
    """The control of a rung's router: what the rung does, at random tokens, as often as it did when it ran.

    None for what has no router of its own, or has this control already. Where the rung takes over likely tokens, the
    control draws one of the base's `top` first choices.
    """
    if arm.control is not None or not isinstance(arm.method, Hybrid):
        return None
    intervention = arm.method.intervention
    if arm.role == Role.TAKEOVER:
        name, label = "takeover-scattered", "token takeover, random tokens"
    elif arm.role == Role.RERANKED:
        name, label = "scattered-greedy", "a likely token at random tokens, greedy"
        intervention = LikelyToken(top)
    elif arm.role in (Role.VECTOR_SCHEDULE, Role.VECTOR_ENTROPY, Role.VECTOR_PROBE, Role.CATEGORIES_PROBE):
        name, label = f"{arm.name}-scattered", f"{arm.label.removeprefix('+ ')}, at random tokens instead"
    else:
        return None
    control = Instead(Control.RANDOM_TOKENS, name, label, Hybrid(AtRandom(rate), intervention))
    return replace(arm, **control._asdict(), control_of=arm.name)


def arm_family(arm: Arm) -> Family:
    """The group of the ladder in which an arm is shown, as what it does says; a control stands in that of its rung."""
    if arm.role.startswith((Role.P1, Role.P2)):
        return "published"
    method = arm.method
    if method is None:
        return "end"
    if not isinstance(method, Hybrid | Edited):
        return "prompt" if isinstance(method, BestPrompt | AskedAs | LenientReading) else "decoding"
    match method:
        case Edited():
            return "vector"
        case Hybrid(router=Never()):
            return "decoding"
        case Hybrid(intervention=Sweep(chooser=TunedChooser())):
            return "selector"
        case Hybrid(intervention=Steer() | Sweep()) if method.needs_tuned:
            return "tuned router"
        case Hybrid(intervention=Steer(table=table) | Sweep(table=table), router=router):
            own = isinstance(router, BaseProbe | EntropyAbove | Scheduled) or isinstance(table, PerCategory)
            return "own router" if own else "vector"
        case Hybrid():
            return "takeover"
