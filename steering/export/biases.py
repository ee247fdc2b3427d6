"""A vector as biases: baked into a checkpoint, which is served as any other model; and as a PEFT adapter beside one.

The adapter is LoRA whose matrices are zero and whose bias (`lora_bias`) is the vector. Of PEFT's methods, LoRA with
`lora_bias` and BEFT add a constant to a linear map's output; IA3 only multiplies, and `bias="all"` trains biases that
the model must have. BEFT is in few versions of PEFT and not for the Conv1D of GPT-2, so it is LoRA here (PEFT 0.14 and
later).
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from lab.models.anatomy import LAYOUTS
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.stage import atomic_directory
from steering.export.gguf import EMBEDDED, LAST_MAPS, at_block_outputs, last_map
from steering.export.vector_file import (
    HEADER,
    Format,
    Origin,
    check_fits,
    facts_of,
    header_text,
    quoted,
    section,
    shell,
)
from steering.vector import SteeringVector

# Families whose blocks end in a map with a bias, or, as Llama by `mlp_bias`, can be told to.
BAKED_FAMILIES = ("llama", "gpt2", "gpt_neox")
# Of Llama: each switch of the configuration, and the maps that it gives biases to.
SWITCHES = {
    "mlp_bias": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "attention_bias": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
}


@dataclass(frozen=True, slots=True, eq=False)
class BakedBias(Format):
    """A checkpoint of a model with the vector in its biases, for plain transformers and vLLM."""

    into: Model

    @classmethod
    def for_model(cls, model: Model | None) -> "BakedBias":
        if model is None:
            raise VectorError("a baked checkpoint is written for one model: name it with --model")
        return cls(model)

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        """Writes a checkpoint that is steered by `vector` at every token: weights, configuration, tokenizer.

        The directory appears whole or not at all, and loads with `AutoModelForCausalLM.from_pretrained`. The model
        itself is left as it is. The output of block N gets the vector as the bias of the block's last map:
        `mlp.down_proj` of Llama, whose configuration then says `mlp_bias` (all its other new biases are zero),
        `mlp.c_proj` of GPT-2, `mlp.dense_4h_to_h` of GPT-NeoX; the middle of a block gets it as that of attention's
        last map (`attention_bias`, `self_attn.o_proj` of Llama). Before block 0 the vector is added to every row of the
        position embedding of GPT-2, and of the token embedding of the others where the unembedding is another matrix.

        In fp32 the logits are those under `apply`, up to the order of sums. In bf16 the bias is rounded once and added
        before the stream is rounded, where `apply` adds after, so logits agree only as far as two bf16 computations do.
        A note beside the weights gives what was lost: at each site, the L2 norm of what rounding the sum of old bias
        and vector took, over the norm of the vector; 0 for a new bias in fp32, at most 2^-8 for one in bf16.

        Raises VectorError for another width, for a family without such a bias, and for `resid_pre` of block 0 with tied
        embeddings; SiteError for a layer out of range; StorageError where `path` exists or cannot be written.
        """
        told = at_block_outputs(vector)
        check_fits(told, facts_of(self.into))
        family = self.into.anatomy.family
        if family not in BAKED_FAMILIES:
            adapter = ", a PEFT adapter" if family in LAST_MAPS else ""
            raise VectorError(
                f"{self.into.name} is of family {family!r}, whose configuration has no bias at the end of a block, so "
                f"that plain transformers and vLLM would drop one (baked can be {', '.join(BAKED_FAMILIES)}); serve it "
                f"with a GGUF control vector in llama.cpp{adapter} or a vllm-lens request instead"
            )
        network, rounding = _with_biases(self.into, told)
        note = {"baked": json.loads(header_text(told, origin)), "rounding": rounding, "into": self.into.digest}
        with atomic_directory(path) as temporary:
            network.save_pretrained(temporary)
            self.into.tokenizer.save_pretrained(temporary)
            # Not as safetensors: vLLM reads every such file in the directory as weights.
            (temporary / f"{HEADER}.json").write_text(json.dumps(note, indent=1, sort_keys=True), encoding="utf-8")

    def use(self, path: Path, _: str) -> str:
        transformers = section(
            "transformers (baked checkpoint; always steered)",
            "python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"model = AutoModelForCausalLM.from_pretrained({quoted(path)})",
            f"tokenizer = AutoTokenizer.from_pretrained({quoted(path)})",
        )
        return f"{transformers}\n\n{section('vLLM (the same checkpoint)', 'sh', f'vllm serve {shell(path)}')}"


def _with_biases(model: Model, vector: SteeringVector) -> tuple[PreTrainedModel, dict[str, float]]:
    """A network with the biases, and what rounding lost at each site; it shares the tensors that stay as they are."""
    state = dict(model.network.state_dict())
    config = copy.deepcopy(model.network.config)
    streams = {site.stream for site in vector.sites}
    wanted = {"mlp_bias": "resid_post" in streams, "attention_bias": "resid_mid" in streams}
    for switch, maps in SWITCHES.items() if model.anatomy.family == "llama" else ():
        if not wanted[switch] or getattr(config, switch):
            continue
        # One switch for all layers and all of its maps.
        setattr(config, switch, True)
        for layer in range(model.anatomy.n_layers):
            for name in maps:
                mapped = f"{LAYOUTS['llama'].blocks}.{layer}.{name}"
                state[f"{mapped}.bias"] = state[f"{mapped}.weight"].new_zeros(len(state[f"{mapped}.weight"]))
    rounding = {}
    for site, direction in vector.directions.items():
        name = _embedding(model) if site == EMBEDDED else f"{last_map(model.anatomy.family, site)}.bias"
        there = direction.to(state[name].device)
        exact = state[name].float() + there
        state[name] = exact.to(state[name].dtype)
        # The largest of a row, where several rows get the vector.
        lost = (state[name].float() - exact).norm(dim=-1).max()
        rounding[str(site)] = float(lost / there.norm())
    with torch.device("meta"):
        network = type(model.network)(config)
    network.load_state_dict(state, assign=True)
    network.tie_weights()
    network.generation_config = model.network.generation_config
    return network, rounding


def _embedding(model: Model) -> str:
    """Name of the matrix whose rows all go into the stream before block 0, one a token, and nowhere else."""
    family = model.anatomy.family
    if family == "gpt2":
        return "transformer.wpe.weight"
    if getattr(model.anatomy.embed, "weight", None) is getattr(model.anatomy.unembed, "weight", None):
        raise VectorError(
            f"{EMBEDDED} cannot be baked into {model.name}: its unembedding is the same matrix as its embedding, so "
            "the addition would change the logits a second time; steer at the output of block 0 instead"
        )
    return f"{LAYOUTS[family].embed}.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Adapter(Format):
    """A PEFT adapter that is only a bias, for a model."""

    of: Model

    @classmethod
    def for_model(cls, model: Model | None) -> "Adapter":
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
        told = at_block_outputs(vector)
        if EMBEDDED in told.directions:
            raise VectorError(
                f"{EMBEDDED} is no linear map's output, and a LoRA bias adds to those only; leave that site out, or "
                "bake it into a checkpoint"
            )
        check_fits(told, facts_of(self.of))
        family = self.of.anatomy.family
        tensors: dict[str, Tensor] = {}
        for site, direction in told.directions.items():
            name = last_map(family, site)
            prefix = f"base_model.model.{name}"
            weight = self.of.network.get_submodule(name).weight
            assert isinstance(weight, Tensor), "the last map of a block has a weight"
            tensors[f"{prefix}.lora_A.weight"] = torch.zeros(1, weight.numel() // told.d_model)
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
            told_config = json.dumps(config, indent=1, sort_keys=True)
            (temporary / "adapter_config.json").write_text(told_config, encoding="utf-8")
            (temporary / f"{HEADER}.json").write_text(header_text(told, origin), encoding="utf-8")

    def use(self, path: Path, model: str) -> str:
        return section(
            "transformers and PEFT (adapter; stays beside the model, not merged)",
            "python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            f"base = AutoModelForCausalLM.from_pretrained({quoted(model)})",
            f"model = PeftModel.from_pretrained(base, {quoted(path)})",
        )
