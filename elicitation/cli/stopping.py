"""stopping: what Ctrl-C and a request to terminate do: work is left in order, and the user told how to go on."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from elicitation.cli.commands import (
    BuildCommand,
    CalibrateCommand,
    CaptureCommand,
    CaptureRepairCommand,
    CaptureRunCommand,
    Command,
    DemoCommand,
    OrganismsCommand,
    StudyCommand,
)
from elicitation.cli.feature_commands import AttributeCommand, SaeCommand, SaeTrainCommand
from elicitation.cli.pair_commands import PairBuildCommand, PairsCommand
from elicitation.cli.vector_commands import VectorsCommand

SHOW_CURSOR = b"\x1b[?25h"


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever tidies up after Ctrl-C does it here too."""


def advice(command: Command, typed: str) -> str:
    """What a user who stopped `command`, given as `typed`, is told: how to go on, or that nothing was kept."""
    match command:
        case (
            DemoCommand()
            | StudyCommand()
            | CalibrateCommand()
            | VectorsCommand()
            | AttributeCommand()
            | CaptureCommand(do=CaptureRunCommand() | CaptureRepairCommand())
            | SaeCommand(do=SaeTrainCommand())
            | OrganismsCommand(do=BuildCommand())
            | PairsCommand(do=PairBuildCommand())
        ):
            return f"lab: stopped; to go on: {typed}"
        case _:
            return f"lab: stopped; nothing was kept; to start again: {typed}"


@contextmanager
def stoppable(told: str) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM end the command in order: `told` on standard error, exit code 130 or 143.

    The first of them raises KeyboardInterrupt or `Terminated`, so that files half written are taken away. One more
    ends the process at once: what lies on disk is whole even so, but hidden `.partial` files may stay until the
    command is given again.
    """
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{told}\n".encode())
            _leave(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt as error:
        print(told, file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
    finally:
        for number, handler in before.items():
            # Where one came, the interpreter still has to end, and a second must find no default handler.
            signal.signal(number, _quietly if came else handler)


def _quietly(number: int, _: FrameType | None) -> None:
    _leave(number)


def _leave(number: int) -> None:
    """Ends the process without any tidying, but gives the terminal its cursor back."""
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    os._exit(128 + number)
