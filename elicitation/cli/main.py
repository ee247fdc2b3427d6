"""The command `lab`: tyro over the commands, nothing else."""

import contextlib
import inspect
import io
import operator
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, cast, get_args

import tyro

from elicitation.cli.commands import Command, DoctorCommand
from elicitation.cli.stopping import advice, stoppable
from lab.records.errors import LabError

FRAME = ("╭", "│", "╰")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def help_text(printed: str, width: int) -> str:
    """`printed` with the lines outside of frames, which tyro leaves as long as they are, cut at `width` columns.

    An example goes on after a backslash, so that it can be copied whole; a list of verbs that is wider than the
    terminal is left to the frame below it.
    """
    return "\n".join(_cut(line, width) for line in printed.split("\n"))


def _cut(line: str, width: int) -> str:
    plain = COLOUR.sub("", line)
    if len(plain) <= width or plain.startswith(FRAME):
        return line
    if plain.startswith("usage:"):
        return re.sub(r"\{[a-z,-]+\}", "VERB ...", line)
    if plain.startswith("Example:"):
        kept = textwrap.wrap(line, width - 2, break_long_words=False, break_on_hyphens=False, subsequent_indent="    ")
        return " \\\n".join(kept)
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


ABOUT = """How much of a reasoning gain was already inside the base model?

New here? `lab demo` runs a whole study on models that come with the package, in about three minutes.
`lab doctor` checks the installation. `lab VERB --help` says what a verb wants, with an example."""


def main() -> None:
    """Entry point: 0 when done, 2 with one line on standard error for what the user can mend, 130 or 143 if stopped."""
    typed = sys.argv[1:]
    # OpenMP reads it once, with torch. Threads that spin while they wait for each other stand still where another
    # process keeps a core busy: sampling took 30 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        command = parsed(typed or ["--help"])
        line = shlex.join(["lab", *typed])
        with stoppable(advice(command, line)):
            carry_out(command, line)
    except (LabError, OSError) as error:
        print(f"lab: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("lab: stopped before anything began", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def parsed(argv: Sequence[str]) -> Command:
    """The command that `argv` asks for; SystemExit after the help, or after a complaint about `argv`."""
    held = Held()
    overview = [*argv] in (["-h"], ["--help"])
    try:
        with contextlib.redirect_stdout(held):
            return tyro.cli(
                cast(type[Command], overview_of(Command) if overview else Command),
                prog="lab",
                description=ABOUT,
                args=argv,
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                ),
            )
    finally:
        sys.stdout.write(help_text(held.getvalue(), shutil.get_terminal_size().columns))


class Held(io.StringIO):
    """Keeps what is printed, with the colours that standard output would have got."""

    # That of standard output, by which tyro draws its frames.
    encoding: str = getattr(sys.__stdout__, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether standard output is a terminal."""
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def overview_of(commands: object) -> object:
    """`commands`, a union of verbs, with no more of their help than what each is for."""
    verbs = []
    for annotated in get_args(commands):
        kind, verb = get_args(annotated)
        purpose = inspect.cleandoc(kind.__doc__).partition("\n\n")[0]
        verbs.append(Annotated[kind, tyro.conf.subcommand(verb.name, description=purpose)])
    return reduce(operator.or_, verbs)


def carry_out(command: Command, typed: str) -> None:
    """Does what `command` asks. torch and transformers load here, so that --help stays quick."""
    match command:
        case DoctorCommand():
            # Has to run where libraries that everything else imports are missing.
            from elicitation.cli.doctor import run_doctor

            run_doctor(command)
        case _:
            from elicitation.cli.run import run

            run(command, typed)
