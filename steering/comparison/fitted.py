"""Fit stages: lessons -> a vector, and the same fit on lessons that cannot teach the same, for each entry."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.errors import VectorError
from lab.provenance import digest
from lab.seeds import torch_generator
from lab.stage import Artefact, memoised
from lab.tables import write_text
from steering.comparison.entry import Entry
from steering.comparison.fits import fit_on
from steering.comparison.ground import Ground
from steering.comparison.lessons import Lessons, sides_forgotten, tokens_misplaced
from steering.comparison.policy import policy_fits
from steering.export.model_facts import facts_of
from steering.export.tensors import load_vector, save_vector
from steering.fit.controls import norm_matched
from steering.fit.random import random_like
from steering.vector import SteeringVector

N_RANDOM = 256
"""Random directions that the problems are spread over: so many that which were drawn hardly matters."""
N_SHUFFLES = 8
"""Shuffles of the sides of a difference, which the problems are spread over: of one, chance decides the sign."""
ITSELF, REASONS = "itself", "reasons.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fitted:
    """An entry with its vector and its controls, each of the vector's norms, or with why there is none."""

    entry: Entry
    vector: SteeringVector | None
    controls: Mapping[str, tuple[SteeringVector, ...]]
    """By name; those with vectors of their own, several where chance decides the sign of one."""
    reasons: Mapping[str, str]
    """What could not be fitted (`itself`, or a control) -> why."""
    digest: str

    def random(self, seed: int, n: int = N_RANDOM) -> tuple[SteeringVector, ...]:
        """`n` random directions of the vector's norms at its sites; there has to be a vector."""
        assert self.vector is not None, "nothing can be as long as a vector that is not there"
        return tuple(
            random_like(self.vector, torch_generator(seed, "random vector", self.entry.name, draw)) for draw in range(n)
        )


def fit_stage(ground: Ground, entry: Entry, lessons: dict[str, Lessons]) -> Fitted:
    """`fit-<entry>/`: a file for the vector and for each control. What is there after a kill is not fitted again.

    `lessons` has those of the pair as `itself`, and those that other texts give by the name of the control.
    """
    bench, comparison = ground.bench, ground.comparison
    config = {
        "entry": {"method": entry.method, "sites": [str(site) for site in entry.sites]},
        "fit": comparison.policy if entry.method == "policy" else comparison.fit,
        "n_texts": comparison.n_texts,
        "n_features": comparison.n_features,
        "max_new_tokens": comparison.max_new_tokens,
        "seed": comparison.seed,
    }
    parents = {"base": bench.base.digest} | {name: taught.digest for name, taught in lessons.items()}
    if entry.method == "sae" and ground.sae is not None:
        parents["sae"] = ground.sae.digest
    if entry.method == "policy":
        config["policy_controls"] = comparison.policy_controls
        parents = {"base": bench.base.digest, "problems": digest(bench.fit_task.problems)}
        if ground.other_fit_task is not None:
            parents["other task"] = digest(ground.other_fit_task.problems)

    def compute(work: Path) -> None:
        made_by = bench.made_by(f"fit-{entry.name}", config, parents)
        reasons: dict[str, str] = {}
        vector: SteeringVector | None = None
        for name, make in makers(ground, entry, lessons, work):
            path = work / f"{name}.safetensors"
            try:
                if not path.exists():
                    found = make() if vector is None else norm_matched(make(), vector)
                    save_vector(path, found, made_by, fitted_on=facts_of(bench.base))
            except VectorError as error:
                reasons[control_of(name)] = str(error)
            if ITSELF in reasons:
                break
            vector = vector or load_vector(path)
        write_text(work / REASONS, json.dumps(reasons, sort_keys=True))
        for checkpoints in work.glob("steps-*"):
            shutil.rmtree(checkpoints)

    return read_fitted(entry, memoised(bench.out, f"fit-{entry.name}", config, parents, compute))


def makers(
    ground: Ground, entry: Entry, lessons: dict[str, Lessons], work: Path
) -> Iterator[tuple[str, Callable[[], SteeringVector]]]:
    """(name, how to find it) of the vector, which comes first, and of its controls."""
    if entry.method == "policy":
        yield from policy_fits(ground, entry.sites, work)
        return
    for name, taught in (lessons | shuffled(entry, lessons[ITSELF], ground.comparison.seed)).items():
        yield name, partial(fit_on, ground, entry, taught)


def shuffled(entry: Entry, taught: Lessons, seed: int) -> dict[str, Lessons]:
    """Lessons with the labels shuffled that the method looks at."""
    match entry.method:
        case "gradient" | "gradient-first":
            return {"shuffled": tokens_misplaced(taught, seed)}
        case _:
            return {f"shuffled.{draw}": sides_forgotten(taught, seed, draw) for draw in range(N_SHUFFLES)}


def control_of(name: str) -> str:
    """The control that a vector belongs to: `shuffled` for `shuffled.3`."""
    return name.split(".")[0]


def read_fitted(entry: Entry, stage: Artefact) -> Fitted:
    """The result of a finished stage."""
    found = {path.stem: load_vector(path) for path in sorted(stage.path.glob("*.safetensors"))}
    vector = found.pop(ITSELF, None)
    controls: dict[str, tuple[SteeringVector, ...]] = {}
    for name, control in found.items():
        controls[control_of(name)] = (*controls.get(control_of(name), ()), control)
    reasons = json.loads((stage.path / REASONS).read_text(encoding="utf-8"))
    return Fitted(entry=entry, vector=vector, controls=controls, reasons=reasons, digest=stage.digest)
