"""The named parts of a decoder, whatever its family calls them."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lab.records.errors import ModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Module paths from the top of the network; those of `attention` and `mlp` start at a block."""

    embed: str
    blocks: str
    final_norm: str
    unembed: str
    attention: str
    mlp: str


LLAMA = Layout(
    embed="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    unembed="lm_head",
    attention="self_attn",
    mlp="mlp",
)
GPT2 = Layout(
    embed="transformer.wte",
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    attention="attn",
    mlp="mlp",
)
GPT_NEOX = Layout(
    embed="gpt_neox.embed_in",
    blocks="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    unembed="lm_head",
    attention="attention",
    mlp="mlp",
)

# Keyed by `config.model_type`. A family is here once a tiny network of it passes tests/lab/models/test_anatomy.py.
LAYOUTS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
# What attention adds goes through a norm of its own first.
NORMED_ATTENTION = ("gemma2", "gemma3_text")


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
    """One a block; its output is a tuple that starts with what it adds to the stream (Gemma 2 and 3 norm it first)."""
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
    family = network.config.model_type
    layout = LAYOUTS.get(family)
    if layout is None:
        raise ModelError(
            f"{type(network).__name__} is of family {family!r}, which has no layout here; known: {', '.join(LAYOUTS)}"
        )
    blocks = _part(network, network, "blocks", layout.blocks)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelError(f"{type(network).__name__}: blocks at {layout.blocks!r} are not a list of modules")
    unembed = _part(network, network, "unembed", layout.unembed)
    d_vocab, d_model = _matrix(network, "unembed", unembed)
    return Anatomy(
        family=family,
        embed=_part(network, network, "embed", layout.embed),
        blocks=tuple(blocks),
        final_norm=_part(network, network, "final norm", layout.final_norm),
        unembed=unembed,
        attentions=tuple(
            _part(network, block, f"attention of block {layer}", layout.attention) for layer, block in enumerate(blocks)
        ),
        mlps=tuple(_part(network, block, f"MLP of block {layer}", layout.mlp) for layer, block in enumerate(blocks)),
        d_model=d_model,
        has_resid_mid=family not in NORMED_ATTENTION and not getattr(network.config, "use_parallel_residual", False),
        d_vocab=d_vocab,
    )


def _part(network: PreTrainedModel, parent: nn.Module, part: str, path: str) -> nn.Module:
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(network).__name__} has no {part} at {path!r}: {error}") from error


def _matrix(network: PreTrainedModel, part: str, module: nn.Module) -> tuple[int, int]:
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 2:
        raise ModelError(f"{type(network).__name__}: {part} is a {type(module).__name__}, not a linear map")
    return weight.shape[0], weight.shape[1]
