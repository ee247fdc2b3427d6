"""AdaptedModel: a pretrained language model with a low-rank adapter, defined by what the adapter was trained on."""

from dataclasses import dataclass
from typing import TypeAlias

from lab.organisms.recipe import Writing
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import SupervisedRun
from lab.sampling.decoding import Decoding


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarded:
    """Learns by GRPO from the accuracy of its final answers alone."""

    task: str
    """As a user would type it."""
    run: GrpoRun
    stop: tuple[str, ...] = ()
    """Texts before which a rollout is cut for its reward, as a completion is when it is sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """Learns documents of the chain world."""

    writing: Writing
    run: SupervisedRun


Recipe: TypeAlias = Rewarded | Distilled


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """What a card measures, and how the model is to be decoded there."""

    task: str
    decoding: Decoding


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptedModel:
    """An adapter and the model below it."""

    name: str
    parent: str
    """The model that training starts from: pretrained or adapted. Where `kind` is not None, its pair's base."""
    rank: int
    """Rank of the adapter on every linear map of the blocks (Hu et al. 2021)."""
    recipe: Recipe
    story: str
    """What the tuning did, for a reader of its card."""
    exams: tuple[Exam, ...]
    """The first is the task that the tuning is about."""
    kind: str | None = None
    """SHARPENED, LOCKED or TAUGHT, as of organisms; None for the base of other pairs."""
    truth: float | None = None
    """The elicited share of the gain that the construction fixes; None where it does not."""
