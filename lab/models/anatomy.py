"""Anatomy: the parts of one network by name: blocks, attention, MLPs, and what is before and behind them.

Parts are found in the module tree; what they do is measured, on four tokens and one block of each kind. No table of
families says either.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from lab.models.passes import Enough, arguments, first_of, handing_on, in_single, stream_of, with_first, with_stream
from lab.records.errors import ModelError, condensed

# Of the names that transformers gives to what mixes positions, and to its classes.
MIXERS = ("attn", "attention", "mixer", "mamba", "delta", "conv", "temporal", "retention", "recurrent")
N_TOKENS, N_PAD = 4, 2
# What a block may keep of what it has read: classes of transformers' cache that `lab.sampling.cache` stands in for.
SERVED = {
    *("DynamicLayer", "DynamicSlidingWindowLayer", "LinearAttentionLayer", "DummyLayer"),
    *("LinearAttentionAndFullAttentionLayer", "LinearAttentionAndSlidingWindowAttentionLayer"),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Anatomy:
    """The parts of one network. The modules are the network's own, so two anatomies are equal only when identical."""

    family: str
    """`config.model_type` of what reads text."""
    embed: nn.Module
    blocks: tuple[nn.Module, ...]
    """Each takes the residual stream, `batch pos d_model`, and returns it, alone or first of a tuple."""
    final_norm: nn.Module
    """An identity where there is none."""
    unembed: nn.Module
    attentions: tuple[nn.Module | None, ...]
    """What mixes positions, one a block: attention, linear attention, a convolution; None where there is not one."""
    mlps: tuple[nn.Module | None, ...]
    """Or a mixture of experts, one a block; None where there is not one."""
    routers: tuple[nn.Module | None, ...]
    """Of a mixture of experts: what chooses the experts."""
    d_model: int
    d_vocab: int
    """Rows of the unembedding, which may exceed the tokenizer's tokens where a family pads its matrix."""
    context: int | None
    """Positions for which it was made; None where nothing says. No more than `one_rotation`."""
    one_rotation: int | None
    """Positions up to which a text is read the same whatever stands beside it in its batch; None where there is no end.

    Longrope and dynamic scaling turn all texts of a batch by other angles once one is longer, and with a cache the keys
    before stay as they were. Llama 4 sharpens attention by the place in the batch, padding counted, from one on.
    """
    has_resid_mid: bool
    """Whether every block's attention adds its output to the stream as it is, and the MLP then reads that stream.
    Measured; False of a network without numbers."""
    returned: tuple[int, ...]
    """Of each block: 0 where it returns the stream alone, else the length of its tuple."""

    @property
    def n_experts(self) -> int:
        """Of a block that has some; 0 where none has."""
        return next((len(one.get_parameter("weight")) for one in self.routers if one is not None), 0)

    @property
    def n_layers(self) -> int:
        """How many blocks; layers count from 0."""
        return len(self.blocks)


def find_anatomy(network: PreTrainedModel) -> Anatomy:
    """The parts of `network`; ModelError naming the part that is not there, or what its blocks do that is not served.

    On the meta device nothing is measured.
    """
    name, config = type(network).__name__, text_config(network)
    if "past_key_values" not in inspect.signature(network.forward).parameters:
        raise ModelError(f"{name} is of family {config.model_type!r}, which keeps what it has read in a way of its own")
    with refused_in_one_line(f"{name} is of family {config.model_type!r}, which is not served"):
        kept = {type(layer).__name__ for layer in DynamicCache(config=network.config).layers}
        if strange := sorted(kept - SERVED):
            raise ModelError(f"its blocks keep what only a {strange[0]} holds, which cannot be cut to a row")
        if getattr(config, "num_kv_shared_layers", 0):
            raise ModelError("some of its blocks read keys and values that others made, and so none can run alone")
        # Some classes have none, and say so by raising.
        embed, unembed = network.get_input_embeddings(), network.get_output_embeddings()
    blocks, holder = _blocks(network, config)
    matrix = getattr(unembed, "weight", None)
    if not isinstance(unembed, nn.Module) or not isinstance(matrix, Tensor) or matrix.ndim != 2:
        raise ModelError(f"{name} has no unembedding: want a causal language model with a linear map to its vocabulary")
    d_vocab, width = matrix.shape
    hidden, one_rotation = getattr(config, "hidden_size", width), _one_rotation(config)
    parts = [_parts(block) for block in blocks]
    found = Anatomy(
        family=config.model_type,
        embed=embed,
        blocks=blocks,
        final_norm=_final_norm(holder, width),
        unembed=unembed,
        attentions=tuple(attention for attention, _ in parts),
        mlps=tuple(mlp for _, mlp in parts),
        routers=tuple(_router(block, mlp, width) for block, (_, mlp) in zip(blocks, parts, strict=True)),
        d_model=width,
        d_vocab=d_vocab,
        context=min(filter(None, (one_rotation, getattr(config, "max_position_embeddings", None))), default=None),
        one_rotation=one_rotation,
        has_resid_mid=False,
        returned=(0,) * len(blocks),
    )
    if hidden != width:
        raise ModelError(f"{name}: its stream is {hidden} wide and its unembedding reads {width}: that is not served")
    return found if matrix.is_meta else _measured(network, found)


def text_config(network: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of what reads text; of a checkpoint that also sees or hears it is a part."""
    return network.config.get_text_config(decoder=True)


def require_one_rotation(found: Anatomy, n_positions: int) -> None:
    """ModelError where texts of so many positions would change how those beside them are read."""
    if found.one_rotation is not None and n_positions > found.one_rotation:
        raise ModelError(
            f"a batch of {n_positions:,} positions: in a {found.family!r} like this one a text of more than "
            f"{found.one_rotation:,} tokens changes how all others of its batch are read (scaling by length), so that "
            "no number would be a text's own: keep texts as short as that"
        )


def _one_rotation(config: PreTrainedConfig) -> int | None:
    told = getattr(config, "rope_parameters", None) or {}
    ends = [
        each.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
        for each in (told, *(each for each in told.values() if isinstance(each, dict)))
        if str(each.get("rope_type")) in ("longrope", "dynamic")
    ]
    if getattr(config, "attn_temperature_tuning", False) and (step := getattr(config, "floor_scale", None)):
        ends.append(max(1, int(step) - 1))
    return min(filter(None, ends), default=None)


def _blocks(network: PreTrainedModel, config: PreTrainedConfig) -> tuple[tuple[nn.Module, ...], nn.Module]:
    """The decoder's blocks, and the module that holds their list."""
    decoder = network.get_decoder()
    wanted = getattr(config, "num_hidden_layers", None)
    for root in (decoder if isinstance(decoder, nn.Module) else network, network):
        lists = [(path, each) for path, each in root.named_modules() if isinstance(each, nn.ModuleList) and len(each)]
        if lists:
            break
    outer = [(path, each) for path, each in lists if not any(path.startswith(f"{above}.") for above, _ in lists)]
    fitting = [(path, each) for path, each in outer if len(each) == wanted]
    if not fitting:
        lengths = ", ".join(f"{path} of {len(each)}" for path, each in outer) or "none"
        raise ModelError(
            f"{type(network).__name__} is of family {config.model_type!r} and has no list of {wanted} decoder blocks "
            f"(lists of modules: {lengths}): only models with such a list are served"
        )
    path, chosen = fitting[0]
    return tuple(chosen), root.get_submodule(path.rpartition(".")[0])


def _parts(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """(what mixes positions, the MLP), where a block has just one of each."""
    mixers, others = parts_of(block)
    is_mlp = len(others) == 1 and not isinstance(others[0], nn.Linear)
    return mixers[0] if len(mixers) == 1 else None, others[0] if is_mlp else None


def parts_of(block: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """All that mixes positions in a block, by its name, and all else that has matrices."""
    found: tuple[list[nn.Module], list[nn.Module]] = [], []
    for name, child in block.named_children():
        if any(weight.ndim > 1 for weight in child.parameters()) and "norm" not in type(child).__name__.lower():
            found[not any(word in f"{name} {type(child).__name__}".lower() for word in MIXERS)].append(child)
    return found


def _router(block: nn.Module, mlp: nn.Module | None, d_model: int) -> nn.Module | None:
    """The module whose matrix takes the stream to one number an expert; it may stand beside the experts."""
    for part in (block,) if mlp is None else (mlp, block):
        counts = {len(each) for each in part.modules() if isinstance(each, nn.ModuleList)}
        counts |= {len(each) for name, each in part.named_parameters() if each.ndim == 3 and "conv" not in name}
        for each in part.modules():
            weight = each._parameters.get("weight")
            if weight is not None and weight.ndim == 2 and weight.shape[1] == d_model and len(weight) in counts:
                return each
        # All experts may be one matrix, which does not say how many they are.
        for path, named in part.named_modules():
            maps = [each for each in named.modules() if isinstance(each, nn.Linear)]
            if path.rpartition(".")[2] == "router" and [each.in_features for each in maps] == [d_model]:
                return maps[0]
    return None


def _final_norm(holder: nn.Module, d_model: int) -> nn.Module:
    """The last norm of the stream beside the list of blocks."""
    norms = [child for child in holder.children() if "norm" in type(child).__name__.lower()]
    wide = [norm for norm in norms if all(weight.numel() == d_model for weight in norm.parameters())]
    return wide[-1] if wide else nn.Identity()


class Reached(NamedTuple):
    """A block in a pass."""

    stream: Float[Tensor, "1 pos d_model"]
    call: Callable[[Tensor], object]
    """The block, of a stream of that shape, all else as in the pass."""
    block: nn.Module


def _measured(network: PreTrainedModel, found: Anatomy) -> Anatomy:
    """With what is measured; ModelError where blocks do not read one stream after the other, a token its past alone."""
    name, kinds = type(network).__name__, [_kind(block) for block in found.blocks]
    lengths: dict[object, int] = {}
    in_turn = True
    with at_rest(network), refused_in_one_line(f"{name} is of family {found.family!r}, which is not served"):
        for layer, kind in enumerate(kinds):
            if kind in lengths:
                continue
            found = replace(found, returned=tuple(lengths.get(each, 0) for each in kinds))
            plain, padded = (reached(network, found, layer, n_pad) for n_pad in (0, N_PAD))
            output = plain.call(spread(plain.stream))
            lengths[kind] = len(output) if isinstance(output, tuple) else 0
            _check_block(layer, plain, padded)
            in_turn = in_turn and _adds_in_turn(found, layer, plain)
        found = replace(found, returned=tuple(lengths[kind] for kind in kinds), has_resid_mid=in_turn)
        _check_chain(network, found)
        # Some families take no cache but their own.
        reached(network, found, 0, cache=DynamicCache(config=network.config))
    return found


def reached(
    network: PreTrainedModel,
    found: Anatomy,
    layer: int,
    n_pad: int = 0,
    cache: DynamicCache | None = None,
    *,
    is_precise: bool = False,
) -> Reached:
    """Block `layer` in a pass over a few tokens, behind `n_pad` of padding; the blocks below hand on the embedding.

    Where it `is_precise`, the block of a network in half precision is a copy in single precision.
    """
    block, caught = found.blocks[layer], []

    def catch(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        caught.append((args, kwargs))
        raise Enough

    with ExitStack() as stack, suppress(Enough):
        stack.enter_context(handing_on(zip(found.blocks[:layer], found.returned, strict=False)))
        stack.callback(block.register_forward_pre_hook(catch, with_kwargs=True).remove)
        _run(network, found, n_pad, cache)
    if not caught:
        raise ModelError(f"a pass does not reach block {layer}")
    args, kwargs = caught[0]
    if is_precise and all(weight.itemsize == 2 for weight in block.parameters()):
        block, args, kwargs = copy.deepcopy(block).float(), in_single(args), in_single(kwargs)

    def call(stream: Tensor) -> object:
        changed, named = with_stream(args, kwargs, stream)
        return block(*changed, **named)

    return Reached(stream_of(args, kwargs), call, block)


def _run(network: PreTrainedModel, found: Anatomy, n_pad: int = 0, cache: DynamicCache | None = None) -> None:
    tokens = torch.tensor([[0] * n_pad + [1 + at % (found.d_vocab - 1) for at in range(N_TOKENS)]])
    mask = torch.tensor([[0] * n_pad + [1] * N_TOKENS])
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    given = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
    on_device = {name: each.to(network.device) for name, each in given.items()}
    kept = {"use_cache": cache is not None} | ({} if cache is None else {"past_key_values": cache})
    network(**arguments(network, **on_device, **kept))


def spread(like: Float[Tensor, "*shape"], seed: int = 0) -> Float[Tensor, "*shape"]:
    """Numbers that are the same for a shape and seed, about as spread as normal ones; no generator is touched."""
    places = torch.arange(like.numel(), dtype=torch.float64)
    golden = ((places + 1) * 0.6180339887498949 + 0.377 * seed + 0.1) % 1.0
    return (torch.special.ndtri(0.001 + 0.998 * golden)).reshape(like.shape).to(like.device, like.dtype)


def alike(one: Tensor, other: Tensor, digits: float = 0.5) -> bool:
    """Whether two tensors agree to this part of their digits."""
    if one.shape != other.shape:
        return False
    bound = torch.finfo(other.dtype).eps ** digits * other.abs().max().float()
    return bool((one.float() - other.float()).abs().max() <= bound)


def _check_block(layer: int, plain: Reached, padded: Reached) -> None:
    stream = spread(plain.stream)
    if stream.ndim != 3 or len(stream) != 1:
        raise ModelError(f"its block {layer} reads {tuple(stream.shape)} of a text: want one stream, batch pos d_model")
    output = first_of(plain.call(stream))
    if output.shape != stream.shape:
        raise ModelError(f"its block {layer} reads a stream of {tuple(stream.shape)}, gives {tuple(output.shape)}")
    later = stream.clone()
    later[:, -1] = -later[:, -1]
    if not alike(first_of(plain.call(later))[:, :-1], output[:, :-1], digits=0.75):
        raise ModelError(f"in its block {layer} a token reads those behind it, so that it cannot write one by one")
    behind = torch.cat([spread(plain.stream[:, :N_PAD], 7), stream], dim=1)
    same = alike(padded.stream[:, N_PAD:], plain.stream)
    if not same or not alike(first_of(padded.call(behind))[:, N_PAD:], output):
        raise ModelError(f"padding on the left changes what its block {layer} makes of a text")


def _adds_in_turn(found: Anatomy, layer: int, block: Reached) -> bool:
    """Whether attention adds what it gives to the stream as it is, and the MLP then reads that stream."""
    attention, mlp = found.attentions[layer], found.mlps[layer]
    if attention is None or mlp is None:
        return False
    stream, added = spread(block.stream), spread(block.stream, 1)
    read: list[Tensor] = []

    def run(stream: Tensor, added: Tensor) -> Tensor:
        with ExitStack() as stack:
            stack.callback(mlp.register_forward_pre_hook(keep, with_kwargs=True).remove)
            for module, instead in ((attention, added), (mlp, torch.zeros_like(stream))):
                stack.callback(module.register_forward_hook(partial(give, instead)).remove)
            return first_of(block.call(stream))

    def keep(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        read.append(stream_of(args, kwargs).clone())

    def give(instead: Tensor, _: nn.Module, __: object, output: object) -> object:
        return with_first(output, instead.reshape(first_of(output).shape).clone())

    nothing = torch.zeros_like(stream)
    after, _, _ = run(stream, added), run(stream + added, nothing), run(stream, nothing)
    if not alike(after, stream + added, digits=0.75) or len(read) != 3:
        return False
    return alike(read[0], read[1]) and not alike(read[0], read[2])


def _check_chain(network: PreTrainedModel, found: Anatomy) -> None:
    """Each block reads what the one before it gave, once, the final norm the last, and the unembedding that."""
    read: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        # The final norm may also stand before the first block.
        if read or module is found.blocks[0]:
            read.append((module, stream_of(args, kwargs)))
        if module is found.unembed:
            raise Enough

    behind = [] if isinstance(found.final_norm, nn.Identity) else [found.final_norm]
    order = [*found.blocks, *behind, found.unembed]
    with ExitStack() as stack, suppress(Enough):
        stack.enter_context(handing_on(zip(found.blocks, found.returned, strict=True)))
        for module in order:
            stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        _run(network, found)
    if [module for module, _ in read] != order:
        raise ModelError("a pass does not run its blocks once each, in order, then the final norm and the unembedding")
    streams = [stream for module, stream in read if not behind or module is not found.unembed]
    if not all(torch.equal(stream, streams[0]) for stream in streams):
        raise ModelError("something is done to the stream between its blocks, or before the final norm")


def _kind(block: nn.Module) -> object:
    return type(block), tuple((name, weight.shape) for name, weight in block.named_parameters())


@contextmanager
def at_rest(network: PreTrainedModel) -> Iterator[None]:
    """Within the block no gradient is kept and nothing is dropped out."""
    training = [module for module in network.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def refused_in_one_line(what: str) -> Iterator[None]:
    """Within the block, whatever a network raises becomes a ModelError of one line."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{what}: {condensed(error)}") from error
