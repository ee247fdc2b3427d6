"""Where and how precisely to compute, from what a user types."""

from typing import Literal, TypeAlias

import torch

from lab.records.errors import ModelError

DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


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
