"""Header: what a file says of a vector beyond its numbers; the same JSON in every format that has room for it."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TypeVar, get_origin

from lab.errors import LabError, VectorError
from lab.provenance import Provenance, canonical_json
from probes.site import Site
from steering.export.model_facts import ModelFacts
from steering.export.vector_file import Origin
from steering.vector import SteeringVector

FORMAT = "elicitation-lab.steering-vector.2"
# One key for all of it, because safetensors writes several in an order that changes from run to run.
HEADER = "steering_vector"
SCALE = (
    "what is added to the residual stream at a site is dose * tensor, at every token read under the edit; dose 1 is "
    "the tensor as it is; the relative dose is |dose| * norm / residual_norm"
)

T = TypeVar("T", Provenance, ModelFacts)


def header_text(vector: SteeringVector, origin: Origin) -> str:
    """The header of `vector` as canonical JSON: no clock time, unknown norms are null."""
    facts = origin.fitted_on
    return canonical_json(
        {
            "format": FORMAT,
            "how": vector.how,
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
    )


def read_header(text: str, directions: Mapping[Site, object]) -> tuple[str, dict[Site, float], Origin]:
    """(`how`, residual norms, origin) of a header that stands over `directions`.

    Raises VectorError for another format, missing fields, fields of other types, and sites other than those of
    `directions`.
    """
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise VectorError(f"its format is {told['format']!r}, want {FORMAT!r}")
        norms = {
            Site.parse(name): math.nan if norm is None else float(norm) for name, norm in told["residual_norms"].items()
        }
        how, dose, facts = told["how"], told["measured_dose"], told["model"]
        origin = Origin(
            made_by=_checked(Provenance, told["provenance"]),
            fitted_on=None if facts is None else _checked(ModelFacts, facts),
            measured_dose=None if dose is None else float(dose),
        )
    except LabError as error:
        raise VectorError(str(error)) from error
    except KeyError as error:
        raise VectorError(f"its header lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise VectorError(f"its header is damaged: {error}") from error
    if not isinstance(how, str):
        raise VectorError(f"its header is damaged: `how` is {how!r}, want a text")
    if set(norms) != set(directions):
        raise VectorError(
            f"its header tells of {', '.join(map(str, sorted(norms))) or 'no site'}, "
            f"its tensors are at {', '.join(map(str, sorted(directions))) or 'none'}"
        )
    return how, norms, origin


def _checked(kind: type[T], told: Mapping[str, object]) -> T:
    """An instance of `kind`; VectorError for a field of another type, because a card prints them all."""
    for field in dataclasses.fields(kind):
        value, wanted = told[field.name], get_origin(field.type) or field.type
        texts = not isinstance(value, dict) or all(isinstance(item, str) for item in value.values())
        if type(value) is not wanted or not texts:
            raise VectorError(f"its header is damaged: {field.name} is {value!r}, want {field.type}")
    return kind(**told)  # pyright: ignore[reportArgumentType]
