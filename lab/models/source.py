"""Where a model comes from, as a value: what a user types becomes one of five sources; and which files of one count."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from lab.records.errors import ModelError, meant

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
# What decides a model's output, and all that is fetched from the hub: no code, no pickle, no second set of weights.
FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "*.jinja",
)
UNUSED = ("*/*", "consolidated*")
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
        near = meant(text, (*PRETRAINED, *shipped_names()))
        raise ModelError(f"no model {text!r}{near}; accepted: {ACCEPTED}; built in: {_listed(shipped_names())}")
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


CONVERSION = 2
"""Goes up when the same file of weights becomes another model, so that no cache keeps the old one: 2 splits digits."""


def fetched_directory(name: str) -> Path:
    """Where `lab models fetch` keeps a pretrained model: below ELICITATION_LAB_CACHE, or else the user's cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        Path(os.environ.get("ELICITATION_LAB_CACHE") or caches / "elicitation-lab") / "models" / f"{name}-{CONVERSION}"
    )


def shipped_names() -> tuple[str, ...]:
    """The models in this installation, in alphabetical order."""
    return tuple(sorted({file.parent.name for file in SHIPPED.glob("*/*config.json")}))


def shipped_directory(name: str) -> Path:
    """The directory of the shipped model `name`; ModelError listing those there are when it is not one."""
    if name not in shipped_names():
        raise ModelError(f"no built-in model {name!r}; there are: {_listed(shipped_names())}")
    return SHIPPED / name


def directory_digest(path: Path) -> str:
    """Sixteen hex digits over the files of the model in `path`."""
    return files_digest(sorted({file for glob in FILES for file in path.glob(glob)}))


def files_digest(files: list[Path]) -> str:
    """Sixteen hex digits of SHA-256 over names and bytes."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]


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
