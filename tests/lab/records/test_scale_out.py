"""Here, shards are mapped in order; an error says how to get workers. With workers: `test_scale_out_on_ray.py`."""

import sys

import pytest
import torch

from lab.records.errors import StorageError, WorkerError
from lab.records.scale_out import Here, Ray, map_shards

CPU = torch.device("cpu")


def never():
    raise AssertionError("prepared")


def test_here_the_shards_are_done_in_order_after_one_preparation():
    happened = []

    def prepare():
        happened.append("prepared")
        return lambda shard: happened.append(f"did {shard}")

    map_shards(prepare, (2, 0, 1), Here(), device=CPU, on_done=lambda shard: happened.append(f"told {shard}"))
    assert happened == ["prepared", "did 2", "told 2", "did 0", "told 0", "did 1", "told 1"]


@pytest.mark.parametrize("on", [Here(), Ray()])
def test_without_shards_nothing_is_prepared(on):
    map_shards(never, (), on, device=CPU)


def test_here_an_error_ends_the_work_and_what_was_done_stays():
    happened = []

    def work(shard: str) -> None:
        if shard == "b":
            raise StorageError("b cannot be written")
        happened.append(shard)

    with pytest.raises(StorageError, match="b cannot be written"):
        map_shards(lambda: work, "abc", Here(), device=CPU, on_done=lambda shard: happened.append(f"told {shard}"))
    assert happened == ["a", "told a"]


def test_without_ray_an_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r"Ray is not installed .*: pip install 'elicitation-lab\[ray\]'"):
        map_shards(never, ("a",), Ray(), device=CPU)


@pytest.mark.parametrize("n_workers", [0, -1])
def test_no_workers_are_refused(n_workers):
    with pytest.raises(WorkerError, match=f"^{n_workers} workers: want at least 1"):
        map_shards(never, ("a",), Ray(n_workers=n_workers), device=CPU)


@pytest.mark.parametrize(("address", "reason"), [("nonsense", "Invalid address"), ("127.0.0.1:1", "refused")])
def test_a_cluster_that_is_not_there_is_an_error_of_one_line(monkeypatch, address, reason):
    ray = pytest.importorskip("ray", reason="ray is an optional extra")
    # Whatever other tests of this process have started.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(
        WorkerError, match=rf"cannot join a Ray cluster at '{address}' \(.*{reason}.*ray start --head"
    ) as told:
        map_shards(never, ("a",), Ray(address=address), device=CPU)
    assert "\n" not in str(told.value)
