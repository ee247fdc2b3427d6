"""Low-rank adapters (Hu et al. 2021) to be trained: the door to peft for training."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

LINEAR_MAPS = "all-linear"
"""Every linear map of the blocks; not the embedding and not the unembedding."""


def with_low_rank(network: PreTrainedModel, rank: int, *, seed: int) -> PeftModel:
    """`network`, frozen, with a fresh adapter of `rank` on every linear map of its blocks, which starts as no change.

    The adapter is kept in float32 whatever the network's dtype; its scale is 2.
    """
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=LINEAR_MAPS, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def save_low_rank(network: PeftModel, directory: Path, *, parent: str) -> None:
    """Writes the adapter in bf16 and its configuration, which names `parent` as the model that it changes."""
    for config in network.peft_config.values():
        config.base_model_name_or_path = parent
        config.inference_mode = True
    # Embeddings are not adapted; to find that out, peft would ask the hub for the parent.
    network.bfloat16().save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
    # peft writes a card of blanks.
    (directory / "README.md").unlink(missing_ok=True)
