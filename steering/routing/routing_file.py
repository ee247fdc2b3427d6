"""routing_file: a routing as a directory of safetensors and one JSON file, which is written last."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lab.errors import LabError, StorageError
from lab.metrics.bootstrap import Interval
from lab.provenance import Provenance, canonical_json
from lab.tables import replacing, write_text
from probes.site import Site
from probes.taxonomy.taxonomy_file import load_taxonomy, save_taxonomy
from steering.export.model_facts import ModelFacts
from steering.export.tensors import load_vector, save_vector
from steering.hybrid.linear_probe import LinearProbe
from steering.hybrid.router import EntropyAbove, Scheduled
from steering.routing.category_vectors import CategoryVectors
from steering.routing.fit_probe import ProbeQuality
from steering.routing.routed import Routing

FORMAT = "elicitation-lab.routing.1"
NAME = "routing.json"
PROBE = "probe.safetensors"


def save_routing(directory: Path, routing: Routing, made_by: Provenance, *, fitted_on: ModelFacts) -> None:
    """Writes `routing` into `directory`; without the last file, which says that all are there, it is not one.

    Every vector is a file that can be exported by itself; `fitted_on` is the base model. Equal work gives equal bytes.
    """
    with replacing(directory / PROBE) as path:
        save_file({"weight": routing.probe.weight.contiguous()}, path, metadata={"provenance": made_by.to_json()})
    for found in (routing.base_side, routing.tuned_side):
        save_taxonomy(_taxonomy_path(directory, found.reader), found.taxonomy, made_by)
        for index, vector in enumerate(found.vectors):
            save_vector(_vector_path(directory, found.reader, index), vector, made_by, fitted_on=fitted_on)
    described = {
        "format": FORMAT,
        "provenance": made_by,
        "site": str(routing.probe.site),
        "bias": routing.probe.bias,
        "quality": routing.probe_quality._asdict() | {"auroc": asdict(routing.probe_quality.auroc)},
        "nats": routing.entropy.nats,
        "rates": routing.schedule.rates,
        "n_decisions": {found.reader: found.n_decisions for found in (routing.base_side, routing.tuned_side)},
    }
    write_text(directory / NAME, canonical_json(described))


def load_routing(directory: Path) -> Routing:
    """The inverse of `save_routing`, on the CPU; StorageError for what is missing, damaged or no routing."""
    try:
        described = json.loads((directory / NAME).read_text(encoding="utf-8"))
        if described.get("format") != FORMAT:
            raise StorageError(f"its format is {described.get('format')!r}, want {FORMAT!r}")
        quality = described["quality"]
        weight = load_file(directory / PROBE)["weight"]
        return Routing(
            probe=LinearProbe(Site.parse(described["site"]), weight, described["bias"]),
            probe_quality=ProbeQuality(**quality | {"auroc": Interval(**quality["auroc"])}),
            entropy=EntropyAbove(described["nats"]),
            schedule=Scheduled(tuple(described["rates"])),
            base_side=_side(directory, "base", described["n_decisions"]["base"]),
            tuned_side=_side(directory, "tuned", described["n_decisions"]["tuned"]),
        )
    except (OSError, SafetensorError, LabError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"cannot read a routing from {directory}: {error}; name another, or fit it again") from error


def _side(directory: Path, reader: Literal["base", "tuned"], n_decisions: list[int]) -> CategoryVectors:
    return CategoryVectors(
        taxonomy=load_taxonomy(_taxonomy_path(directory, reader)),
        reader=reader,
        vectors=tuple(load_vector(_vector_path(directory, reader, index)) for index in range(len(n_decisions))),
        n_decisions=tuple(n_decisions),
    )


def _taxonomy_path(directory: Path, reader: str) -> Path:
    return directory / f"{reader}-taxonomy.safetensors"


def _vector_path(directory: Path, reader: str, category: int) -> Path:
    return directory / f"{reader}-vector-{category}.safetensors"
