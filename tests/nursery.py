"""Forks children that each run a command line, so that imports, which take seconds, are paid once.

A line of JSON on standard input asks for a child: `{"argv": [...], "directory": ..., "die_at": n, "file_limit": n}`.
Its process id is answered at once, and its exit status (minus the signal that killed it) when it has ended; what it
printed is in `directory`, in stdout.txt and stderr.txt. A child with `die_at` kills itself just before the n-th time
that it changes a name on disk; one with `file_limit` can write no file beyond that many bytes, and one with
`die_beyond` is killed by the kernel in the middle of writing more than that many into one. None may open a socket.
"""

import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from elicitation.cli.main import VERBS, main
from lab.records.provenance import package_versions, revision

SOCKETS_OPENED: list[str] = []
OPENED_A_SOCKET = 77


def die_at(change_index: int) -> None:
    """Counts every rename, removal and new directory of this project, and ends the process before the given one."""
    left = change_index

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


def refuse_sockets(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: it sees every socket, whichever library opens it."""
    if event.startswith("socket."):
        SOCKETS_OPENED.append(event)
        raise PermissionError(f"{event}{arguments}: no network in this test")


def live(asked: dict) -> int:
    """The child's whole life; its exit status."""
    os.chdir(asked["directory"])
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.addaudithook(refuse_sockets)
    with suppress(PermissionError):
        socket.socket()
    assert SOCKETS_OPENED.pop() == "socket.__new__", "the hook must see sockets, or its silence proves nothing"
    if asked["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_limit"], resource.RLIM_INFINITY))
    if asked["die_beyond"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["die_beyond"], resource.RLIM_INFINITY))
    if asked["die_at"] is not None:
        die_at(asked["die_at"])
    sys.argv = ["lab", *asked["argv"]]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return OPENED_A_SOCKET if SOCKETS_OPENED else 0


def serve() -> None:
    # urllib3, which sae_lens brings, binds a local socket as it is imported.
    for module in (*VERBS.values(), "elicitation.study.run", "probes.sae.train"):
        import_module(module)
    # Read once, before any child, so that a commit made meanwhile does not tell the children's reports apart.
    revision()
    package_versions()
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                status = live(json.loads(line))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(process, flush=True)
        _, ended = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    serve()
