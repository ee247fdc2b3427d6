"""Two-layer random decoders and a byte tokenizer: real objects of every family, small enough for tests and examples."""

from typing import Literal, TypeAlias, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from lab.models.load import Model, assemble
from lab.records.seeds import child_seed

Family: TypeAlias = Literal[
    "llama", "mistral", "smollm3", "phi3", "qwen2", "qwen3", "qwen3_moe", "olmo2", "olmo3", "gemma", "gemma2",
    "gemma3_text", "gpt2", "gpt_neox",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)

PAD, EOS = 256, 257
N_POSITIONS = 256
N_HEADS = 4
# Large beside the usual 0.02: logits of random networks then differ by whole nats, and greedy text is not one token.
INITIALIZER_RANGE = 0.4


def tiny_model(family: Family = "llama", *, seed: int = 0, n_layers: int = 2, d_model: int = 32) -> Model:
    """A seeded random decoder in float32 on the CPU, with the byte tokenizer."""
    network = tiny_network(family, seed=seed, n_layers=n_layers, d_model=d_model)
    return assemble(network, byte_tokenizer(), name=f"tiny-{family}-{seed}")


def tiny_network(
    family: Family, *, seed: int, n_layers: int = 2, d_model: int = 32, d_vocab: int = 258
) -> PreTrainedModel:
    """A random decoder of `family` in float32, for up to 256 positions; the global generator is left as it was."""
    # Module constructors draw from the global generator and take no other.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(child_seed(seed, "tiny", family))
        network = AutoModelForCausalLM.from_config(_config(family, n_layers, d_model, d_vocab), dtype=torch.float32)
    return network.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Token i is byte i, 256 pads, 257 ends; encoding adds nothing, and decoding gives back every text exactly."""
    # The 256 printable stand-ins of byte-level BPE, sorted by the byte that each stands for.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={letter[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|eos|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        padding_side="left",
        model_max_length=N_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _config(family: Family, n_layers: int, d_model: int, d_vocab: int) -> PreTrainedConfig:
    fields: dict[str, int | float | bool | None] = {
        "vocab_size": d_vocab,
        "initializer_range": INITIALIZER_RANGE,
        "pad_token_id": PAD if d_vocab > EOS else None,
        "eos_token_id": EOS if d_vocab > EOS else None,
        "bos_token_id": None,
        # One family tied, so that tying is tested; in the others it makes greedy text repeat its last token.
        "tie_word_embeddings": family == "gemma",
    }
    if family == "gpt2":
        fields |= {"n_embd": d_model, "n_layer": n_layers, "n_head": N_HEADS, "n_positions": N_POSITIONS}
    else:
        fields |= {
            "hidden_size": d_model,
            "intermediate_size": 2 * d_model,
            "num_hidden_layers": n_layers,
            "num_attention_heads": N_HEADS,
            "max_position_embeddings": N_POSITIONS,
        }
    if family not in ("gpt2", "gpt_neox"):
        # Keys and values shared by pairs of heads, as in every recent family.
        fields |= {"num_key_value_heads": N_HEADS // 2, "head_dim": d_model // N_HEADS}
    if family == "qwen3_moe":
        fields |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": d_model}
    return AutoConfig.for_model(family, **fields)
