"""Block outputs: a vector told as what is added to the output of each block, which is all that other runtimes know."""

import math

from lab.models.anatomy import LAYOUTS
from lab.records.errors import VectorError
from probes.capture.site import Site
from steering.vector import SteeringVector

EMBEDDED = Site(0, "resid_pre")
"""Where no block has written yet."""

# The linear maps of a block whose output goes into the residual stream as it is, so that the bias of one is a steering
# vector: of attention's last map in the middle of the block, of the MLP's at its output. Gemma 2 and 3 norm both first
# and have no such map.
LAST_MAPS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "mistral": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
}


def at_block_outputs(vector: SteeringVector) -> SteeringVector:
    """The same vector with `resid_pre` of block N as `resid_post` of block N - 1, which is the same place.

    Where it has both they add up. `resid_pre` of block 0 and `resid_mid` stay.
    """
    directions, norms = {}, {}
    for site, direction in vector.directions.items():
        here = Site(site.layer - 1) if site.stream == "resid_pre" and site.layer > 0 else site
        directions[here] = directions[here] + direction if here in directions else direction
        if math.isnan(norms.get(here, math.nan)):
            norms[here] = vector.residual_norms[site]
    return SteeringVector(directions, norms, vector.description)


def only_block_outputs(vector: SteeringVector, runtime: str) -> SteeringVector:
    """As `at_block_outputs`; VectorError naming `runtime` where the vector also acts elsewhere."""
    told = at_block_outputs(vector)
    if others := [str(site) for site in told.sites if site.stream != "resid_post"]:
        raise VectorError(
            f"{', '.join(others)} is no block's output, and {runtime} adds to those only; leave such sites out, or "
            "bake them into a checkpoint"
        )
    return told


def without_embedding(vector: SteeringVector, runtime: str) -> SteeringVector:
    """As `at_block_outputs`; VectorError naming `runtime` where the vector also acts before block 0."""
    told = at_block_outputs(vector)
    if EMBEDDED in told.directions:
        raise VectorError(
            f"{EMBEDDED} is no linear map's output, and {runtime} adds to those only; leave that site out, or bake it "
            "into a checkpoint"
        )
    return told


def last_map(family: str, site: Site) -> str:
    """Path of the linear map whose bias adds to the stream at `site`; VectorError for a family without one."""
    if family not in LAST_MAPS:
        raise VectorError(
            f"in {family!r} no linear map adds straight to the residual stream (a norm follows it), so no bias is a "
            "steering vector; known: " + ", ".join(LAST_MAPS)
        )
    return f"{LAYOUTS[family].blocks}.{site.layer}.{LAST_MAPS[family][site.stream == 'resid_post']}"
