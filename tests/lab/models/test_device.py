"""Devices and dtypes are what was asked for, or an error; threads are as many as the model's size wants."""

import subprocess
import sys

import pytest
import torch

from lab.models import device
from lab.models.device import (
    resolve_device,
    resolve_dtype,
    settle_threads,
    settled_threads,
    threads_for_size,
    threads_rule,
    usable_cores,
)
from lab.records.errors import ModelError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """Sets how many GPUs this machine seems to have, and whether it has mps."""

    def pretend(n_gpus, has_mps):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)

    return pretend


@pytest.mark.parametrize(("n_gpus", "has_mps", "expected"), [(0, False, CPU), (0, True, MPS), (2, True, CUDA)])
def test_auto_takes_cuda_before_mps_before_the_cpu(machine, n_gpus, has_mps, expected):
    machine(n_gpus, has_mps)
    assert resolve_device("auto") == expected


def test_a_device_that_is_there_is_given(machine):
    machine(2, True)
    assert resolve_device("cpu") == CPU
    assert resolve_device("mps") == MPS
    assert resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("text", ["cuda", "cuda:1", "mps", "tpu", "", "cuda:x", "cpu:0"])
def test_a_device_that_is_absent_is_refused_with_those_there_are(machine, text):
    machine(0, False)
    with pytest.raises(ModelError, match=rf"no device '{text}' here; there is: cpu, or auto"):
        resolve_device(text)


def test_a_gpu_beyond_the_last_is_refused(machine):
    machine(1, False)
    with pytest.raises(ModelError, match="there is: cuda:0, cpu, or auto"):
        resolve_device("cuda:1")


def test_auto_is_bfloat16_on_cuda_and_float32_elsewhere():
    assert [resolve_dtype("auto", device) for device in (CUDA, MPS, CPU)] == [
        torch.bfloat16,
        torch.float32,
        torch.float32,
    ]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_given_on_every_device(name):
    assert {resolve_dtype(name, device) for device in (CUDA, MPS, CPU)} == {getattr(torch, name)}


@pytest.mark.parametrize(
    ("millions", "n_cores", "expected"),
    [(0, 64, 1), (1, 64, 1), (31, 64, 1), (32, 64, 2), (135, 64, 8), (135, 2, 2), (7_000, 64, 64), (7_000, 1, 1)],
)
def test_a_model_gets_a_thread_for_every_sixteen_million_parameters(millions, n_cores, expected):
    assert threads_for_size(millions * 10**6, n_cores) == expected


@pytest.fixture
def eight_threads(monkeypatch):
    """As if torch had eight threads on eight cores; what is set is kept in the list."""
    had = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: had[-1])
    monkeypatch.setattr(torch, "set_num_threads", had.append)
    monkeypatch.setattr(device, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return had


def test_threads_are_settled_within_the_block_and_then_as_before(eight_threads):
    with settled_threads(10**6) as n:
        assert n == torch.get_num_threads() == 1
    assert eight_threads == [8, 1, 8]


def test_threads_a_user_asked_for_stand(eight_threads):
    assert settle_threads(10**6, {"OMP_NUM_THREADS": "8"}) == 8
    torch.set_num_threads(2)
    assert settle_threads(10**9, {}) == 2


def test_doctor_is_told_the_rule(eight_threads):
    assert threads_rule({}).startswith(
        "1 for models under 32 million parameters, else one for every 16 million, up to 8;"
    )
    assert threads_rule({"OMP_NUM_THREADS": "3"}) == "3 whatever the model, as OMP_NUM_THREADS says"
    eight_threads.append(1)
    assert threads_rule({}) == "1 whatever the model: there is one core"


@pytest.mark.parametrize(
    ("files", "n_cores"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota(tmp_path, monkeypatch, files, n_cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(device, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert usable_cores() == n_cores


def test_importing_the_models_leaves_the_threads_of_torch_alone():
    program = "import torch; n = torch.get_num_threads(); import lab.models.load; assert torch.get_num_threads() == n"
    subprocess.run([sys.executable, "-c", program], check=True)
