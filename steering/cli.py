"""The command `lab`: tyro over the commands, nothing else."""

import shlex
import sys
from typing import cast

import tyro

from steering.commands import Command


def main() -> None:
    """Entry point: 0 when done, 2 with one line on standard error for what the user can mend."""
    command = tyro.cli(
        cast(type[Command], Command),
        prog="lab",
        description="How much of a reasoning gain was already inside the base model?",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    from lab.errors import LabError

    try:
        # torch and transformers load here, so that --help stays quick.
        from steering.perform import perform

        perform(command, shlex.join(["lab", *sys.argv[1:]]))
    except (LabError, OSError) as error:
        print(f"lab: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("lab: stopped; give the same command again: studies, builds and captures go on", file=sys.stderr)  # noqa: T201
        sys.exit(130)
