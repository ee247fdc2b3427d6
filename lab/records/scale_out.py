"""scale_out: a function mapped over shards, in this process or in worker processes of Ray's.

The only door to Ray, which starts processes, hands out shards and notices deaths, and no more. Resuming is the
caller's: it lists the shards that are missing, and each is written whole or not at all. No tensor passes through Ray's
object store: workers read what they need and write their shards themselves, so the machines of a cluster share a file
system.
"""

import contextlib
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lab.records.errors import LabError, WorkerError, condensed

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

MAX_DEATHS = 3
"""A shard that has ended this many workers is given up; so is a start that has, with no worker started in between."""
STORE_BYTES = 80 * 2**20
"""Memory of Ray's own object store, about the least it takes; only names of shards and errors pass through it."""

Shard = TypeVar("Shard")


@dataclass(frozen=True, slots=True)
class Here:
    """In this process, one shard after another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ray:
    """In workers of Ray's: on the GPU, one for each; on the CPU, as many as have cores for this process's threads.

    Torch takes all cores for one process, unless OMP_NUM_THREADS says otherwise: with 1, there is a worker a core.
    """

    address: str | None = None
    """Of a running cluster, this machine being one of its nodes, or "auto"; None starts workers on this machine only.

    All its machines have this package in the same version, and the files at the same paths. Its workers stay quiet.
    """
    n_workers: int | None = None
    """At most so many; None is as many as there is room for."""


def place(words: Sequence[str] | None) -> Here | Ray:
    """Where a command line asks for work: here by None, on Ray's workers by no word, on a cluster by its address."""
    return Here() if words is None else Ray(address=next(iter(words), None))


def map_shards(
    prepare: Callable[[], Callable[[Shard], None]],
    shards: Sequence[Shard],
    on: Here | Ray,
    *,
    device: torch.device,
    on_done: Callable[[Shard], None] = lambda _: None,
) -> None:
    """Calls `prepare()` once in each worker, and the function that it returns on every one of `shards`.

    On Ray, `prepare` and the shards are values that can be pickled, `prepare` best a frozen dataclass of where things
    are; a worker has as many torch threads as this process, so that it computes the same bytes. On `device` "cuda" a
    worker has a GPU of its own, which it sees as cuda:0. A worker that dies, as when memory runs out, is replaced, and
    its shard given to another. `on_done` is told each shard when it is done, in this process and in any order.

    The first error ends the work; shards that are done stay done. A LabError of a worker is raised as itself. Raises
    WorkerError without Ray, a cluster or room for a worker, and for a shard that ended `MAX_DEATHS` workers.
    """
    if not shards:
        return
    match on:
        case Here():
            work = prepare()
            for shard in shards:
                work(shard)
                on_done(shard)
        case Ray():
            with _cluster(on):
                _spread(prepare, shards, on, device, on_done)


class _Worker:
    """Lives in a process of Ray's. A LabError is returned, since Ray would wrap what is raised in its own."""

    def open(self, prepare: Callable[[], Callable[[Any], None]], n_threads: int) -> LabError | None:
        # Ray gives its workers one thread; another number adds floats up in another order.
        torch.set_num_threads(n_threads)
        try:
            self.work = prepare()
        except LabError as error:
            return error
        return None

    def run(self, shard: object) -> LabError | None:
        try:
            self.work(shard)
        except LabError as error:
            return error
        return None


def _spread(
    prepare: Callable[[], Callable[[Shard], None]],
    shards: Sequence[Shard],
    on: Ray,
    device: torch.device,
    on_done: Callable[[Shard], None],
) -> None:
    """`map_shards` on the cluster that this process is connected to."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

    n_threads = torch.get_num_threads()
    n_cpus, n_gpus = (1, 1) if device.type == "cuda" else (n_threads, 0)
    # Ray's types know no methods of an actor.
    actor: Any = ray.remote(_Worker).options(num_cpus=n_cpus, num_gpus=n_gpus)
    crew: list[ActorHandle] = []
    # What each worker is at: the place of a shard, or None while it starts.
    tasks: dict[ObjectRef, tuple[ActorHandle, int | None]] = {}

    def hire() -> None:
        worker = actor.remote()
        crew.append(worker)
        tasks[worker.open.remote(prepare, n_threads)] = worker, None

    waiting, deaths, n_left = deque(range(len(shards))), Counter[int | None](), len(shards)
    try:
        for _ in range(min(_room(n_cpus, n_gpus), on.n_workers or len(shards), len(shards))):
            hire()
        while n_left:
            (ended,), _ = ray.wait(list(tasks), num_returns=1)
            worker, at = tasks.pop(ended)
            try:
                error = ray.get(ended)
            except (RayActorError, OutOfMemoryError, NodeDiedError):
                deaths[at] += 1
                if deaths[at] == MAX_DEATHS:
                    raise _given_up("their start" if at is None else f"shard {shards[at]}") from None
                if at is not None:
                    waiting.appendleft(at)
                hire()
                continue
            if error is not None:
                raise error
            if at is None:
                deaths[None] = 0
            else:
                n_left -= 1
                on_done(shards[at])
            if waiting:
                following = waiting.popleft()
                tasks[worker.run.remote(shards[following])] = worker, following
    finally:
        for worker in crew:
            ray.kill(worker)


def _room(n_cpus: int, n_gpus: int) -> int:
    """Workers of so many cores and GPUs that the machines of the cluster can hold together; WorkerError for none."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if n_gpus:
        room = sum(int(machine.get("GPU", 0)) for machine in machines)
        wanted = "has a GPU, as this process does: try --device cpu"
    else:
        room = sum(int(machine.get("CPU", 0)) // n_cpus for machine in machines)
        wanted = f"has a core for each of the {n_cpus} threads of this process: set OMP_NUM_THREADS to fewer"
    if not room:
        raise WorkerError(f"none of the {len(machines)} machines of the Ray cluster {wanted}")
    return room


def _given_up(what: str) -> WorkerError:
    return WorkerError(
        f"{MAX_DEATHS} workers died at {what}, most often for want of memory: try fewer workers, smaller shards or "
        "smaller passes; what is finished is kept, and the same command goes on from there"
    )


@contextlib.contextmanager
def _cluster(on: Ray) -> Iterator[None]:
    """A connection to a cluster of Ray's, ended with the block, unless this process had one before."""
    if on.n_workers is not None and on.n_workers < 1:
        raise WorkerError(f"{on.n_workers} workers: want at least 1")
    try:
        import ray
        from ray._private import worker as ray_worker
    except ModuleNotFoundError as error:
        raise WorkerError(f"Ray is not installed ({error}): pip install 'elicitation-lab[ray]'") from error

    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        # Ray's notes of deaths, which `log_to_driver` does not stop; what workers print is in its log files.
        stack.enter_context(_changed(ray_worker, "_worker_logs_enabled", False))
        if on.address is None:
            _start(stack, on.n_workers and on.n_workers * torch.get_num_threads())
        else:
            stack.callback(ray.shutdown)
            try:
                host, _, port = on.address.rpartition(":")
                if port.isdecimal():
                    # Where nothing answers, Ray would knock minutes long.
                    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
                ray.init(address=on.address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise WorkerError(
                    f"cannot join a Ray cluster at {on.address!r} ({condensed(error)}): start one with `ray start "
                    "--head`, set RAY_AUTH_MODE=token if it asks for one, or leave out the address for workers on this "
                    "machine"
                ) from error
        yield


def _start(stack: contextlib.ExitStack, n_cpus: int | None) -> None:
    """Starts a cluster of this machine alone, which ends and leaves no file when `stack` does."""
    import ray
    from ray._private import ray_constants

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray obeys whoever reaches its ports. So it opens them to this machine only; given 127.0.0.1 as an address, it
    # would take that of the network instead.
    stack.enter_context(_changed(ray_constants, "ENABLE_RAY_CLUSTER", False))
    # The path of a socket, which has 107 bytes at most, starts with this.
    folder = stack.enter_context(TemporaryDirectory(prefix="lab-", dir="/tmp", ignore_cleanup_errors=True))
    stack.callback(ray.shutdown)
    ray.init(
        address="local",
        num_cpus=n_cpus,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )


@contextlib.contextmanager
def _changed(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """`module` with another value of a name, within the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
