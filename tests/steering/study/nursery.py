"""Forks children that each run a study: the imports, which take seconds, are paid once.

A line of JSON on standard input asks for a child: `{"study": ..., "out": ..., "command": ..., "die_at": null or n}`.
Its process id is answered at once, and its exit status (minus the signal that killed it) when it has ended. A child
with `die_at` kills itself just before the n-th time that it changes a name on disk.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lab.provenance import package_versions, revision
from lab.sampling.decoding import Decoding
from steering.fit.gradient import GradientFit
from steering.study.config import Study
from steering.study.run import run


def mortal(die_at: int) -> None:
    """Counts every way in which this project creates, renames or removes a file."""
    left = die_at

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return changed

    for name in ("replace", "rename", "unlink", "mkdir"):
        setattr(Path, name, counted(getattr(Path, name)))


def child(asked: dict[str, object]) -> None:
    fields = dict(asked["study"])
    fields["decoding"], fields["fit"] = Decoding(**fields["decoding"]), GradientFit(**fields["fit"])
    fields["ks"] = tuple(fields["ks"])
    if asked["die_at"] is not None:
        mortal(asked["die_at"])
    run(Study(**fields), Path(asked["out"]), command=asked["command"])


def main() -> None:
    # Read once, before any child, so that a commit made meanwhile does not tell the runs apart.
    revision(), package_versions()
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                child(json.loads(line))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(process, flush=True)
        _, ended = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
