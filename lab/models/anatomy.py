"""Anatomy: the parts of one network by name: blocks, attention, MLPs, and what is before and behind them."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from lab.records.errors import ModelError


class Layout(NamedTuple):
    """Module paths from the top of the network; those of `attention` and `mlp` start at a block."""

    embed: str
    blocks: str
    final_norm: str
    attention: str
    mlp: str
    unembed: str = "lm_head"


LLAMA = Layout("model.embed_tokens", "model.layers", "model.norm", "self_attn", "mlp")
GPT2 = Layout("transformer.wte", "transformer.h", "transformer.ln_f", "attn", "mlp")
GPT_NEOX = Layout("gpt_neox.embed_in", "gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp")
# Keyed by `config.model_type`. A family is here once a tiny network of it passes tests/lab/models/test_anatomy.py.
LAYOUTS = {
    **dict.fromkeys(("llama", "mistral", "smollm3", "phi3", "qwen2", "qwen3", "qwen3_moe"), LLAMA),
    **dict.fromkeys(("olmo2", "olmo3", "gemma", "gemma2", "gemma3_text"), LLAMA),
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
# What attention adds goes through a norm of its own first.
NORMED_ATTENTION = ("olmo2", "olmo3", "gemma2", "gemma3_text")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Anatomy:
    """The parts of one network. The modules are the network's own, so two anatomies are equal only when identical.

    A block takes and returns the residual stream, `batch pos d_model`, as a plain tensor.
    """

    family: str
    """`config.model_type`."""
    embed: nn.Module
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module
    unembed: nn.Module
    attentions: tuple[nn.Module, ...]
    """One a block; its output is a tuple that starts with what it adds to the stream (`NORMED_ATTENTION`: normed)."""
    mlps: tuple[nn.Module, ...]
    d_model: int
    has_resid_mid: bool
    """Whether attention adds its output to the stream as it is, and the MLP then reads that stream."""
    d_vocab: int
    """Rows of the unembedding, which may exceed the tokenizer's tokens where a family pads its matrix."""

    @property
    def n_layers(self) -> int:
        """How many blocks; layers count from 0."""
        return len(self.blocks)


def find_anatomy(network: PreTrainedModel) -> Anatomy:
    """The parts of `network`; ModelError naming the family or the part that is not where its layout says."""
    family, name = network.config.model_type, type(network).__name__
    layout = LAYOUTS.get(family)
    if layout is None:
        raise ModelError(f"{name} is of family {family!r}, which has no layout here; known: {', '.join(LAYOUTS)}")

    def part(what: str, path: str, parent: nn.Module = network) -> nn.Module:
        try:
            return parent.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"{name} has no {what} at {path!r}: {error}") from error

    blocks, unembed = part("blocks", layout.blocks), part("unembed", layout.unembed)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelError(f"{name}: blocks at {layout.blocks!r} are not a list of modules")
    matrix = getattr(unembed, "weight", None)
    if matrix is None or matrix.ndim != 2:
        raise ModelError(f"{name}: unembed is a {type(unembed).__name__}, not a linear map")
    numbered = list(enumerate(blocks))
    return Anatomy(
        family=family,
        embed=part("embed", layout.embed),
        blocks=tuple(blocks),
        final_norm=part("final norm", layout.final_norm),
        unembed=unembed,
        attentions=tuple(part(f"attention of block {layer}", layout.attention, block) for layer, block in numbered),
        mlps=tuple(part(f"MLP of block {layer}", layout.mlp, block) for layer, block in numbered),
        d_model=matrix.shape[1],
        has_resid_mid=family not in NORMED_ATTENTION and not getattr(network.config, "use_parallel_residual", False),
        d_vocab=matrix.shape[0],
    )
