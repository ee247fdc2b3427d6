"""checkpoint: the files of a source become a network and a tokenizer; what is pickled or not whole is refused."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lab.models.source import (
    FILES,
    UNUSED,
    AdapterModel,
    BuiltInModel,
    GgufModel,
    HubModel,
    LocalModel,
    ModelSource,
    adapter_base,
    built_in_source,
    directory_digest,
    files_digest,
)
from lab.records.errors import ModelError, condensed

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# The libraries fall back to pickles where these are absent, so other safetensors files are not enough.
WHOLE, SHARDED, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"

# Any of these holds one.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


def opened(source: ModelSource, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The network and the tokenizer at `source`, and the digest of their files; raises as `lab.models.load.load`."""
    match source:
        case LocalModel(path=path):
            return _from_directory(path, dtype)
        case HubModel(name=name, revision=revision):
            return _from_directory(downloaded(name, revision), dtype)
        case GgufModel(path=path):
            from lab.models.gguf_weights import read_gguf

            network, tokenizer = read_gguf(path, dtype=dtype)
            return network, tokenizer, files_digest([path])
        case AdapterModel():
            return _from_adapter(source, dtype)
        case BuiltInModel():
            return opened(built_in_source(source), dtype)
        case never:
            assert_never(never)


def _from_directory(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    require_weights(path, "config.json", (WHOLE, SHARDED))
    if (path / "adapter_config.json").is_file():
        # transformers would load the base that it names instead.
        raise ModelError(f"{path} holds an adapter beside its model; move adapter_config.json away")
    with one_line(f"cannot load the model in {path}"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        _require_safe_files(path, getattr(config, "transformers_weights", None))
        # Attention is left to transformers, which takes sdpa where the family has it (Gemma 2 has not: softcapping).
        network, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers only warns here, and fills the gaps with random numbers.
    if absent := sorted(report["missing_keys"]):
        name = type(network).__name__
        raise ModelError(f"the weights in {path} lack {len(absent)} tensors of {name}: {absent[0]}, ...")
    return network, read_tokenizer(path), directory_digest(path)


def _from_adapter(source: AdapterModel, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    from peft import PeftModel

    require_weights(source.path, "adapter_config.json", (ADAPTER,))
    network, tokenizer, base_digest = opened(adapter_base(source), dtype)
    with one_line(f"cannot load the adapter in {source.path}"), warnings.catch_warnings():
        # PEFT only warns, and leaves what it has no tensors for without effect.
        warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
        adapted = PeftModel.from_pretrained(network, str(source.path), local_files_only=True)
        merged = adapted.merge_and_unload()
    # Trainers put the tokenizer beside the adapter, with the chat template it was trained on.
    if (source.path / "tokenizer_config.json").is_file():
        tokenizer = read_tokenizer(source.path)
    both = f"{base_digest} {directory_digest(source.path)}"
    return merged, tokenizer, hashlib.sha256(both.encode()).hexdigest()[:16]


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """That of a directory; ModelError in one line where there is none, or it cannot be read."""
    if not any((path / name).is_file() for name in TOKENIZERS):
        # transformers would make one without a word in it.
        raise ModelError(f"cannot load the tokenizer in {path}: there is no {' or '.join(TOKENIZERS)}")
    with one_line(f"cannot load the tokenizer in {path}"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)


def downloaded(name: str, revision: str | None, *, weights: bool = True) -> Path:
    """The hub's snapshot of a model, or all of it but its weights, from the cache when it is there."""
    from huggingface_hub import snapshot_download

    with one_line(f"cannot get {name!r} from the hub (and there is no such directory or built-in model here)"):
        unused = [*UNUSED, *([] if weights else ["*.safetensors"])]
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), ignore_patterns=unused))


def require_weights(path: Path, config: str, names: tuple[str, ...], *, may_lack: bool = False) -> None:
    """Raises ModelError unless `path` holds `config` and one of the files `names`, or none if it `may_lack` weights."""
    if not path.is_dir():
        raise ModelError(f"no directory at {path}; check the path")
    if not (path / config).is_file():
        raise ModelError(f"{path} is not a model: it has no {config}")
    if any((path / name).is_file() for name in names):
        return
    if pickles := sorted(file.name for glob in PICKLES for file in path.glob(glob)):
        raise ModelError(f"{path} has only pickled weights ({pickles[0]}), which can run code; convert to safetensors")
    if not may_lack:
        raise ModelError(f"{path} has no weights: want {' or '.join(names)} beside its config.json")


def _require_safe_files(path: Path, named: object) -> None:
    """Raises ModelError where the configuration (by `named`) or the index of shards leads to another kind of file."""
    if named not in (None, WHOLE, SHARDED):
        raise ModelError(f"the config.json in {path} names the weights {named!r}; want {WHOLE}, or no name")
    if named != SHARDED and (named == WHOLE or (path / WHOLE).is_file()):
        return
    shards = set(json.loads((path / SHARDED).read_text(encoding="utf-8"))["weight_map"].values())
    if other := sorted(str(shard) for shard in shards if not str(shard).endswith(".safetensors")):
        raise ModelError(f"{path} has shards that are not safetensors ({other[0]}), which can run code; convert them")


@contextlib.contextmanager
def one_line(action: str) -> Iterator[None]:
    """Turns whatever the libraries below raise on bad files and networks into a ModelError of one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{action}: {condensed(error)}") from error
    except BaseException as error:
        # How a panic of tokenizers' or safetensors' Rust arrives; its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{action}: {condensed(error)}") from error
