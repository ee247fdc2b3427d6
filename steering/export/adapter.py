"""A PEFT adapter that adds a vector: LoRA whose matrices are zero and whose bias (`lora_bias`) is the vector.

Of PEFT's methods, LoRA with `lora_bias` and BEFT add a constant to a linear map's output; IA3 only multiplies, and
`bias="all"` trains biases that the model must have. BEFT is in few versions of PEFT and not for the Conv1D of GPT-2, so
it is LoRA here (PEFT 0.14 and later).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.stage import atomic_directory
from steering.export.block_outputs import last_map, without_embedding
from steering.export.format import Format, quoted, section
from steering.export.vector_file import HEADER, Origin, check_fits, facts_of, header_text
from steering.vector import SteeringVector


@dataclass(frozen=True, slots=True, eq=False)
class Adapter(Format):
    """A PEFT adapter that is only a bias, for a model."""

    of: Model

    @classmethod
    def for_model(cls, model: Model | None) -> "Adapter":
        """To `model`."""
        if model is None:
            raise VectorError("an adapter is written for one model: name it with --model")
        return cls(model)

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """Writes the directory of the adapter, whole or not at all; `PeftModel.from_pretrained` loads it.

        Every token is steered. The tensors are fp32. Where the map has no bias of its own (all families but GPT-2 and
        GPT-NeoX) PEFT says that it cannot merge the adapter, which is so: keep it beside the model. Raises VectorError
        for another width, for `resid_pre` of block 0 (LoRA has no bias on an embedding) and for a family whose blocks
        norm the map's output; SiteError for a layer out of range; StorageError where `path` exists.
        """
        told = without_embedding(vector, "a LoRA bias")
        check_fits(told, facts_of(self.of))
        family = self.of.anatomy.family
        tensors: dict[str, torch.Tensor] = {}
        for site, direction in told.directions.items():
            name = last_map(family, site)
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.zeros(
                1, _n_inputs(self.of.network.get_submodule(name), told.d_model)
            )
            tensors[f"{prefix}.lora_B.weight"] = torch.zeros(told.d_model, 1)
            tensors[f"{prefix}.lora_B.bias"] = direction.contiguous()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.of.name,
            "inference_mode": True,
            # Full paths, so that no other block's map matches.
            "target_modules": [last_map(family, site) for site in told.sites],
            "r": 1,
            "lora_alpha": 1,
            "lora_dropout": 0.0,
            "lora_bias": True,
            "bias": "none",
            # GPT-2 keeps its maps as Conv1D, input first.
            "fan_in_fan_out": family == "gpt2",
        }
        with atomic_directory(path) as temporary:
            save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
            (temporary / "adapter_config.json").write_text(
                json.dumps(config, indent=1, sort_keys=True), encoding="utf-8"
            )
            (temporary / f"{HEADER}.json").write_text(header_text(told, origin), encoding="utf-8")

    def use(self, path: Path, model: str) -> str:
        """PEFT."""
        return section(
            "transformers and PEFT (adapter; stays beside the model, not merged)",
            "python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            f"base = AutoModelForCausalLM.from_pretrained({quoted(model)})",
            f"model = PeftModel.from_pretrained(base, {quoted(path)})",
        )


def _n_inputs(linear: nn.Module, n_outputs: int) -> int:
    weight = linear.weight
    assert isinstance(weight, torch.Tensor), "the last map of a block has a weight"
    return weight.numel() // n_outputs
