"""A digest of a hybrid: the same for equal ones, another for whatever changes what is written."""

from dataclasses import replace
from itertools import combinations

import torch

from lab.models.tiny import tiny_model
from probes.capture.site import Site
from steering.edit import Ablate, Add
from steering.gate import InCompletion
from steering.hybrid.hybrid import Hybrid, identity
from steering.hybrid.interventions import (
    Drawn,
    FirstChooser,
    PerCategory,
    RandomCategory,
    RandomChooser,
    Steer,
    Sweep,
    Takeover,
)
from steering.hybrid.routers import Always, AtRandom, BaseProbe, InCategories, LinearProbe

from .by_hand import taxonomy_of, vector

WEIGHT = torch.randn(2000, generator=torch.Generator().manual_seed(0))
OTHER = WEIGHT.clone().index_fill(0, torch.tensor([1000]), 9.0)


def several() -> list[Hybrid]:
    """Made anew by every call; no two alike."""
    taxonomy = taxonomy_of(tiny_model())
    edits = tuple(Add(vector(seed)) for seed in range(3))
    table = PerCategory(taxonomy, "base", edits)
    acts = (
        Takeover(),
        Steer(Drawn(edits)),
        Steer(Drawn(edits), "kept"),
        Steer(Drawn(edits[:1])),
        Steer(Drawn((Add(vector(0), dose=2.0),))),
        Steer(Drawn((Add(vector(0), where=InCompletion()),))),
        Steer(Drawn((Ablate(vector(0)),))),
        Steer(RandomCategory(edits)),
        Steer(table),
        Steer(PerCategory(taxonomy, "tuned", edits)),
        Steer(replace(table, edits=edits[::-1])),
        Sweep(Drawn(edits), (1.0,), (1,), FirstChooser()),
        Sweep(Drawn(edits), (1.0,), (None,), FirstChooser()),
        Sweep(Drawn(edits), (1.0,), (1,), RandomChooser()),
    )
    # Long weights that differ in the middle alone would be printed alike.
    probes = [BaseProbe(LinearProbe(Site(0), weight, 0.0)) for weight in (WEIGHT, OTHER)]
    routers = (
        AtRandom(0.5),
        *probes,
        InCategories(taxonomy, frozenset({0, 2})),
        InCategories(taxonomy, frozenset({1})),
    )
    return [Hybrid(Always(), intervention) for intervention in acts] + [
        Hybrid(router, Takeover()) for router in routers
    ]


def test_equal_hybrids_have_one_identity_and_different_ones_another():
    first, again = several(), several()
    assert [identity(hybrid) for hybrid in first] == [identity(hybrid) for hybrid in again]
    assert all(identity(one) != identity(other) for one, other in combinations(first, 2))
