"""A vector as biases: baked into a checkpoint, which is served as any other model; and as a PEFT adapter beside one.

The adapter is LoRA whose matrices are zero and whose bias (`lora_bias`) is the vector. Of PEFT's methods, LoRA with
`lora_bias` and BEFT add a constant to a linear map's output; IA3 only multiplies, and `bias="all"` trains biases that
the model must have. BEFT is in few versions of PEFT and not for the Conv1D of GPT-2, so it is LoRA here (PEFT 0.14 and
later).
"""

import copy
import json
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lab.models.anatomy import text_config
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.stage import atomic_directory
from probes.capture.site import Site
from steering.export.gguf import EMBEDDED, at_block_outputs
from steering.export.last_map import LastMap, added_embeddings, last_map
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


def biased_map(model: Model, site: Site) -> LastMap:
    """The linear map whose bias adds to the stream at `site`; VectorError where there is none."""
    found = last_map(model.network, model.anatomy, site.layer, of_attention=site.stream == "resid_mid")
    if found is None:
        raise VectorError(
            f"in {model.name}, a {model.anatomy.family!r}, no linear map adds straight to the residual stream at "
            f"{site} (a norm follows, or experts are mixed), so no bias is a steering vector there; serve it with a "
            "GGUF control vector in llama.cpp or a vllm-lens request instead"
        )
    return found


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
        itself is left as it is. The output of block N gets the vector as the bias of the block's last map, such as
        `mlp.down_proj` of Llama, whose configuration then says `mlp_bias` (all its other new biases are zero), or
        `mlp.c_proj` of GPT-2; the middle of a block gets it as that of attention's last map (`attention_bias`,
        `self_attn.o_proj` of Llama). Where the network multiplies what such a map gives (Granite), the bias is the
        vector over that factor, which is measured. Before block 0 the vector is added to every row of the position
        embedding where there is one (GPT-2), else of the token embedding, if the unembedding is another matrix.

        In fp32 the logits are those under `apply`, up to the order of sums. In bf16 the bias is rounded once and added
        before the stream is rounded, where `apply` adds after, so logits agree only as far as two bf16 computations do.
        A note beside the weights gives what was lost: at each site, the L2 norm of what rounding the sum of old bias
        and vector took, over the norm of the vector; 0 for a new bias in fp32, at most 2^-8 for one in bf16.

        Raises VectorError for another width, for a site at which no bias adds to the stream or whose map has none and
        no switch in the configuration that gives it one, and for `resid_pre` of block 0 with tied embeddings; SiteError
        for a layer out of range; StorageError where `path` exists or cannot be written.
        """
        told = at_block_outputs(vector)
        check_fits(told, facts_of(self.into))
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
    places = {site: _embedding(model) if site == EMBEDDED else biased_map(model, site) for site in vector.sites}
    wanted = {f"{place.path}.bias" for site, place in places.items() if site != EMBEDDED}
    config, new = _switched_on(model, wanted)
    for name, shape in new.items():
        state[name] = next(iter(state.values())).new_zeros(shape)
    rounding = {}
    for site, direction in vector.directions.items():
        name = f"{places[site].path}.{'weight' if site == EMBEDDED else 'bias'}"
        there = direction.to(state[name].device) / places[site].scale
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


def _switched_on(model: Model, wanted: Set[str]) -> tuple[PreTrainedConfig, dict[str, torch.Size]]:
    """The configuration whose switches give the `wanted` biases, and the tensors that it now has a place for."""
    config, there, new = copy.deepcopy(model.network.config), set(model.network.state_dict()), {}
    switches = [
        name for name, value in text_config(model.network).to_dict().items() if "bias" in name and value is False
    ]
    for switch in switches:
        if wanted <= there | set(new):
            break
        tried = copy.deepcopy(config)
        # A configuration may forbid a switch, each in its own way.
        with suppress(Exception), torch.device("meta"):
            setattr(tried.get_text_config(decoder=True), switch, True)
            type(tried).from_dict(tried.to_dict())
            shapes = {name: tensor.shape for name, tensor in type(model.network)(tried).state_dict().items()}
            added = {name: shape for name, shape in shapes.items() if name not in there and name not in new}
            # One switch is for all layers and several maps.
            if wanted & set(added) and all(name.endswith(".bias") for name in added):
                config, new = tried, new | added
    if absent := sorted(wanted - there - set(new)):
        raise VectorError(
            f"{model.name} is of family {model.anatomy.family!r}, whose configuration has no bias at {absent[0]}, so "
            "that plain transformers and vLLM would drop one; serve it with a GGUF control vector in llama.cpp, a PEFT "
            "adapter or a vllm-lens request instead"
        )
    return config, new


def _embedding(model: Model) -> LastMap:
    """The matrix whose rows all go into the stream before block 0, one a token, and nowhere else."""
    found, tied = added_embeddings(model.network, model.anatomy), model.anatomy.unembed.weight
    free = [each for each in found if model.network.get_submodule(each.path).weight is not tied]
    if not free:
        raise VectorError(
            f"{EMBEDDED} cannot be baked into {model.name}: its unembedding is the same matrix as its embedding, so "
            "the addition would change the logits a second time; steer at the output of block 0 instead"
            if found
            else f"{EMBEDDED} cannot be baked into {model.name}: what its embedding gives is not added to the stream; "
            "steer at the output of block 0 instead"
        )
    return free[0]


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

        Every token is steered. The tensors are fp32. Where the map has no bias of its own (most families) PEFT says
        that it cannot merge the adapter, which is so: keep it beside the model. Raises VectorError for another width,
        for `resid_pre` of block 0 (LoRA has no bias on an embedding) and where no bias adds to the stream; SiteError
        for a layer out of range; StorageError where `path` exists.
        """
        told = at_block_outputs(vector)
        if EMBEDDED in told.directions:
            raise VectorError(
                f"{EMBEDDED} is no linear map's output, and a LoRA bias adds to those only; leave that site out, or "
                "bake it into a checkpoint"
            )
        check_fits(told, facts_of(self.of))
        maps = {site: biased_map(self.of, site) for site in told.sites}
        tensors: dict[str, Tensor] = {}
        for site, direction in told.directions.items():
            name, scale = maps[site]
            prefix = f"base_model.model.{name}"
            weight = self.of.network.get_submodule(name).weight
            assert isinstance(weight, Tensor), "the last map of a block has a weight"
            tensors[f"{prefix}.lora_A.weight"] = torch.zeros(1, weight.numel() // told.d_model)
            tensors[f"{prefix}.lora_B.weight"] = torch.zeros(told.d_model, 1)
            tensors[f"{prefix}.lora_B.bias"] = (direction / scale).contiguous()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.of.name,
            "inference_mode": True,
            # Full paths, so that no other block's map matches.
            "target_modules": [each.path for each in maps.values()],
            "r": 1,
            "lora_alpha": 1,
            "lora_dropout": 0.0,
            "lora_bias": True,
            "bias": "none",
            # GPT-2 keeps its maps as Conv1D, input first.
            "fan_in_fan_out": any(
                isinstance(self.of.network.get_submodule(each.path), Conv1D) for each in maps.values()
            ),
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
