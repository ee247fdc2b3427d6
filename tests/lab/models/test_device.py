"""Devices and dtypes are what was asked for, or an error."""

import pytest
import torch

from lab.models.device import resolve_device, resolve_dtype
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
