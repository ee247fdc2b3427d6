"""A GGUF file becomes a plain transformers decoder with its tokenizer: the door to gguf."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lab.records.errors import ModelError


class GgufParts(NamedTuple):
    """What one GGUF file holds."""

    network: PreTrainedModel
    """In eval mode on the CPU; `save_pretrained` works, so a slow conversion need happen only once."""
    tokenizer: PreTrainedTokenizerBase


def read_gguf(path: Path, *, dtype: torch.dtype) -> GgufParts:
    """The decoder and tokenizer in the GGUF file at `path`, its weights dequantised to `dtype`.

    Raises ModelError when the file is missing, damaged, or of an architecture that transformers cannot read.
    """
    if not path.is_file():
        raise ModelError(f"no GGUF file at {path}; check the path")
    folder, file = str(path.parent), path.name
    _require_readable(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
        quantised, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder,
            gguf_file=file,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, IndexError) as error:
        raise _unreadable(path, error) from error
    # transformers only warns here, and fills the gaps with random numbers.
    if absent := sorted(report["missing_keys"]):
        raise ModelError(f"{path} lacks {len(absent)} tensors of {type(quantised).__name__}: {absent[0]}, ...")
    return GgufParts(network=_plain(quantised), tokenizer=tokenizer)


def read_gguf_header(path: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """What a GGUF file says of its model and its tokens, without its weights; ModelError as `read_gguf` raises it."""
    if not path.is_file():
        raise ModelError(f"no GGUF file at {path}; check the path")
    _require_readable(path)
    folder, file = str(path.parent), path.name
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=file, trust_remote_code=False, local_files_only=True)
        return config, AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, IndexError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return ModelError(f"cannot read {path} as GGUF: {type(error).__name__}: {reason}")


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


def _require_readable(path: Path) -> None:
    """Raises ModelError for a file that is not GGUF, or that transformers would read wrongly without saying so."""
    from gguf import GGUFReader

    try:
        tensors = [tensor.name for tensor in GGUFReader(path).tensors]
    # A cut-off file ends anywhere inside the reader's parsing.
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ModelError(f"{path} is not a whole GGUF file: {error}") from error
    if any("rope_" in name for name in tensors):
        raise ModelError(
            f"{path} scales its rotary frequencies by a tensor (Llama 3.1 and later do), which transformers ignores; "
            "use the safetensors of this model"
        )
