"""Fit: a way to find a steering vector, and what it may learn from.

A new one is a frozen dataclass that inherits `Fit`, in a file of its own, and an entry in `steering.fits.fits.FITS`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.post_training.reinforce import Reward
from lab.post_training.supervised import OnProgress
from lab.tasks.problem import Problem
from probes.capture.site import Site
from steering.fits.examples import Completions, Disagreements
from steering.vector import SteeringVector


@runtime_checkable
class Taught(Protocol):
    """Texts on two sides, and where one model should write as another does; read when a fit asks for it.

    Each method raises VectorError where there is nothing of the kind.
    """

    @property
    def description(self) -> str:
        """What the sides are, in a few words."""
        ...

    def sides(
        self, model: Model, site: Site
    ) -> tuple[Float[Tensor, "positive d_model"], Float[Tensor, "negative d_model"]]:
        """Streams just after the first token of the texts to move towards, and of those to move away from."""
        ...

    def texts(self, model: Model, most: int, generator: torch.Generator) -> Completions:
        """The texts to move towards; of more than `most`, some."""
        ...

    def first_tokens(self, model: Model, generator: torch.Generator) -> Disagreements:
        """First tokens that one model should write as the other does."""
        ...


class Rewarded(NamedTuple):
    """Problems whose completions are rewarded, for a fit that writes its own texts."""

    problems: Sequence[Problem]
    reward: Reward
    work: Path
    """Where its checkpoints go, from the last of which it goes on."""
    on_progress: OnProgress = lambda *_: None
    """Is told steps just done, and steps in all."""


Teaching = TypeVar("Teaching", contravariant=True)
"""What a fit learns from: `Taught` or `Rewarded`."""


@runtime_checkable
class Fit(Protocol[Teaching]):
    """A way to find a vector."""

    @abstractmethod
    def fit(self, model: Model, sites: Sequence[Site], taught: Teaching, *, seed: int) -> SteeringVector:
        """The vector of `model`, which stays as it is, at `sites`: one, unless the fit is made for several.

        Raises VectorError, with the reason, where there is nothing to learn from.
        """
        ...

    @property
    def learns_from(self) -> Literal["sides", "tokens", "rewards"]:
        """What a control shuffles: which side a text is on, what comes next in it, or what is rewarded."""
        return "sides"
