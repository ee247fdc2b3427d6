"""The child process that answers requests, or is killed."""

import os
import threading
import time

import pytest

from lab.records.errors import TaskError
from lab.tasks.worker import Answered, Failed, Worker


def echo(request):
    """Runs in the worker."""
    match request:
        case {"print": str(text)}:
            print(text)
        case {"spin": True}:
            while True:
                pass
        case {"sleep": True}:
            time.sleep(100)
        case {"exit": True}:
            raise SystemExit(3)
        case {"die": True}:
            os._exit(7)
        case {"fill": True}:
            return {"length": len(bytearray(2**40))}
        case {"import": str(name)}:
            __import__(name)
        case {"power": True}:
            return {"length": len(str(9**9**9))}
    return {**request, "pid": os.getpid()}


@pytest.fixture(scope="module")
def worker():
    # The worker must find this file by a module name, which the tests' import mode does not give it.
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).parent))
    worker = Worker("test_worker:echo")
    yield worker
    worker.close()
    sys.path.remove(str(Path(__file__).parent))


def test_requests_are_answered_by_one_process_in_order(worker):
    answers = [worker.ask({"n": n, "text": "\ud800\u2028\n"}, timeout_s=5.0) for n in range(20)]
    assert [answer.value["n"] for answer in answers] == list(range(20))
    assert {answer.value["pid"] for answer in answers} == {worker._process.pid}
    assert worker._process.pid != os.getpid()


def test_what_the_handler_prints_or_exits_with_does_not_disturb_the_replies(worker):
    assert isinstance(worker.ask({"print": '{"value": {}}\nready'}, timeout_s=5.0), Answered)
    assert worker.ask({"exit": True}, timeout_s=5.0) == Failed("SystemExit: 3")
    assert isinstance(worker.ask({}, timeout_s=5.0), Answered)


@pytest.mark.parametrize(
    ("request_", "reason", "timeout_s"),
    [
        ({"spin": True}, "timed out", 0.2),
        ({"power": True}, "timed out", 0.2),
        ({"sleep": True}, "timed out", 0.1),
        ({"die": True}, "worker ended with 7", 5.0),
        ({"fill": True}, "MemoryError: no reason given", 5.0),
    ],
)
def test_a_request_that_hangs_or_kills_fails_alone_and_leaves_no_process(worker, request_, reason, timeout_s):
    before = worker.ask({}, timeout_s=5.0).value["pid"]
    assert worker.ask(request_, timeout_s=timeout_s) == Failed(reason)
    after = worker.ask({}, timeout_s=5.0).value["pid"]
    if before != after:
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)


def test_a_worker_killed_between_requests_is_replaced(worker):
    first = worker.ask({}, timeout_s=5.0).value["pid"]
    os.kill(first, 9)
    time.sleep(0.2)
    assert worker.ask({}, timeout_s=5.0).value["pid"] != first


def test_threads_share_a_worker(worker):
    got = []
    threads = [
        threading.Thread(target=lambda n=n: got.append((n, worker.ask({"n": n}, timeout_s=5.0).value["n"])))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(n, n) for n in range(8)]


def test_a_forked_child_starts_its_own_worker(worker):
    mine = worker.ask({}, timeout_s=5.0).value["pid"]
    child = os.fork()
    if child == 0:
        try:
            other = worker.ask({}, timeout_s=5.0).value["pid"]
            worker.close()
            os._exit(0 if other != mine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker.ask({}, timeout_s=5.0).value["pid"] == mine


def test_closing_ends_the_process_and_a_later_request_starts_another(worker):
    first = worker.ask({}, timeout_s=5.0).value["pid"]
    worker.close()
    assert worker._process is None
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert isinstance(worker.ask({}, timeout_s=5.0), Answered)


def test_a_request_that_misses_a_package_is_a_task_error_and_the_next_one_is_answered(worker):
    with pytest.raises(TaskError, match=r"cannot be used: ModuleNotFoundError: .*no_such_module.*; reinstall it"):
        worker.ask({"import": "no_such_module"}, timeout_s=5.0)
    assert isinstance(worker.ask({}, timeout_s=5.0), Answered)


def test_a_handler_that_does_not_exist_is_a_task_error():
    with pytest.raises(TaskError, match="ModuleNotFoundError"):
        Worker("lab.no_such_module:f").ask({}, timeout_s=1.0)
