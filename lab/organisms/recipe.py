"""Organism: a small model defined by what it was trained on, as a value that a build turns into weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import Document, SupervisedRun
from lab.tasks.chain_documents import Habits, answer_first_document, chain_document, direct_document
from lab.tasks.chain_world import ChainTask, as_problem


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


Writing = Mixture | AnswerFirst
"""What kind of documents a model reads."""


def documents(writing: Writing, generator: np.random.Generator) -> Iterator[Document]:
    """Endless documents over training expressions; no held-out expression ever occurs."""
    for expression in writing.task.expressions(generator, held_out=False):
        match writing:
            case Mixture(direct_share=direct_share, habits=habits):
                if generator.random() < direct_share:
                    completion = direct_document(expression)
                else:
                    completion = chain_document(expression, habits, generator)
            case AnswerFirst(habits=habits):
                completion = answer_first_document(expression, habits, generator)
        yield Document(prompt=as_problem(expression).prompt, completion=completion)


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """Learns documents, from scratch or from a parent's weights."""

    writing: Writing
    run: SupervisedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Reinforced:
    """Learns by GRPO from the accuracy of its final answers alone."""

    task: ChainTask = field(default_factory=ChainTask)
    run: GrpoRun = field(default_factory=GrpoRun)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A Llama small enough to train in minutes on two cores."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 384


@dataclass(frozen=True, kw_only=True, slots=True)
class Organism:
    """A model whose history is known."""

    name: str
    parent: str | None
    """The organism whose weights it starts from; None starts from random ones."""
    recipe: Supervised | Reinforced
    story: str
    """What the tuning did, for a reader of its card."""
    architecture: Architecture = field(default_factory=Architecture)
