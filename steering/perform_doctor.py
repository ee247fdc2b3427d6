"""perform_doctor: what `lab doctor` found, as plain words or JSON, printed with nothing but the standard library."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from lab.doctor import Finding, findings, healthy
from steering.commands import DoctorCommand

MARKS = {"ok": "ok", "note": "note", "absent": "-", "broken": "BROKEN"}
INDENT, N_MARK, N_NAME = 2, 8, 16


def perform_doctor(command: DoctorCommand) -> None:
    """Prints the findings; exit code 1 where the core lacks something."""
    found = findings(Path.cwd(), os.environ)
    if command.json:
        told = {"healthy": healthy(found), "findings": [asdict(finding) for finding in found]}
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        # One column less, since some terminals wrap a line that is just as wide as they are.
        sys.stdout.write("\n".join(shown(found, shutil.get_terminal_size().columns - 1)) + "\n")
    sys.exit(0 if healthy(found) else 1)


def shown(found: Sequence[Finding], width: int) -> Iterator[str]:
    """Lines of at most `width` columns, section by section; the last one is the verdict."""
    for section, there in groupby(found, lambda finding: finding.section):
        yield section
        rest = [*there]
        if section == "packages":
            # Versions that are right need no line each.
            right = [f"{finding.name} {finding.told}" for finding in rest if finding.state == "ok"]
            rest = [finding for finding in rest if finding.state != "ok"]
            if right:
                text = f"{len(right)} in the ranges that are declared: {', '.join(right)}"
                yield from entry("ok", "versions", text, width)
        for finding in rest:
            yield from entry(MARKS[finding.state], finding.name, finding.told, width)
            yield from mended("to have it" if finding.state == "absent" else "to mend", finding.mend, width)
        yield ""
    broken = [finding.name for finding in found if finding.state == "broken"]
    yield from textwrap.wrap(
        f"broken: {', '.join(broken)}; the lines above say what to do"
        if broken
        else "everything the core needs is here",
        width,
    )


def entry(mark: str, name: str, told: str, width: int) -> Iterator[str]:
    """One finding: its mark, its name, what is told of it."""
    start = " " * INDENT + f"{mark:<{N_MARK}}{name:<{N_NAME}} "
    yield from textwrap.wrap(
        told,
        width,
        initial_indent=start,
        subsequent_indent=" " * (INDENT + N_MARK + N_NAME + 1),
        break_long_words=False,
        break_on_hyphens=False,
    )


def mended(purpose: str, mend: str, width: int) -> Iterator[str]:
    """What to type, which can be copied even where it takes several lines."""
    pad = " " * (INDENT + N_MARK)
    lines = textwrap.wrap(
        mend,
        width - 2,
        initial_indent=f"{pad}{purpose}: ",
        subsequent_indent=f"{pad}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines[:-1]:
        yield f"{line} \\"
    yield from lines[-1:]
