"""The linear maps whose bias is a steering vector, and the embeddings whose rows are: what can be baked, and how."""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lab.models.anatomy import Anatomy, Reached, alike, at_rest, parts_of, reached, refused_in_one_line, spread
from lab.models.passes import first_of, with_first


class LastMap(NamedTuple):
    """A linear map whose bias is added to the stream, as `scale` times itself."""

    path: str
    scale: float


def last_map(network: PreTrainedModel, found: Anatomy, layer: int, *, of_attention: bool) -> LastMap | None:
    """The map at the end of a block's attention, or of the block itself; None where no bias adds to the stream.

    Measured, in single precision where the network is in half: what is added to the map's output, whatever it is, must
    appear in the block's output, everywhere by the same factor. A norm behind the map, a gate or a choice of experts
    forbids that; a multiplier of the residual is the factor.
    """
    block, attention, mlp = found.blocks[layer], found.attentions[layer], found.mlps[layer]
    within = attention if of_attention else block
    if within is None or (of_attention and not found.has_resid_mid):
        return None
    names = {module: name for name, module in network.named_modules()}
    mixers, others = parts_of(block)
    # What attention adds, an MLP behind it reads: by how much it gives more may be too little to be seen.
    apart = set() if of_attention or not others else {module for mixer in mixers for module in mixer.modules()}
    maps = [one for one in within.modules() if _width(one) == found.d_model and one not in apart]
    with at_rest(network), refused_in_one_line(f"{type(network).__name__}, block {layer}"):
        run = reached(network, found, layer, is_precise=True)
        twin = dict(zip(block.modules(), run.block.modules(), strict=True))
        silent = twin[mlp] if of_attention and mlp is not None else None
        for one in reversed(maps):
            scale = _scale(twin[one], silent, run)
            if scale is not None:
                return LastMap(names[one], scale)
    return None


def _width(module: nn.Module) -> int | None:
    """Of what a linear map gives; None of any other module."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.nf if isinstance(module, Conv1D) else None


def _scale(one: nn.Module, silent: nn.Module | None, block: Reached) -> float | None:
    """By which factor what is added to the output of `one` appears in the block's, with the module `silent` at 0."""
    stream, shift = spread(block.stream), spread(block.stream[0, 0], 3)
    size = 0.0

    def add(times: float) -> Tensor:
        def change(_: nn.Module, __: object, output: Tensor) -> Tensor:
            nonlocal size
            size = max(size, float(output.abs().max()), 1.0)
            return output + times * size * shift.reshape((1,) * (output.ndim - 1) + (-1,))

        with ExitStack() as stack:
            stack.callback(one.register_forward_hook(change).remove)
            if silent is not None:
                mute = silent.register_forward_hook(lambda _, __, told: with_first(told, 0 * first_of(told)))
                stack.callback(mute.remove)
            return first_of(block.call(stream))

    plain, *moved = (add(times).double() for times in (0.0, 8.0, 24.0))
    if size == 0.0:
        return None
    whole = size * shift.double()
    scales = [(((out - plain) * whole).mean() / whole.square().mean()).item() for out in moved]
    scale, fits = scales[1] / 24.0, True
    for out, times in zip(moved, (8.0, 24.0), strict=True):
        fits = fits and alike(((out - plain) / times).to(stream.dtype), (scale * whole).expand_as(out).to(stream.dtype))
    if not fits or abs(scale) < 1e-4:
        return None
    return _rounded(scale, stream.dtype)


def added_embeddings(network: PreTrainedModel, found: Anatomy) -> list[LastMap]:
    """The embeddings whose rows go into the stream before block 0, times `scale`: that of positions first, if any."""
    below = {module for block in found.blocks for module in block.modules()}
    named = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding) and module not in below and module.weight.shape[1] == found.d_model
    ]
    added: list[LastMap] = []
    with at_rest(network), refused_in_one_line(type(network).__name__):
        before = reached(network, found, 0).stream.double()
        for name, module in sorted(named, key=lambda one: one[1] is found.embed):
            rows, shift = module.weight, spread(module.weight[0], 3)
            module.weight = nn.Parameter(rows + shift, requires_grad=False)
            try:
                moved = reached(network, found, 0).stream.double() - before
            finally:
                module.weight = rows
            scale = float((moved * shift).mean() / shift.double().square().mean())
            if abs(scale) > 1e-4 and alike(moved.to(shift.dtype), (scale * shift).to(shift.dtype).expand_as(moved)):
                added.append(LastMap(name, _rounded(scale, shift.dtype)))
    return added


def _rounded(scale: float, dtype: torch.dtype) -> float:
    return 1.0 if abs(scale - 1) < 16 * torch.finfo(dtype).eps else scale
