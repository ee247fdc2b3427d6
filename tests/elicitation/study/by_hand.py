"""Vectors and routers by hand, to list arms without fitting anything."""

import torch

from lab.metrics.bootstrap import Interval
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.hybrid.routers import EntropyAbove, LinearProbe, Scheduled
from steering.routing.category_vectors import CategoryVectors
from steering.routing.routing import ProbeQuality, Routing
from steering.vector import SteeringVector

SITE = Site(0)
D_MODEL = 6


def vector(norm: float, axis: int = 0) -> SteeringVector:
    return SteeringVector({SITE: norm * torch.eye(D_MODEL)[axis]}, {SITE: 1.0}, "")


def side(reader, *norms: float) -> CategoryVectors:
    n = len(norms)
    taxonomy = Taxonomy(
        site=SITE,
        mean=torch.zeros(D_MODEL),
        W_enc=torch.eye(D_MODEL)[:, :n],
        b_enc=torch.zeros(n),
        W_dec=torch.eye(D_MODEL)[:n],
        b_dec=torch.zeros(D_MODEL),
        k=1,
        names=tuple(map(str, range(n))),
        model="tiny",
        model_digest="digest",
    )
    vectors = tuple(vector(norm, axis) for axis, norm in enumerate(norms))
    return CategoryVectors(taxonomy=taxonomy, reader=reader, vectors=vectors, n_disagreements=(10,) * n)


def routing(*norms: float) -> Routing:
    return Routing(
        probe=LinearProbe(SITE, torch.ones(D_MODEL), 0.0),
        probe_quality=ProbeQuality(Interval(value=1.0, low=1.0, high=1.0, stderr=0.0), 0.1, 0.1, 1.0, 100, 10),
        entropy=EntropyAbove(1.0),
        schedule=Scheduled((1.0, 0.0)),
        base_side=side("base", *norms),
        tuned_side=side("tuned", *norms),
    )


VECTORS = {"fitted": (vector(2.0),), "like-fitted": (vector(2.0, 1), vector(2.0, 2))}
