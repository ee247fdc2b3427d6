"""A GGUF file becomes a plain transformers decoder with its tokenizer: the door to gguf.

transformers reads such files, and passes silently over what it does not know: most rules by which text is split, the
scaling of rotary frequencies, and other numbers of the architecture. Here these are read as llama.cpp reads them, or
the file is refused.
"""

import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lab.models.checkpoint import require_finite
from lab.records.errors import ModelError, condensed

# `tokenizer.ggml.pre`, by how llama.cpp splits text for it (llama-vocab.cpp): as GPT-2; as GPT-2 after each digit was
# set apart; as a rule that transformers has under another name. A name that is in none of these and that transformers
# does not have is refused.
AS_GPT2 = (
    "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum", "exaone4",
)  # fmt: skip
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
SAME_AS = {
    **dict.fromkeys(("stablelm2", "hunyuan", "solar-open", "grok-2"), "qwen2"),
    **dict.fromkeys(("chatglm-bpe", "glm4", "glm5"), "llama-bpe"),
}
# Of these a piece that is a token stays whole, whatever its merges.
WHOLE_TOKENS = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
    "glm4", "glm5",
)  # fmt: skip
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Their texts open with BOS where the file does not say.
OPENED = WHOLE_TOKENS[:-2]
DEFAULT = ("", "default")
DEFAULT_SPLITS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", "[0-9][0-9][0-9]")
"""Of a file that names no rule, one after another."""

# Numbers below `<architecture>.` that transformers does not read, and the attribute that must have the same value.
SAME_VALUE = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
ROPE = "rope.scaling."
READ_HERE = ("rope.scale_linear", "rope.dimension_count", "rope.freq_base")
SAYS_NOTHING = ("rope.scaling.finetuned", "tensor_data_layout", "interleave_moe_layer_step")


class GgufParts(NamedTuple):
    """What one GGUF file holds."""

    network: PreTrainedModel
    """In eval mode on the CPU; `save_pretrained` works, so a slow conversion need happen only once."""
    tokenizer: PreTrainedTokenizerBase


def read_gguf(path: Path, *, dtype: torch.dtype) -> GgufParts:
    """The decoder and tokenizer in the GGUF file at `path`, its weights dequantised to `dtype`.

    Raises ModelError when the file is missing, damaged, of an architecture that transformers cannot read, or says
    something of its network or its tokenizer that has no counterpart there.
    """
    config, tokenizer = read_gguf_header(path)
    try:
        quantised, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            str(path.parent),
            gguf_file=path.name,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    # tokenizers raises bare exceptions.
    except Exception as error:
        raise ModelError(f"cannot read {path} as GGUF: {condensed(error)}") from error
    # transformers only warns here, and fills the gaps with random numbers.
    if absent := sorted(report["missing_keys"]):
        raise ModelError(f"{path} lacks {len(absent)} tensors of {type(quantised).__name__}: {absent[0]}, ...")
    require_finite(quantised, str(path))
    return GgufParts(network=_plain(quantised), tokenizer=tokenizer)


def read_gguf_header(path: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """What a GGUF file says of its model and its tokens, without its weights; ModelError as `read_gguf` raises it."""
    if not path.is_file():
        raise ModelError(f"no GGUF file at {path}; check the path")
    said = _metadata(path)
    folder, file = str(path.parent), path.name
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=file, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
    # tokenizers raises bare exceptions.
    except Exception as error:
        raise ModelError(f"cannot read {path} as GGUF: {condensed(error)}") from error
    _take_rotary(path, config, said)
    _require_all_read(path, config, said)
    return config, _split_as_said(path, tokenizer, said)


def _plain(quantised: PreTrainedModel) -> PreTrainedModel:
    """A network with the same tensors that does not remember having been quantised.

    The tensors are dense already, but transformers refuses to save a network whose configuration still says GGUF.
    """
    config = copy.deepcopy(quantised.config)
    del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    with torch.device("meta"):
        network = type(quantised)(config)
    network.load_state_dict(quantised.state_dict(), assign=True)
    network.tie_weights()
    # Buffers outside the state dict (rotary frequencies) are still on the meta device.
    for name, buffer in quantised.named_buffers():
        owner, _, leaf = name.rpartition(".")
        network.get_submodule(owner).register_buffer(leaf, buffer, persistent=name in network.state_dict())
    network.generation_config = quantised.generation_config
    return network.eval()


def _metadata(path: Path) -> Mapping[str, object]:
    """Every single value of the file by its key, arrays as their length.

    Raises ModelError for a file that is not GGUF, or that transformers would read wrongly without saying so.
    """
    from gguf import GGUFReader, GGUFValueType

    try:
        _require_counts(path)
        reader = GGUFReader(path)
        tensors = [tensor.name for tensor in reader.tensors]
        single = {
            key: len(field.data) if field.types[0] == GGUFValueType.ARRAY else field.contents()
            for key, field in reader.fields.items()
        }
    # A damaged file ends anywhere inside the reader's parsing.
    except Exception as error:
        raise ModelError(f"{path} is not a whole GGUF file: {condensed(error)}") from error
    if any("rope_" in name for name in tensors):
        raise ModelError(
            f"{path} scales its rotary frequencies by a tensor (Llama 3.1 and later do), which transformers ignores; "
            "use the safetensors of this model"
        )
    blocks = single.get(f"{single.get('general.architecture')}.block_count", 0)
    if not isinstance(blocks, int) or blocks > len(tensors):
        raise ModelError(f"{path} says that it has {blocks} blocks, in {len(tensors)} tensors; convert the model again")
    if len(set(tensors)) < len(tensors):
        raise ModelError(f"{path} holds tensors of the same name; convert the model again")
    return single


WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number by its kind in GGUF; 8 is a text and 9 an array."""


def _require_counts(path: Path) -> None:
    """ValueError where the header counts more than the file has bytes for: readers count through all of it first."""
    with path.open("rb") as file:
        head = file.read(24)
        # The version is below 2^16, so that its half tells the order of bytes.
        order = "little" if len(head) < 24 or head[4:6] != b"\0\0" else "big"
        n_left = path.stat().st_size

        def count(width: int) -> int:
            data = file.read(width)
            if len(data) < width:
                raise ValueError("it ends inside its header")
            return int.from_bytes(data, order)

        def require(times: int) -> None:
            if times > n_left:
                raise ValueError(f"its header counts {times:,}, and it has {n_left:,} bytes")

        def skip(kind: int, times: int) -> None:
            require(times)
            if kind in WIDTHS:
                file.seek(WIDTHS[kind] * times, os.SEEK_CUR)
                return
            for _ in range(times):
                if kind == 8:
                    skip(0, count(8))
                elif kind == 9:
                    skip(count(4), count(8))
                else:
                    raise ValueError(f"its header has a value of kind {kind}, want 0 to 12")

        if len(head) < 24 or head[:4] != b"GGUF":
            raise ValueError("it does not begin as one")
        n_tensors, n_values = (int.from_bytes(part, order) for part in (head[8:16], head[16:]))
        require(n_tensors)
        require(n_values)
        for _ in range(n_values):
            skip(0, count(8))
            skip(count(4), 1)


def _own(said: Mapping[str, object]) -> Mapping[str, object]:
    """What the file says below the name of its architecture."""
    prefix = f"{said.get('general.architecture')}."
    return {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}


def _take_rotary(path: Path, config: PreTrainedConfig, said: Mapping[str, object]) -> None:
    """Gives `config` the scaling of rotary frequencies that the file says (`linear`, `yarn`), and their base.

    As llama.cpp reads it: a factor without a kind is linear; with YaRN the context of pretraining is the model's own
    unless the file names another, and `attn_factor` multiplies the attention factor, which is 0.1 ln(factor) + 1. The
    `yarn_` keys are those of the model that was converted; llama.cpp passes over them in most architectures.
    """
    own = _own(said)
    kind, factor = own.get(f"{ROPE}type"), own.get(f"{ROPE}factor", own.get("rope.scale_linear"))
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        if kind in (None, "none") and factor in (None, 0, 1):
            return
        raise ModelError(f"{path} scales rotary frequencies, and {config.model_type!r} has none in transformers")
    # Where layers differ, those that see the whole text are scaled.
    rotary = parameters.get("full_attention", parameters)
    base = own.get("rope.freq_base")
    if isinstance(base, float | int):
        rotary["rope_theta"] = float(base)
    if kind == "none" or (kind in (None, "linear") and factor in (None, 0, 1)):
        return
    if not isinstance(factor, float | int) or not 0 < factor < float("inf"):
        raise ModelError(f"{path} scales rotary frequencies by {factor!r}; want a factor above 0")
    if kind in (None, "linear"):
        rotary |= {"rope_type": "linear", "factor": float(factor)}
    elif kind == "yarn":
        rotary |= _yarn(path, own, float(factor))
    else:
        raise ModelError(
            f"{path} scales rotary frequencies by {kind!r}; want linear or yarn, or the safetensors of this model"
        )


def _yarn(path: Path, own: Mapping[str, object], factor: float) -> dict[str, object]:
    """`rope_parameters` of YaRN; ModelError for what these have no place for."""
    if unread := [key for key in ("yarn_log_multiplier", "alpha") if f"{ROPE}{key}" in own]:
        raise ModelError(f"{path} says {ROPE}{unread[0]}, which has no counterpart in transformers")
    if (extrapolated := own.get(f"{ROPE}yarn_ext_factor", 1.0)) != 1:
        raise ModelError(f"{path} says {ROPE}yarn_ext_factor {extrapolated!r}; transformers knows only 1")
    trained = own.get(f"{ROPE}original_context_length", own.get("context_length"))
    rotary: dict[str, object] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained}
    names = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "yarn_attn_factor": "attention_factor"}
    rotary |= {names[key]: own[f"{ROPE}{key}"] for key in names if f"{ROPE}{key}" in own}
    if odd := [f"{name} {value!r}" for name, value in rotary.items() if not _is_number(value) and name != "rope_type"]:
        raise ModelError(f"{path} scales rotary frequencies with {odd[0]}; want a finite number")
    scaled, usual = own.get(f"{ROPE}attn_factor", 1.0), rotary.get("attention_factor", _usual_attention(factor))
    if not isinstance(scaled, float | int) or not isinstance(usual, float | int) or not _is_number(scaled):
        raise ModelError(f"{path} says {ROPE}attn_factor {scaled!r}; want a finite number")
    return rotary if scaled == 1 else rotary | {"attention_factor": scaled * usual}


def _usual_attention(factor: float) -> float:
    """YaRN's attention factor where nothing says another (Peng et al. 2023, equation 22)."""
    return 1 + 0.1 * math.log(max(1, factor))


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _require_all_read(path: Path, config: PreTrainedConfig, said: Mapping[str, object]) -> None:
    """Raises ModelError naming a number of the architecture that would be passed over, where it is not as it is."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    own = _own(said)
    read = GGUF_CONFIG_MAPPING.get(str(config.model_type).removesuffix("_text"))
    # Of the architectures that have a function of their own in transformers every number is read or meant to be.
    if read is None or config.model_type == "lfm2":
        return
    for key, value in own.items():
        if key in read or key in READ_HERE or key in SAYS_NOTHING or key.startswith(ROPE):
            continue
        attribute = SAME_VALUE.get(key)
        if attribute is None or getattr(config, attribute, None) != value:
            there = "nothing" if attribute is None else f"{attribute} {getattr(config, attribute, None)!r}"
            raise ModelError(
                f"{path} says {key} {value!r}, for which transformers has {there}; use the safetensors of this model"
            )
    width, rotated = getattr(config, "head_dim", None), own.get("rope.dimension_count")
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if None not in (width, rotated) and rotated != int(width * share):
        raise ModelError(
            f"{path} says rope.dimension_count {rotated}, and transformers would rotate {int(width * share)} of the "
            f"{width} numbers of a head; use the safetensors of this model"
        )


def _split_as_said(
    path: Path, tokenizer: PreTrainedTokenizerBase, said: Mapping[str, object]
) -> PreTrainedTokenizerBase:
    """`tokenizer` itself, which from now on splits text by the rule that the file names."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    assert isinstance(tokenizer, PreTrainedTokenizerFast), "GGUF vocabularies are read by tokenizers"
    backend = tokenizer.backend_tokenizer
    if said.get("tokenizer.ggml.model") == "gpt2":
        rule = str(said.get("tokenizer.ggml.pre", ""))
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if rule in SINGLE_DIGITS:
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
        elif rule in AS_GPT2:
            backend.pre_tokenizer = gpt2
        elif (same := SAME_AS.get(rule, rule)) in GGUF_PRE_TOKENIZER_SPLITS:
            split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[same]), behavior="isolated")
            backend.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
        elif rule in DEFAULT:
            parts = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in DEFAULT_SPLITS]
            backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, plain])
        else:
            known = sorted({*AS_GPT2, *SINGLE_DIGITS, *SAME_AS, *GGUF_PRE_TOKENIZER_SPLITS, *DEFAULT[1:]})
            raise ModelError(
                f"{path} splits text by the rule {rule!r} (tokenizer.ggml.pre), which is not known here; use the "
                f"safetensors of this model with its tokenizer.json; known: {', '.join(known)}"
            )
        if rule in WHOLE_TOKENS and isinstance(backend.model, models.BPE):
            backend.model.ignore_merges = True
        if rule in OPENED and "tokenizer.ggml.add_bos_token" not in said and tokenizer.bos_token is not None:
            tokenizer.add_bos_token = True
    return tokenizer
