"""CODE: the verifier that runs a program which a model wrote, together with the tests of its problem.

A program is run in a process of its own: Python alone, without the user's environment, packages of the user or a
network (where the system can take that away), in an empty directory, with limits on time, memory and files. That keeps
what goes wrong small; it is no prison: the process may read and write what the user may. So nothing is run unless the
user says so (`Reading.run_code`).
"""

import json
import operator
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from time import monotonic
from typing import NamedTuple

from lab.records.errors import TaskError
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.stated_answer import behind_thought

TIMEOUT_S, MEMORY_BYTES, FILE_BYTES = 10, 2 * 2**30, 2**20
"""What one program may use: seconds of processor time, address space, and bytes of any file."""
PATIENCE = 3
"""A program may last this many times its processor time, on a busy machine or while it waits."""
TESTS = "\n# --- tests ---\n"
"""In a gold answer, between what stands before the program and what tests it."""
_REFUSED = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen")
"""What a program may not ask of Python: other processes."""
_BLOCK = re.compile(
    r"(?P<indent>^[ \t]*)?(?P<fence>```+|~~~+)(?(indent)[^\n`]*|[ \t]*(?i:python3?|py)?[ \t]*)\n"
    r"(?P<code>.*?)(?:\n[ \t]*(?P=fence)|\Z)|"
    r"\[BEGIN\](?P<told>.*?)(?:\[DONE\]|\Z)",
    re.DOTALL | re.MULTILINE,
)
_DEFINED = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.MULTILINE)
_BEHIND = re.compile(r"\n(?=[\w#@])")
"""Where a function ends whose body alone is written."""

_RUNNER = r"""
import ast, json, os, resource, sys
asked = json.loads(sys.stdin.buffer.read())
for limit, value in asked["limits"].items():
    resource.setrlimit(getattr(resource, limit), (value, value))
answer = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(nothing, stream)

def parsed(lines):
    try:
        tree = ast.parse(asked["before"] + "\n" + "\n".join(lines) + "\n")
        return [(node, compile(ast.Module([node], []), "program", "exec")) for node in tree.body]
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        return None

# No limit holds back root.
def alone(event, given):
    if event in asked["refused"]:
        raise PermissionError(event)

sys.addaudithook(alone)
lines = asked["code"].splitlines()[:1000]
bodies = [lines, ["    " + line for line in lines[:1]] + lines[1:]]
starts = (n for n, line in enumerate(lines) if line.startswith(("def ", "class ", "import ", "from ", "@")))
tried = [(body, n) for n in range(len(lines), 0, -1) for body in bodies]
# Behind words that are no program.
tried += [(lines[start:], n) for start in [*starts][:1] for n in range(len(lines) - start, 0, -1)]
program = next(filter(None, (parsed(body[:n]) for body, n in tried)), None)
said = "no program"
if program is not None:
    names = {"__name__": "program"}
    try:
        for node, code in program:
            try:
                exec(code, names)
            except (Exception, SystemExit):
                # Tests and calls of its own define nothing.
                if not isinstance(node, (ast.Assert, ast.Expr)):
                    raise
        exec(compile(asked["tests"], "tests", "exec"), names)
        said = "ok"
    except BaseException as error:
        said = type(error).__name__[:60]
os.write(answer, (asked["nonce"] + said).encode())
os._exit(0)
"""


class Tests(NamedTuple):
    """What a row that asks for a program is tested by."""

    column: str
    asked: str
    """What is asked, with what must be known of the tests."""
    gold: str
    """What stands before the program, `TESTS`, and the tests."""


def tests_of(row: Mapping[str, object], question: str) -> Tests | None:
    """The tests of a row in the shape of HumanEval (`test`, `entry_point`) or MBPP (`test_list`); None of others."""
    test, name, listed = row.get("test"), row.get("entry_point"), row.get("test_list")
    if isinstance(test, str) and isinstance(name, str):
        # What is asked is a function's head and docstring, which is a whole function for Python.
        return Tests("test", question, f"{question.rstrip()}\n{TESTS}{test}\ncheck({name})\n")
    if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
        before = [row.get("test_setup_code"), *(found if isinstance(found := row.get("test_imports"), list) else [])]
        written = "\n".join(one for one in before if isinstance(one, str))
        tests = "\n".join(map(str, listed))
        return Tests(
            "test_list", f"{question}\nThe program must pass these tests:\n\n{tests}", f"{written}{TESTS}{tests}\n"
        )
    return None


def is_code(problem: Problem) -> bool:
    """Whether a problem asks for a program."""
    return TESTS in problem.answer


def require_leave(source: str, *, run_code: bool) -> None:
    """TaskError, which says what would be done, unless the user said `run_code`."""
    if not run_code:
        raise TaskError(
            f"{source} asks for programs, and to judge them is to run what models write on this machine, each in a "
            f"process of its own with {TIMEOUT_S} s, {MEMORY_BYTES >> 30} GiB, an empty directory and "
            f"{'no network' if _apart() else 'THE NETWORK (unshare is not to be had here)'}, but with your rights to "
            "read and write files anywhere: give --run-code if you want that, or choose another task"
        )


def code_of(completion: str, problem: Problem | None = None) -> str | None:
    """The program that a completion holds: one of its blocks between marks, else all that stands behind its thinking.

    Of several blocks it is the last that defines what the tests of `problem` use, or anything, or the last. Where only
    the body of a function is written, which a problem may begin, it ends with that.
    """
    part = behind_thought(completion)
    if part is None or not part.strip():
        return None
    part = part.replace("\r\n", "\n")
    before, _, tests = ("", "", "") if problem is None else problem.answer.partition(TESTS)
    blocks = [_inside(found) for found in _BLOCK.finditer(part)]
    defined = [{*_DEFINED.findall(block)} for block in blocks]
    used = {*re.findall(r"\w+", tests)} - {*_DEFINED.findall(tests)}
    for names in ([one & used for one in defined], defined):
        if any(names):
            return next(block for block, found in zip(reversed(blocks), reversed(names), strict=True) if found)
    if blocks := [block for block in blocks if block.strip()]:
        return blocks[-1]
    is_body = _DEFINED.search(before) is not None and re.match(r"(?:[ \t]*\n)*[ \t]+\S", part) is not None
    return _BEHIND.split(part.rstrip(), maxsplit=1)[0] if is_body else part


def _inside(found: re.Match[str]) -> str:
    if found["told"] is not None:
        return found["told"]
    return re.sub(rf"^{found['indent'] or ''}", "", found["code"], flags=re.MULTILINE)


def verify(problem: Problem, completion: str) -> Verdict:
    """Whether the program passes all tests; of one that runs on into other text, as many lines as parse are taken."""
    code = code_of(completion, problem)
    fault = "no program" if code is None else outcome(problem, code)
    read_by = None if code is None else "block" if _BLOCK.search(behind_thought(completion) or "") else "whole"
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok", read_by=read_by)


def outcome(problem: Problem, code: str) -> str | None:
    """Why `code` does not pass the problem's tests, or None."""
    before, _, tests = problem.answer.partition(TESTS)
    nonce = secrets.token_hex(16)
    # A second for Python itself to start; the clock is the last resort.
    limits = {"RLIMIT_CPU": TIMEOUT_S + 1, "RLIMIT_AS": MEMORY_BYTES, "RLIMIT_FSIZE": FILE_BYTES, "RLIMIT_NPROC": 0}
    request = {"before": before, "code": code, "tests": tests, "nonce": nonce, "limits": limits}
    request["refused"] = _REFUSED
    began = monotonic()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty,
        subprocess.Popen(
            [*_apart(), sys.executable, "-I", "-c", _RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={"PATH": os.defpath},
            start_new_session=True,
        ) as process,
    ):
        try:
            said, _ = process.communicate(json.dumps(request).encode(), timeout=PATIENCE * TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            # Also what the program has started.
            _end_group(process.pid)
    told = said.decode("utf-8", "replace")
    if not told.startswith(nonce):
        # `unshare` does not tell that the kernel killed what it started.
        return "timed out" if monotonic() - began >= TIMEOUT_S else "ended before its tests"
    found = told.removeprefix(nonce)
    return None if found == "ok" else f"failed: {found}"


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


@cache
def _apart() -> tuple[str, ...]:
    """What starts a process without a network, and all that it starts ends with it; as far as the system lets a user.

    Else nothing.
    """
    offline = ("unshare", "--user", "--map-root-user", "--net")
    for words in ((*offline, "--pid", "--fork", "--kill-child"), offline):
        try:
            done = subprocess.run([*words, "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return words
    return ()


CODE = Judge(name="code", verify=verify, read_answer=code_of, same_answer=operator.eq)
