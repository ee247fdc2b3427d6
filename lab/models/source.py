"""Where a model comes from, as a value: what a user types becomes one of five sources; and which files of one count."""

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, assert_never

from lab.records.errors import ModelError, condensed, meant
from lab.records.provenance import file_digest

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
    "*.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "*.jinja",
    "tekken.json",
    "tokenizer.*.json",
)
UNUSED = ("*/*", "consolidated*")
# The libraries fall back to pickles where these are absent, so other safetensors files are not enough.
WHOLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
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


def weight_files(path: Path, *, named: str | None = None) -> list[Path]:
    """The files that a model's weights in `path` are read from: one, or those that its index of shards names.

    `named` is which of both counts where both are there.

    Raises ModelError for an index that is none, or that leads out of the directory. What is linked from elsewhere, as
    all of the hub's cache is, counts as here.
    """
    if named == WHOLE or (named is None and (path / WHOLE).is_file()):
        return [path / WHOLE]
    index = read_json(path / SHARDED).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise ModelError(f"{path / SHARDED} has no weight_map from tensors to files; write the shards again")
    names = sorted(set(index.values()))
    for name in names:
        if not name.endswith(".safetensors"):
            raise ModelError(f"{path} has shards that are not safetensors ({name!r}), which can run code; convert them")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path / SHARDED} names {name!r}, which is outside its directory; move the shard into it")
        if not (path / name).is_file():
            raise ModelError(
                f"{path / SHARDED} names {name!r}, which is not there; fetch it, or write the shards again"
            )
    return [path / name for name in names]


def read_json(file: Path, *, is_exact: bool = True) -> dict[str, Any]:
    """The object that a JSON file holds; ModelError where it holds none, names a field twice, or has no such number.

    Where it `is_exact`, every number is finite, but for the `_limit` of something, and fits 64 bits.
    """

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found and found[name] != value:
                raise ModelError(f"{file} says {name!r} twice, and not the same; leave one")
            found[name] = value
            for one in (value if isinstance(value, list) else [value]) if is_exact else ():
                is_odd = isinstance(one, float) and not math.isfinite(one) and not (name.endswith("_limit") and one > 0)
                # For a text of any length tokenizers say 10**30.
                is_large = isinstance(one, int) and abs(one) >= 2**63 and not name.endswith("max_length")
                if is_odd or is_large:
                    raise ModelError(f"{file} says {name} is {str(one)[:20]}; want a finite number")
        return found

    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=whole)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"cannot read {file}: {condensed(error)}; want JSON in UTF-8") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds a {type(found).__name__}; want an object of named fields")
    return found


def directory_digest(path: Path, loaded: Sequence[Path] = ()) -> str:
    """Sixteen hex digits over the files of the model in `path`, those `loaded` from folders below it among them."""
    globs = (*FILES, "additional_chat_templates/*.jinja")
    return files_digest(sorted({*loaded, *(file for glob in globs for file in path.glob(glob))}), path)


def files_digest(files: list[Path], above: Path | None = None) -> str:
    """Sixteen hex digits of SHA-256 over names, those below `above` with their folders, and bytes."""
    total = hashlib.sha256()
    for file in files:
        name = file.name if above is None else file.relative_to(above).as_posix()
        total.update(f"{name} {file_digest(file)}\n".encode())
    return total.hexdigest()[:16]


def _base_of(adapter: AdapterModel) -> ModelSource:
    file = adapter.path / "adapter_config.json"
    said = read_json(file)
    text, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not isinstance(text, str) or not text:
        raise ModelError(f"{file} names no base model; set base_model_name_or_path")
    beside = adapter.path / text
    try:
        found = model_source(str(beside) if beside.exists() else text)
    except (ModelError, OSError) as error:
        raise ModelError(f"base of adapter {adapter.path}: {condensed(error)}") from error
    is_pinned = isinstance(found, HubModel) and found.revision is None and isinstance(revision, str)
    return replace(found, revision=revision) if is_pinned else found


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none installed"
