"""VectorFile: what a file holds, a vector and where it comes from; the header that says so, and kinds of files."""

import dataclasses
import hashlib
import json
import math
import re
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar, get_origin, runtime_checkable

from safetensors import SafetensorError
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import LabError, SiteError, VectorError, condensed
from lab.records.provenance import Provenance, canonical_json, digest, require_intact
from probes.capture.site import Site
from steering.vector import SteeringVector


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model without its weights."""

    name: str
    digest: str
    """Of the files, or the tensors, that it was made from."""
    tokenizer_digest: str
    """Of its vocabulary, special tokens and chat template."""
    family: str
    """`config.model_type`."""
    d_model: int
    n_layers: int


def facts_of(model: Model) -> ModelFacts:
    """The facts of a loaded model."""
    tokenizer = model.tokenizer
    told = {
        "vocabulary": tokenizer.get_vocab(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": str(tokenizer.chat_template),
    }
    return ModelFacts(
        name=model.name,
        digest=model.digest,
        tokenizer_digest=digest(told),
        family=model.anatomy.family,
        d_model=model.anatomy.d_model,
        n_layers=model.anatomy.n_layers,
    )


def check_fits(vector: SteeringVector, facts: ModelFacts) -> None:
    """VectorError unless `vector` is as wide as the model, SiteError unless the model has each of its layers."""
    if vector.d_model != facts.d_model:
        raise VectorError(
            f"a vector of width {vector.d_model} does not fit {facts.name}, whose d_model is {facts.d_model}: "
            "use the model it was fitted on"
        )
    if beyond := [site for site in vector.sites if site.layer >= facts.n_layers]:
        raise SiteError(
            f"{beyond[0]} is out of range: {facts.name} has {facts.n_layers} layers, want 0 to {facts.n_layers - 1}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a vector comes from."""

    made_by: Provenance
    fitted_on: ModelFacts | None = None
    """None where the one who saved it did not say."""
    measured_dose: float | None = None
    """The dose whose effect was measured, in units of the vector; None if none was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorFile:
    """What a file holds: a vector and, unless another program wrote it, where it comes from."""

    vector: SteeringVector
    origin: Origin | None


FORMAT_NAME = "elicitation-lab.steering-vector"
FORMAT, OLDER = f"{FORMAT_NAME}.3", f"{FORMAT_NAME}.2"
"""The same without a checksum."""
# One key for all of it, because safetensors writes several in an order that changes from run to run.
HEADER = "steering_vector"
SCALE = (
    "what is added to the residual stream at a site is dose * tensor, at every token read under the edit; dose 1 is "
    "the tensor as it is; the relative dose is |dose| * norm / residual_norm"
)

# What parsing a damaged file may end in; LabErrors of this floor are ValueErrors or OSErrors.
DAMAGE = (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
ROUNDING = 1e-4
"""How far a norm may be from that in a header, relatively, since machines sum in different orders."""

T = TypeVar("T", Provenance, ModelFacts)


def header_text(vector: SteeringVector, origin: Origin) -> str:
    """The header of `vector` as canonical JSON: no clock time, unknown norms are null."""
    facts = origin.fitted_on
    told = {
        "format": FORMAT,
        "how": vector.description,
        "d_model": vector.d_model,
        "norms": {str(site): norm for site, norm in vector.norms.items()},
        "residual_norms": {
            str(site): None if math.isnan(norm) else norm for site, norm in vector.residual_norms.items()
        },
        "scale": SCALE,
        "measured_dose": origin.measured_dose,
        "model": None if facts is None else {name: getattr(facts, name) for name in ModelFacts.__slots__},
        "provenance": origin.made_by,
    }
    return canonical_json(told | {"sha256": _checksum(told, vector.directions)})


def _checksum(told: Mapping[str, object], directions: Mapping[Site, Tensor]) -> str:
    """Of what a header tells, and the numbers under it in single precision."""
    total = hashlib.sha256(canonical_json({name: value for name, value in told.items() if name != "sha256"}).encode())
    for site in sorted(directions):
        total.update(f"{site}\n".encode() + directions[site].detach().cpu().float().numpy().astype("<f4").tobytes())
    return total.hexdigest()


def under_header(text: str, directions: Mapping[Site, Tensor]) -> VectorFile:
    """What a file holds whose header stands over `directions`; VectorError where these do not make a vector."""
    try:
        told = json.loads(text)
        if told["format"] not in (FORMAT, OLDER):
            raise VectorError(f"its format is {told['format']!r}, want {FORMAT!r}")
        norms = {
            Site.parse(name): math.nan if norm is None else _number(f"residual norm at {name}", norm)
            for name, norm in told["residual_norms"].items()
        }
        lengths = {Site.parse(name): float(norm) for name, norm in told["norms"].items()}
        description, dose, facts, d_model = told["how"], told["measured_dose"], told["model"], told["d_model"]
        origin = Origin(
            made_by=_checked(Provenance, told["provenance"]),
            fitted_on=None if facts is None else _checked(ModelFacts, facts),
            measured_dose=None if dose is None else _number("measured dose", dose, signed=True),
        )
        checksum = None if told["format"] == OLDER else told["sha256"]
    except LabError as error:
        raise VectorError(str(error)) from error
    except KeyError as error:
        raise VectorError(f"its header lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise VectorError(f"its header is damaged: {error}") from error
    if not isinstance(description, str):
        raise VectorError(f"its header is damaged: `how` is {description!r}, want a text")
    if set(norms) != set(directions):
        raise VectorError(
            f"its header tells of {', '.join(map(str, sorted(norms))) or 'no site'}, "
            f"its tensors are at {', '.join(map(str, sorted(directions))) or 'none'}"
        )
    found = VectorFile(vector=SteeringVector(directions, norms, description), origin=origin)
    if d_model != found.vector.d_model:
        raise VectorError(f"its header says d_model {d_model!r}, its tensors have {found.vector.d_model}")
    for site, norm in found.vector.norms.items():
        if not math.isclose(norm, lengths.get(site, math.nan), rel_tol=ROUNDING, abs_tol=1e-30):
            raise VectorError(f"its header says norm {lengths.get(site)} at {site}, its tensor there has {norm:.6g}")
    if origin.fitted_on is not None:
        check_fits(found.vector, origin.fitted_on)
    if checksum is not None and checksum != _checksum(told, found.vector.directions):
        raise VectorError("its header or its numbers are not as they were written: put it back from a copy")
    return found


def _number(what: str, value: object, *, signed: bool = False) -> float:
    """A finite number from a header; never negative unless `signed`."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or (number < 0 and not signed):
        raise VectorError(
            f"its header says {what} {str(value)[:40]}, want a finite number{'' if signed else ' from 0'}"
        )
    return number


def without_header(directions: Mapping[Site, Tensor], description: str) -> VectorFile:
    """What a file of another program holds, whose residual norms nobody knows."""
    return VectorFile(vector=SteeringVector(directions, dict.fromkeys(directions, math.nan), description), origin=None)


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Within the block, a file at `path` that is missing, cut off anywhere or damaged is a VectorError that says so."""
    try:
        require_intact(path)
        yield
    except DAMAGE as error:
        raise VectorError(f"cannot read {what} from {path}: {condensed(error)}") from error


def _checked(kind: type[T], told: Mapping[str, object]) -> T:
    """An instance of `kind`; VectorError for a field of another type, because a card prints them all."""
    for field in dataclasses.fields(kind):
        value, wanted = told[field.name], get_origin(field.type) or field.type
        texts = not isinstance(value, dict) or all(isinstance(item, str) for item in value.values())
        if type(value) is not wanted or not texts:
            raise VectorError(f"its header is damaged: {field.name} is {value!r}, want {field.type}")
    return kind(**told)  # pyright: ignore[reportArgumentType]


Kind: TypeAlias = Literal["safetensors", "gguf", "json", "pickle", "other"]

PICKLES = (b"PK\x03\x04", b"\x80")
"""How a `.pt` file begins: as a zip archive of pickles, or as a bare pickle."""
PICKLE_REASON = "it is a pickle (a .pt file), which can run code; where it was made, save its tensors as safetensors"
MAX_HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads."""


def file_kind(path: Path) -> Kind:
    """The kind of the file at `path`; OSError where it cannot be read."""
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"GGUF"):
        return "gguf"
    # The length of the header in eight bytes, then the header, which is JSON. Before pickles, since a length may begin
    # with any byte.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER:
        return "safetensors"
    if start.startswith(PICKLES):
        return "pickle"
    return "json" if start.lstrip().startswith((b"{", b"[")) else "other"


@runtime_checkable
class Format(Protocol):
    """What a vector is written as."""

    @abstractmethod
    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """Writes `vector` to `path`, whole or not at all; VectorError or SiteError, with why, for what does not fit."""
        ...

    @abstractmethod
    def use(self, path: Path, model: str, /) -> str:
        """Sections of Markdown on how programs take what was written to `path` of a vector of `model`."""
        ...

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        """The vector in the file at `path`, None where its content is of another format; VectorError for damage."""
        del path

    @classmethod
    def for_model(cls, model: Model | None) -> "Format":
        """The format as it is written for `model`; VectorError where it needs one."""
        del model
        return cls()


def section(title: str, language: str, *lines: str) -> str:
    """A section of a card with one block of code."""
    return f"### {title}\n\n{fenced(language, *lines)}"


def fenced(language: str, *lines: str) -> str:
    """A block of code that nothing inside can end."""
    code = "\n".join(" ".join(line.splitlines()) for line in lines)
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def quoted(text: str | Path) -> str:
    """A literal of Python."""
    return json.dumps(str(text))


def shell(text: str | Path) -> str:
    """A word of a command line."""
    return shlex.quote(str(text))
