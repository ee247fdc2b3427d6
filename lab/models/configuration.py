"""The configuration of a checkpoint, as transformers reads it or ought to, and what makes the network of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from lab.records.errors import ModelError

# Types of models that bring code of their own, which is never run, and whose decoder by that code is one of
# transformers': MiMo's classes inherit Qwen2's, and add `mtp_layers`, to guess ahead, that no pass for logits enters.
DECODED_AS = {"mimo": "qwen2"}


def written_config(path: Path, said: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that `path` holds and that says this; also of a type in `DECODED_AS`, or one of wrong parts."""
    kind = said.get("model_type")
    if isinstance(kind, str) and kind in DECODED_AS:
        ours = {name: value for name, value in said.items() if name not in ("model_type", "auto_map", "architectures")}
        return AutoConfig.for_model(DECODED_AS[kind], **ours)
    if kind not in CONFIG_MAPPING and "auto_map" in said:
        why = "is none of transformers' own, and code that a model brings is never run"
        raise ModelError(f"model_type {kind!r} of {path / 'config.json'} {why}")
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if isinstance(getattr(config, "text_config", None), dict):
        # The file says the type of its text part for the whole, whose class is that of what its `architectures` name.
        named = getattr(transformers, str(next(iter(said.get("architectures") or []), "")), None)
        if named is None or named.config_class is type(config):
            raise ModelError(f"model_type {kind!r} is of configurations without parts, and there is a text_config")
        config = named.config_class.from_dict({name: value for name, value in said.items() if name != "model_type"})
    return config


def opens(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """What makes the network of a configuration: a causal language model, or one that also sees."""
    alone = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForCausalLM if alone else AutoModelForImageTextToText
