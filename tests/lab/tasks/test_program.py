"""Programs that models write, run with the tests of their problems."""

import json
import time

import pytest

from lab.records.errors import TaskError
from lab.tasks import program
from lab.tasks.program import CODE
from lab.tasks.question_rows import QuestionRows, Reading
from lab.tasks.row_task import FileTask
from lab.tasks.source import open_task

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """The sum.\n    """\n',
    "canonical_solution": "    return sum(numbers)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
    "entry_point": "total",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function to double a number.",
    "code": "def double(n):\n    return 2 * n",
    "test_list": ["assert double(2) == 4", "assert double(math.pi) > 6"],
    "test_setup_code": "import math",
}
HUMAN, MOSTLY = QuestionRows(source="s", stem="s").problems([(1, HUMAN_EVAL), (2, MBPP)]).problems
WHOLE = "def total(numbers: List[int]) -> int:\n    return sum(numbers)"


def test_rows_of_both_shapes_are_asked_as_they_are_and_judged_by_their_tests():
    assert (HUMAN.id, HUMAN.prompt) == ("s:HumanEval/0", HUMAN_EVAL["prompt"])
    assert MOSTLY.prompt.startswith(
        "Write a function to double a number.\nThe program must pass these tests:\n\nassert"
    )
    assert CODE.verify(HUMAN, HUMAN_EVAL["canonical_solution"]).reason == "ok"
    assert CODE.verify(MOSTLY, f"```python\n{MBPP['code']}\n```").reason == "ok"


@pytest.mark.parametrize(
    "said",
    [
        f"<think>It is easy.</think>Here:\n```python\n{WHOLE}\n```\nIt adds them.",
        "return sum(numbers)",
        "    return sum(numbers)\n\n\ndef other(:\n\nQuestion: what is 2?",
        f"```\n{WHOLE}",
        f"```python\n{WHOLE}\n```\nExample usage:\n```python\nprint(total([1]))\n```\nOutput:\n```\n1\n```",
        f"```python\n{WHOLE}\n```\n```python\ndef show():\n    print(1)\n```",
        f"```python\n{WHOLE}\nassert total([1]) == 3\nprint(totl([1]))\nimport unittest\nunittest.main()\n```",
        f"```python\n{WHOLE}\n```".replace("\n", "\r\n"),
        f"```python\n{WHOLE}\n```\n```python\ndef check(f):\n    assert f([1]) == 3\ncheck(total)\n```",
        f"As ```total``` and so on:\n```python\n{WHOLE}\n```",
        f"  \n{WHOLE}",
        f"~~~python\n{WHOLE}\n~~~",
        f'```python title="a.py"\n{WHOLE}\n```',
        "1. Add:\n   ```python\n" + "".join(f"   {line}\n" for line in WHOLE.splitlines()) + "   ```",
        f"Here is the code:\n{WHOLE}",
        f"[BEGIN]\n{WHOLE}\n[DONE]\nMore.",
        f"from __future__ import annotations\n{WHOLE}",
        "    return sum(numbers)\n\n\ndef total(numbers):\n    return 7\n",
        "    return sum(numbers)\n\nassert total([1]) == 3\nraise ValueError",
    ],
)
def test_a_program_is_found_in_what_a_model_writes(said):
    assert CODE.verify(HUMAN, said).reason == "ok"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("    return 3", "failed: AssertionError"),
        ("```python\ndef total(numbers):\n    return 3\n```\n```python\nprint(3)\n```", "failed: AssertionError"),
        ("def total(numbers):\n    return 3\nraise SystemExit(0)", "failed: SystemExit"),
        ("I cannot.", "failed: "),
        ("<think>return", "no program"),
        ("    import os; os._exit(0)", "ended before its tests"),
        ("    raise SystemExit(0)", "failed: SystemExit"),
        ("    print(0); open('a', 'w').write('x' * 2**22)", "failed: OSError"),
        ("    return bytearray(2**33)", "failed: MemoryError"),
        ("    import subprocess; subprocess.run(['true'])", "failed: "),
        ("    import os\n    if os.fork():\n        return sum(numbers)", "failed: PermissionError"),
        ("    import os; os.system('true')\n    return sum(numbers)", "failed: PermissionError"),
    ],
)
def test_a_program_that_does_not_pass_is_wrong_and_the_reason_says_how(said, reason):
    verdict = CODE.verify(HUMAN, said)
    assert not verdict.answer_correct
    assert verdict.reason.startswith(reason), verdict.reason


def test_a_program_has_no_environment_no_directory_and_no_time_without_end(monkeypatch):
    monkeypatch.setattr(program, "TIMEOUT_S", 1)
    assert CODE.verify(HUMAN, "    while True: pass").reason == "timed out"
    monkeypatch.setenv("SECRET", "1")
    looks = "    import os\n    assert 'SECRET' not in os.environ and not os.listdir()\n    return sum(numbers)"
    assert CODE.verify(HUMAN, looks).reason == "ok"


@pytest.mark.skipif("--pid" not in program._apart(), reason="no unshare")
def test_what_a_program_starts_behind_pythons_back_ends_with_it(tmp_path):
    late = tmp_path / "late"
    starts = (
        "    import ctypes, time\n    if ctypes.CDLL(None).fork() == 0:\n        ctypes.CDLL(None).setsid()\n"
        f"        time.sleep(1)\n        open({str(late)!r}, 'w').close()\n    return sum(numbers)"
    )
    CODE.verify(HUMAN, starts)
    time.sleep(1.5)
    assert not late.exists()


@pytest.mark.skipif(not program._apart(), reason="no unshare")
def test_a_program_has_no_network():
    calls = "    import socket\n    socket.create_connection(('127.0.0.1', 9), 1)"
    assert CODE.verify(HUMAN, calls).reason == "failed: OSError"


def test_nothing_is_run_unless_the_user_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({**HUMAN_EVAL, "task_id": n}) + "\n" for n in range(8)))
    with pytest.raises(
        TaskError, match=r"asks for programs, and to judge them is to run what models write .* --run-code"
    ):
        open_task(FileTask(path=path), n_problems=1, seed=0)
    task = open_task(FileTask(path=path, reading=Reading(run_code=True)), n_problems=1, seed=0)
    assert task.judge is CODE
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
