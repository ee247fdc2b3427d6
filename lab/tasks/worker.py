"""Worker: a child process that answers requests one at a time, and is killed when a request hangs.

Symbolic algebra on a model's text can run for ever or fill the memory, and `signal.alarm` works in main threads only.
So such work is done in a child, in JSON lines over pipes. The kernel ends the child when it has spent the processor
time of the request, whatever code is running then, and the next request starts a new one.
"""

import atexit
import contextlib
import faulthandler
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lab.records.errors import TaskError, condensed

MEMORY_BYTES = 8 * 2**30
"""Address space of a worker; beyond it a request fails with MemoryError instead of calling the system's killer."""
PATIENCE = 6
"""A request may last this many times its processor time, for a busy machine or a worker that waits for nothing."""

SIGPROF = 27
"""What the processor timer sends, on every Unix; Windows has neither."""

Request: TypeAlias = dict[str, object]
"""What JSON can hold."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The handler returned."""

    value: dict[str, object]


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised anything but an ImportError, ran out of time, or took its process with it."""

    reason: str


class Worker:
    """Starts with the first request, and ends with the interpreter or at `close`. Threads may share it."""

    __slots__ = ("__weakref__", "_handler", "_lock", "_package", "_prepare", "_process")

    def __init__(self, handler: str, *, package: str | None = None, prepare: str | None = None) -> None:
        """`handler` is a function of a request that returns JSON, written `module:function`.

        `prepare` is a function of nothing, written likewise, that a worker calls before its first request, outside any
        time limit: what it raises is a fault of the installed `package` and no fault of a request.
        """
        self._handler = handler
        self._package = package or handler
        self._prepare = prepare
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._forget)

    def ask(self, request: Request, *, timeout_s: float) -> Answered | Failed:
        """What the handler makes of `request` within `timeout_s` seconds of processor time.

        Raises TaskError only where no worker can be started, or the handler cannot import what it needs.
        """
        line = json.dumps({"timeout_s": timeout_s, "request": request}) + "\n"
        with self._lock:
            try:
                process = self._started()
                with contextlib.suppress(BrokenPipeError):
                    _pipe(process.stdin).write(line)
                    _pipe(process.stdin).flush()
                reply = _pipe(process.stdout).readline()
            except BaseException:
                # The reply of an interrupted request must not be read as that of the next one, nor must a greeting.
                self._end()
                raise
            if reply.endswith("\n"):
                message = json.loads(reply)
                if "unusable" in message:
                    raise self._unusable(message["unusable"])
                return Answered(message["value"]) if "value" in message else Failed(message["error"])
            self._end()
            # faulthandler leaves with 1, the processor timer with its signal.
            hung = process.returncode in (1, -SIGPROF)
            return Failed("timed out" if hung else f"worker ended with {process.returncode}")

    def close(self) -> None:
        """Ends the process, if there is one; a later request starts another."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        path = [folder or str(os.getcwd()) for folder in sys.path]  # noqa: PTH109
        # A fixed hash seed, because some generators of problems iterate over sets.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "0"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        code = "import sys; from lab.tasks.worker import serve; serve(*sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, self._handler, self._prepare or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="ascii",
            # Else Ctrl-C in a terminal would end the worker in the middle of a request.
            start_new_session=True,
        )
        greeting = _pipe(self._process.stdout).readline()
        if greeting != "ready\n":
            self._end()
            raise self._unusable(greeting.strip() or "its worker died while it started")
        return self._process

    def _unusable(self, reason: str) -> TaskError:
        return TaskError(f"{self._package} cannot be used: {reason}; reinstall it")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            _pipe(process.stdin).close()
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _pipe(process.stdout).close()

    def _forget(self) -> None:
        """In a forked child: the process belongs to the parent, and another thread may have held the lock."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0
            self._process = None


def serve(handler: str, prepare: str = "") -> None:
    """The life of the child: a greeting, then a reply a request, until the pipe closes."""
    # What third parties print goes nowhere, so that only replies are in the pipe.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = os.fdopen(os.dup(sys.stdin.fileno()), encoding="ascii")
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    _limit_memory()
    try:
        function: Callable[[Request], Request] = _named(handler)
        if prepare:
            _named(prepare)()
    # A broken package may even exit.
    except BaseException as error:
        print(_line(error), file=replies, flush=True)
        return
    print("ready", file=replies, flush=True)
    while line := requests.readline():
        message = json.loads(line)
        print(json.dumps(_reply(function, message["request"], message["timeout_s"])), file=replies, flush=True)


def _reply(function: Callable[[Request], Request], request: Request, timeout_s: float) -> Request:
    # Third parties draw from the global generators now and then; equal requests must get equal replies.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    _allow(timeout_s)
    try:
        return {"value": function(request)}
    # What is not installed is no fault of the request.
    except ImportError as error:
        return {"unusable": _line(error)}
    # A request that exits, interrupts or exhausts itself is a failed request.
    except BaseException as error:
        return {"error": _line(error)}
    finally:
        _allow(0.0)


def _named(name: str) -> Callable[..., Request]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _line(error: BaseException) -> str:
    return condensed(error, 200).encode("ascii", "backslashreplace").decode("ascii")


def _allow(timeout_s: float) -> None:
    """Lets this process run `timeout_s` seconds of processor time, and a few times that by the clock; 0 is no limit."""
    if timeout_s:
        faulthandler.dump_traceback_later(PATIENCE * timeout_s, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, timeout_s)


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _pipe(stream: object) -> io.TextIOWrapper:
    assert isinstance(stream, io.TextIOWrapper), "the worker was started with pipes of text"
    return stream
