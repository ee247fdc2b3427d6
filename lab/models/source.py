"""Where a model comes from, as a value: what a user types becomes one of five sources."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import torch

from lab.records.errors import ModelError

# Names that the hub allows: each half starts with a letter or digit, so `./x` and `/x/y` are never mistaken for one.
HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub, typed as `org/name` or `org/name@revision`."""

    name: str
    revision: str | None = None
    """Branch, tag or commit; None is the hub's default branch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A directory with config.json, safetensors and a tokenizer."""

    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufModel:
    """A GGUF file, which holds weights, configuration and tokenizer."""

    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterModel:
    """A PEFT adapter directory; its adapter_config.json names the model it changes."""

    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltInModel:
    """A model of the catalogue: one that ships with this package, whose history is known, or a pretrained one."""

    name: str


ModelSource: TypeAlias = HubModel | LocalModel | GgufModel | AdapterModel | BuiltInModel

PRETRAINED = ("smollm2",)
"""Names of the pretrained models that `lab models fetch` gets."""
SHIPPED = Path(__file__).parents[1] / "organisms" / "shipped"
"""A directory for each model in this installation, with its card."""
ACCEPTED = "a model directory, an adapter directory, a .gguf file, a built-in model, or org/name on the hub"


def model_source(text: str) -> ModelSource:
    """The source a user means by `text`.

    What exists on disk comes first, then what ships with the package, then the hub, so a local directory is never
    shadowed by a download.
    Raises ModelError when `text` is none of these.
    """
    path = Path(text).expanduser()
    if text and path.is_dir():
        return AdapterModel(path=path) if (path / "adapter_config.json").is_file() else LocalModel(path=path)
    if path.suffix.lower() == ".gguf":
        if path.is_file():
            return GgufModel(path=path)
        raise ModelError(f"no GGUF file at {path}; check the path")
    if text in (*PRETRAINED, *shipped_names()):
        return BuiltInModel(name=text)
    if path.is_file():
        raise ModelError(f"{text!r} is a file, but not a .gguf one; name the directory that holds config.json")
    match = HUB_NAME.fullmatch(text)
    if match is None:
        raise ModelError(f"no model {text!r}; accepted: {ACCEPTED}; built in: {_listed(shipped_names())}")
    return HubModel(name=match["name"], revision=match["revision"])


def source_name(source: ModelSource) -> str:
    """What the source is called in tables and reports: what a user would type to get it again."""
    match source:
        case HubModel(name=name, revision=None) | BuiltInModel(name=name):
            return name
        case HubModel(name=name, revision=revision):
            return f"{name}@{revision}"
        case LocalModel(path=path) | GgufModel(path=path) | AdapterModel(path=path):
            return str(path)
        case never:
            assert_never(never)


def adapter_base(adapter: AdapterModel) -> ModelSource:
    """The model that `adapter` was trained on; a relative path in adapter_config.json starts at the adapter directory.

    Raises ModelError when the configuration is unreadable, names no base, or the chain of bases comes back to itself.
    """
    base = _base_of(adapter)
    seen = {adapter.path.resolve()}
    below = base
    while isinstance(below, AdapterModel):
        if below.path.resolve() in seen:
            raise ModelError(f"adapter {adapter.path} is its own base; set base_model_name_or_path to a whole model")
        seen.add(below.path.resolve())
        below = _base_of(below)
    return base


def built_in_source(model: BuiltInModel) -> LocalModel | AdapterModel:
    """Where a built-in model lies; ModelError with the command that gets it where it was not fetched."""
    if model.name not in PRETRAINED:
        directory = shipped_directory(model.name)
        is_adapter = (directory / "adapter_config.json").is_file()
        return AdapterModel(path=directory) if is_adapter else LocalModel(path=directory)
    if not fetched_directory(model.name).is_dir():
        raise ModelError(f"{model.name} is not on this machine: get it once with `lab models fetch {model.name}`")
    return LocalModel(path=fetched_directory(model.name))


def fetched_directory(name: str) -> Path:
    """Where `lab models fetch` keeps a pretrained model: below ELICITATION_LAB_CACHE, or else the user's cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ELICITATION_LAB_CACHE") or caches / "elicitation-lab") / "models" / name


def shipped_names() -> tuple[str, ...]:
    """The models in this installation, in alphabetical order."""
    return tuple(sorted({file.parent.name for file in SHIPPED.glob("*/*config.json")}))


def shipped_directory(name: str) -> Path:
    """The directory of the shipped model `name`; ModelError listing those there are when it is not one."""
    if name not in shipped_names():
        raise ModelError(f"no built-in model {name!r}; there are: {_listed(shipped_names())}")
    return SHIPPED / name


def _base_of(adapter: AdapterModel) -> ModelSource:
    file = adapter.path / "adapter_config.json"
    try:
        text = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if not isinstance(text, str) or not text:
        raise ModelError(f"{file} names no base model; set base_model_name_or_path")
    beside = adapter.path / text
    try:
        return model_source(str(beside) if beside.exists() else text)
    except ModelError as error:
        raise ModelError(f"base of adapter {adapter.path}: {error}") from error


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none installed"


DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

PARAMETERS_A_THREAD = 16_000_000
"""Below this a second thread waits longer for the first than it works: `lab.models.source.threads_for_size`."""
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
