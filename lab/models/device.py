"""Where, how precisely and in how many threads to compute."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from lab.records.errors import ModelError

DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

PARAMETERS_A_THREAD = 16_000_000
"""Below this a second thread waits longer for the first than it works: `lab.models.device.threads_for_size`."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def resolve_device(text: str) -> torch.device:
    """The device meant by "auto", "cpu", "cuda", "cuda:1" or "mps"; "auto" takes the first there is of cuda, mps, cpu.

    Raises ModelError for a device this machine lacks: a silent fall back to the CPU would look like a hung run.
    """
    available = _available()
    if text == "auto":
        return available[0]
    kind, _, index = text.partition(":")
    # "cuda" alone is the first GPU, spelled out so that equal places compare equal.
    wanted = f"{kind}:{index or 0}" if kind == "cuda" else text
    for device in available:
        if str(device) == wanted:
            return device
    raise ModelError(f"no device {text!r} here; there is: {', '.join(map(str, available))}, or auto")


def resolve_double_device(text: str) -> torch.device:
    """As `resolve_device`, for work whose sums are kept in float64: "auto" passes over mps, which has none.

    Raises ModelError also for mps.
    """
    device = resolve_device(text)
    if device.type != "mps":
        return device
    if text == "auto":
        return torch.device("cpu")
    raise ModelError("mps has no float64, in which features are summed: want cpu or cuda")


def resolve_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype meant by `name`; "auto" is bfloat16 on cuda and float32 elsewhere, where bfloat16 is slow or partial.

    Raises ModelError for another name.
    """
    match name:
        case "auto":
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            return torch.float16
    raise ModelError(f"no dtype {name!r}; accepted: auto, float32, bfloat16, float16")


def _available() -> tuple[torch.device, ...]:
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
    return (*gpus, *mps, torch.device("cpu"))


def threads_for_size(n_parameters: int, n_cores: int) -> int:
    """How many threads of torch's models of so many parameters want: one for every 16 million, of the cores there are.

    In a small network each of the many products is over before a second thread has woken up. Where another process
    keeps a core busy, every product waits for the thread that shares it. Nothing else decides, neither the batch nor
    the stage, since sums in another number of threads differ in their last bits: a study's numbers hang on its models
    and on the machine alone.
    """
    return max(1, min(n_cores, n_parameters // PARAMETERS_A_THREAD))


def settle_threads(n_parameters: int, environment: Mapping[str, str] = os.environ) -> int:
    """Gives torch as many threads as models of this size want, for the rest of the process, and returns how many.

    For the outermost layer, to which the process belongs. A user's word stands: where OMP_NUM_THREADS says how many,
    nothing changes, and there are never more than torch had before, which `torch.set_num_threads` may have limited.
    """
    if not environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(threads_for_size(n_parameters, min(torch.get_num_threads(), usable_cores())))
    return torch.get_num_threads()


@contextmanager
def settled_threads(n_parameters: int) -> Iterator[int]:
    """As `settle_threads`, within the block; afterwards torch has the threads that it had."""
    before = torch.get_num_threads()
    try:
        yield settle_threads(n_parameters)
    finally:
        torch.set_num_threads(before)


def usable_cores() -> int:
    """The cores that this process may use: those it is tied to, and no more than its control group's quota of time."""
    tied = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(tied, _core_quota(CONTROL_GROUPS))))


def threads_rule(environment: Mapping[str, str] = os.environ) -> str:
    """What `lab doctor` says of threads."""
    if asked := environment.get("OMP_NUM_THREADS"):
        return f"{asked} whatever the model, as OMP_NUM_THREADS says"
    most = min(torch.get_num_threads(), usable_cores())
    if most == 1:
        return "1 whatever the model: there is one core"
    millions = PARAMETERS_A_THREAD // 10**6
    return (
        f"1 for models under {2 * millions} million parameters, else one for every {millions} million, up to {most}; "
        "OMP_NUM_THREADS overrules this"
    )


def _core_quota(groups: Path) -> float:
    """Cores' worth of time that the control group allows, by version 2 or 1 of the interface; inf without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        if all((groups / file).is_file() for file in files):
            quota, period = " ".join((groups / file).read_text() for file in files).split()
            return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf


def device_memory(device: torch.device) -> int | None:
    """Bytes that the device has in all, whoever uses them; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def flop_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second, of large products in this precision, measured for about so long."""
    n_wide = 8192 if device.type == "cuda" else 1024
    one = torch.ones(n_wide, n_wide, device=device, dtype=dtype) / n_wide

    def settle() -> float:
        # Reading a number waits for all that was begun.
        float((one @ one)[0, 0])
        return time.perf_counter()

    start, n_done = settle(), 0
    while (now := settle()) - start < seconds:
        n_done += 1
    return 2.0 * n_wide**3 * (n_done + 1) / (now - start)
