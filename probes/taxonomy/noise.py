"""noise: segments without clusters, which a taxonomy is compared with."""

from dataclasses import replace

import torch

from lab.seeds import torch_generator
from probes.taxonomy.segment_means import SegmentMeans


def noise(data: SegmentMeans, seed: int) -> SegmentMeans:
    """The same segments with normal vectors of the same mean and covariance in the place of theirs.

    What a taxonomy explains of these it owes to the few directions that vary most, and to no cluster.
    """
    mean = data.means.double().mean(dim=0)
    centred = data.means.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    drawn = torch.randn(centred.shape, generator=torch_generator(seed, "noise", str(data.site)), dtype=torch.float64)
    return replace(data, means=(drawn * variances.clamp_min(0).sqrt() @ directions.T + mean).float())
