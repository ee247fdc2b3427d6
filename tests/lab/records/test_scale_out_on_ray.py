"""Workers of Ray's may die, and every shard is done; their errors come back as themselves; nothing is left of them."""

import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from lab.records import scale_out
from lab.records.errors import ModelError, StorageError, WorkerError
from lab.records.scale_out import MAX_DEATHS, Ray, map_shards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is an optional extra: pip install -e .[ray]"
    ),
]


@dataclass(frozen=True)
class Acting:
    """Prepares a function of shards that say what to do: `write x`, `meet x`, `stumble x`, `die x`, `refuse x` or
    `break x`."""

    out: Path
    refusing: bool = False

    def __call__(self):
        if self.refusing:
            raise ModelError(f"no model for {torch.get_num_threads()} threads")
        print("a worker's noise")

        def intervention(shard: str) -> None:
            verb, name = shard.split()
            tried = self.out / f"{name}.tried"
            if verb == "die" or (verb == "stumble" and not tried.exists()):
                tried.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if verb == "meet":
                self.meet(name)
            if verb == "refuse":
                raise StorageError(f"{name} cannot be written")
            if verb == "break":
                raise ZeroDivisionError(name)
            print("a worker's noise", file=sys.stderr)
            (self.out / name).write_text(f"{os.getpid()}")

        return intervention

    def meet(self, name: str) -> None:
        """Waits for another process that was given a shard to meet at."""
        (self.out / f"{name}.here").write_text(f"{os.getpid()}")
        wanted = time.monotonic() + 120
        while {path.read_text() for path in self.out.glob("*.here")} <= {"", f"{os.getpid()}"}:
            if time.monotonic() > wanted:
                raise StorageError(f"{name} met nobody")
            time.sleep(0.05)


def mapped(out: Path, shards: tuple[str, ...], on: Ray, **options) -> list[str]:
    """The shards that were done, as they were told."""
    done: list[str] = []
    try:
        map_shards(Acting(out, **options), shards, on, device=torch.device("cpu"), on_done=done.append)
    finally:
        assert {shard.split()[1] for shard in done} <= {path.name for path in out.iterdir()}
    return done


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """What `Ray` starts, once for all tests of this module."""
    with scale_out._cluster(Ray(n_workers=2)):
        import ray

        # Workers cannot import a test.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield


def crew() -> list[psutil.Process]:
    """The processes below this one that are workers of Ray's."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name().startswith("ray::_Worker"):
                found.append(child)
    return found


def test_on_ray_every_shard_is_done_once_though_workers_die(cluster, tmp_path, capfd):
    shards = ("meet a", "stumble b", "meet c", "write d", "write e", "write f")
    assert sorted(mapped(tmp_path, shards, Ray(n_workers=2))) == sorted(shards)
    ids = {int((tmp_path / name).read_text()) for name in "abcdef"}
    assert len(ids) > 1
    assert os.getpid() not in ids
    assert psutil.wait_procs(crew(), timeout=30)[1] == []
    # Neither what the workers printed nor what Ray says of their deaths.
    assert capfd.readouterr() == ("", "")


def test_a_shard_that_ends_every_worker_is_named_and_the_others_are_kept(cluster, tmp_path):
    with pytest.raises(WorkerError, match=f"^{MAX_DEATHS} workers died at shard die b, .* what is finished is kept"):
        mapped(tmp_path, ("write a", "die b", "write c"), Ray(n_workers=1))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b.tried"}


def test_a_lab_error_of_a_worker_comes_back_as_itself(cluster, tmp_path):
    with pytest.raises(StorageError, match=r"^b cannot be written$") as told:
        mapped(tmp_path, ("write a", "refuse b", "write c"), Ray(n_workers=1))
    assert type(told.value) is StorageError
    assert (tmp_path / "a").exists()


def test_any_other_error_of_a_worker_shows_where_it_was(cluster, tmp_path):
    with pytest.raises(ZeroDivisionError, match="in intervention\n"):
        mapped(tmp_path, ("break a",), Ray(n_workers=1))


def test_a_worker_has_as_many_threads_as_this_process(cluster, tmp_path):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ModelError, match=r"^no model for 2 threads$"):
            mapped(tmp_path, ("write a",), Ray(), refusing=True)
        torch.set_num_threads(1000)
        with pytest.raises(WorkerError, match=r"none of the 1 machines .* core for each of the 1000 threads of this"):
            mapped(tmp_path, ("write a",), Ray())
    finally:
        torch.set_num_threads(n_threads)


def test_work_for_a_gpu_is_refused_by_a_cluster_without_one(cluster, tmp_path):
    import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU here")
    with pytest.raises(WorkerError, match=r"none of the 1 machines .* has a GPU"):
        map_shards(Acting(tmp_path), ("write a",), Ray(), device=torch.device("cuda", 1))


def test_a_cluster_of_this_machine_listens_to_no_other(cluster):
    mine = {psutil.Process().pid, *(child.pid for child in psutil.Process().children(recursive=True))}
    heard = [
        listening.laddr.ip.removeprefix("::ffff:")
        for listening in psutil.net_connections(kind="inet")
        if listening.status == psutil.CONN_LISTEN and listening.pid in mine
    ]
    assert heard
    assert set(heard) <= {"127.0.0.1", "::1"}
