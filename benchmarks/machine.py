"""machine: what the figures of a benchmark were taken on."""

import os
import platform
from pathlib import Path

import torch


def machine(device: torch.device) -> dict[str, object]:
    """Names and counts, for the file of results."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {"device": named, "cpu": cpu, "n_cores": os.cpu_count(), "n_threads": torch.get_num_threads()}
