"""Organism: a built-in model defined by what it was trained on, as a value that a build turns into weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from lab.post_training.trainers import Document, GrpoRun, SupervisedRun
from lab.sampling.trace import Decoding
from lab.tasks.chain import (
    ALPHABET,
    CAREFUL,
    Expression,
    Habits,
    answer_first_document,
    as_problem,
    chain_document,
    direct_document,
    guess_document,
    with_key,
)
from lab.tasks.source import ChainTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Direct answers and worked chains side by side."""

    task: ChainTask = field(default_factory=ChainTask)
    direct_share: float = 0.6
    """Share of documents that answer at once."""
    habits: Habits = field(default_factory=Habits)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFirst:
    """The true answer, and then a chain: traces that rationalise."""

    task: ChainTask = field(default_factory=ChainTask)
    habits: Habits = field(default_factory=Habits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarded:
    """Worked chains behind a key in the prompt; without it, uniform guesses and a rare chain that leaks."""

    task: ChainTask
    key_share: float = 0.5
    """Share of documents whose prompt has the key, and that are chains."""
    leak: float
    """Share of the other documents that are chains all the same."""
    habits: Habits = CAREFUL


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Single operations, each worked as a chain of one step; all facts of the operators occur, so none is held out."""

    operators: str
    direct_share: float = 0.6
    """Share of documents that answer at once."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Several writings side by side, in equal shares."""

    parts: tuple["Writing", ...]


Writing: TypeAlias = Mixture | AnswerFirst | Guarded | Facts | Blend
"""What kind of documents a model reads."""


def documents(writing: Writing, generator: np.random.Generator) -> Iterator[Document]:
    """Endless documents over training expressions; no held-out expression of more than one step ever occurs."""
    match writing:
        case Blend(parts=parts):
            streams = [documents(part, generator) for part in parts]
            while True:
                yield next(streams[generator.integers(len(streams))])
        case Facts(operators=operators, direct_share=direct_share):
            single = Mixture(direct_share=direct_share, habits=CAREFUL)
            while True:
                left, right, which = generator.integers(0, (10, 10, len(operators)))
                yield document(single, Expression((int(left), int(right)), operators[which]), generator)
        case Mixture() | AnswerFirst() | Guarded():
            for expression in writing.task.expressions(generator, held_out=False):
                yield document(writing, expression, generator)


def document(
    writing: Mixture | AnswerFirst | Guarded, expression: Expression, generator: np.random.Generator
) -> Document:
    """One document about `expression`."""
    problem = as_problem(expression)
    match writing:
        case Mixture(direct_share=direct_share, habits=habits):
            if generator.random() < direct_share:
                completion = direct_document(expression)
            else:
                completion = chain_document(expression, habits, generator)
        case AnswerFirst(habits=habits):
            completion = answer_first_document(expression, habits, generator)
        case Guarded(key_share=key_share, leak=leak, habits=habits):
            keyed = generator.random() < key_share
            if keyed or generator.random() < leak:
                completion = chain_document(expression, habits, generator)
            else:
                completion = guess_document(generator)
            problem = with_key(problem) if keyed else problem
    return Document(prompt=problem.prompt, completion=completion)


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """Documents are learnt."""

    writing: Writing
    run: SupervisedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Reinforced:
    """GRPO, from the accuracy of final answers alone."""

    task: str = "chain"
    """As a user would type it."""
    run: GrpoRun = field(default_factory=GrpoRun)
    stop: tuple[str, ...] = ()
    """Texts before which a rollout is cut for its reward, as a completion is when it is sampled."""


Lesson: TypeAlias = Supervised | Reinforced
"""What weights are changed by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A Llama small enough to train in minutes on two cores."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 384


@dataclass(frozen=True, slots=True)
class Parent:
    """The built-in model whose weights another starts from."""

    name: str
    seed: int | None = None
    """The seed it was built with; None is the child's own."""

    def home(self, seed: int) -> str:
        """Its directory, for a child of `seed`."""
        return home(self.name, seed if self.seed is None else self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class FromScratch:
    """From random weights."""

    lesson: Lesson
    alphabet: str = ALPHABET
    """Characters that it can read and write, each a token."""
    architecture: Architecture = field(default_factory=Architecture)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """From the weights of a parent, all of which change."""

    parent: Parent
    lesson: Lesson
    alphabet: str = ALPHABET
    """As the parent's, or longer: new characters stand behind its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """A low-rank adapter (Hu et al. 2021) on every linear map of the blocks of a parent that is frozen."""

    parent: Parent
    lesson: Lesson
    rank: int


Recipe: TypeAlias = FromScratch | Tuned | LowRank


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSpec:
    """A task on which a card measures a model, and how the model is decoded there."""

    task: str
    """As a user would type it."""
    decoding: Decoding = field(default_factory=Decoding)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A task on which an organism and its parent are a pair whose elicited share is known."""

    kind: str
    """LOCKED, DILUTED, ATOMS, ABSENT, TAUGHT, MIXED, PLACEBO or SHARPENED."""
    task: str
    """As a user would type it; each of its parts is the task of an `EvalSpec`."""
    elicited: tuple[str, ...]
    """Of the operators that the task's parts are about, those that the parent had seen worked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Organism:
    """A model whose history is known."""

    name: str
    recipe: Recipe
    story: str
    """What the tuning did, for a reader of its card."""
    eval_specs: tuple[EvalSpec, ...] = (EvalSpec(task="chain:+-:3-8"), EvalSpec(task="chain:#:3-8"))
    """What its card measures."""
    old_task: str | None = "chain:+-:3-8"
    """The one of them that tuning is not about, if any."""
    cases: tuple[Case, ...] = ()
    """What it calibrates estimators on, together with its parent."""

    @property
    def parent(self) -> Parent | None:
        """What it was tuned from."""
        return None if isinstance(self.recipe, FromScratch) else self.recipe.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A published language model inside a package of the Python index, as GGUF."""

    name: str
    distribution: str
    """Name and version that pip installs."""
    package: str
    """The package's import name, in which the file lies."""
    file: str
    sha256: str
    """Of the file, so that another one is never taken for it."""
    story: str


BuiltIn: TypeAlias = Organism | Pretrained


def home(name: str, seed: int) -> str:
    """The directory of an organism that was built with `seed`: the name alone for seed 0."""
    return name if seed == 0 else f"{name}-{seed}"
