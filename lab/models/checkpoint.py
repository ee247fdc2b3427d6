"""checkpoint: the files of a source become a network and a tokenizer; what is pickled or not whole is refused."""

import contextlib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lab.models.configuration import opens, written_config
from lab.models.source import (
    FILES,
    SHARDED,
    UNUSED,
    WHOLE,
    directory_digest,
    read_json,
    weight_files,
)
from lab.records.errors import ModelError, condensed

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

ADAPTER = "adapter_model.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
# What stands in a checkpoint beside its decoder, by the names that TRL and older versions of transformers gave it.
BESIDE = re.compile(
    r"^(v_head|value_head)\.|^(model\.)?mtp(_layers)?\.|\brotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.rotary_emb\.inv_freq$"
)
MASKS = re.compile(r"\.(attn|attention|self_attn)\.(masked_)?bias$")
# Fields of configurations, by their names in all families.
SIZES = re.compile(
    r"(hidden|intermediate|vocab)_size|num_hidden_layers|num_(attention|key_value)_heads|head_dim|"
    r"max_position_embeddings|n_(embd|head|layer|positions)"
)
EPSILONS = re.compile(r"(.*_)?(eps|epsilon)")
POSITIVE = re.compile(r"(.*_)?(eps|epsilon)|factor|rope_theta")
LAYERS = re.compile(r"(num|n)_(.*_)?layers?")
MOST_LAYERS, MOST_PARAMETERS = 1024, 2**18
"""Of a network whose tensors are not known; far above any."""

# Any of these holds one.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")

PROBES = (
    'The quick brown fox jumps over the lazy dog, didn\'t it? YES! "Quoted" - and so on...',
    "Let x = 2048, y = -3.75 and z = 1,000,000; then 12 * 7 + 3 = 87, 5/8 > 0.6 and 3 <= 4.",
    "\\[ \\frac{\\sqrt{3}}{2} \\le \\int_0^{2\\pi} \\sin^2(x)\\,dx \\] so the answer is \\boxed{\\text{(A)}}.",
    "def f(n: int) -> int:\n    return n if n < 2 else f(n - 1) + f(n - 2)  # slow\n\n\n\tx = {'a': [1, 2]}\n",
    "  leading spaces, trailing spaces   \n\n  and\ttabs\r\n",
    "café, naïve, Straße, Москва, 東京, 数学の問題, ½ π ∞ − × ≤, 🙂👍🏽",
    "Question: What is 6 times 7?\nAnswer: 42\n\nQuestion: and then?\nAnswer:",
    "cafe\u0301 \ufb01ne \uff11\uff12 \u212b; 1 22 333 4444 55555 666666 7777777 88888888; don't we'll I'VE x1y2",
    "#### 72 \u2028 <b>bold</b> https://example.org/a?b=c&d=%20e",
)
"""Texts of the kinds that studies have; two tokenizers that encode them and a study's problems alike are one to it."""


def opened_directory(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The network and the tokenizer in `path`, and the digest of their files; raises as `lab.models.load.load`."""
    require_weights(path, "config.json", (WHOLE, SHARDED))
    if (path / "adapter_config.json").is_file():
        # transformers would load the base that it names instead.
        raise ModelError(f"{path} holds an adapter beside its model; move adapter_config.json away")
    with one_line(f"cannot load the model in {path}"):
        stored = stored_in(path)
        config = read_config(path, stored)
        require_settings(path)
        # Attention is left to transformers, which takes sdpa where the family has it (Gemma 2 has not: softcapping).
        network, report = opens(config).from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _require_fit(path, network, report, stored)
    require_finite(network, str(path))
    say_tied(network)
    return network, read_tokenizer(path), directory_digest(path, [one.file for one in stored.values()])


class Stored(NamedTuple):
    """What the header of a safetensors file says of one tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors that a model in `path` is read from; raises as `stored_tensors` and `weight_files`."""
    named = read_json(path / "config.json").get("transformers_weights")
    if named not in (None, WHOLE, SHARDED):
        raise ModelError(f"the config.json in {path} names the weights {named!r}; want {WHOLE}, or no name")
    return stored_tensors(weight_files(path, named=named))


def stored_tensors(files: list[Path]) -> dict[str, Stored]:
    """All tensors of a checkpoint by name, without their numbers.

    Raises ModelError where two files hold one tensor, or one is not what it says; safetensors checks the headers.
    """
    from safetensors import safe_open

    found: dict[str, Stored] = {}
    for file in files:
        with one_line(f"cannot read {file}, so fetch or write it again"), safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- it is no dict
                one = tensors.get_slice(name)
                if not name.isprintable():
                    raise ModelError(f"{file} holds a tensor {name!r}; want a name that can be printed")
                if name in found:
                    raise ModelError(f"{found[name].file.name} and {file.name} both hold {name}; leave one")
                found[name] = Stored(file, one.get_dtype(), tuple(one.get_shape()))
    return found


def read_config(path: Path, stored: Mapping[str, Stored] | None = None) -> PreTrainedConfig:
    """The configuration of the model in `path`; ModelError where no network has its numbers.

    Of `stored` tensors a network is made that has no numbers yet, and no more of them than these hold.
    """
    file = path / "config.json"
    _require_sizes(file, read_json(file), MOST_LAYERS if stored is None else max(MOST_LAYERS, len(stored)))
    with one_line(f"cannot make a network by {file}, so mend it or fetch it again"):
        return _read_config(path, file, stored)


def _read_config(path: Path, file: Path, stored: Mapping[str, Stored] | None) -> PreTrainedConfig:
    with _warned("transformers.modeling_rope_utils") as warned:
        config = written_config(path, read_json(file))
    # transformers goes on: with frequencies of a wrong sign, or one for all.
    if said := [line for line in warned if " must " in line]:
        raise ModelError(f"{file}: {said[0]}")
    for part in (config, config.get_text_config()):
        # What is padded is masked, so no row of the embedding is needed for it.
        pad, n_rows = (getattr(part, name, None) for name in ("pad_token_id", "vocab_size"))
        if isinstance(pad, int) and isinstance(n_rows, int) and pad >= n_rows:
            part.pad_token_id = None
    if stored is not None and getattr(config, "quantization_config", None) is None:
        _require_room(file, config, stored)
    return config


@contextlib.contextmanager
def _warned(name: str) -> Iterator[list[str]]:
    """What a library's logger warns of within the block, which it then says nowhere else, were it silenced or not."""
    found: list[str] = []

    def kept(record: logging.LogRecord) -> bool:
        found.append(record.getMessage())
        return False

    logger = logging.getLogger(name)
    level, disabled, all_below = logger.level, logger.disabled, logging.root.manager.disable
    logger.addFilter(kept)
    logger.disabled = False
    logging.disable(logging.NOTSET)
    logger.setLevel(logging.WARNING)
    try:
        yield found
    finally:
        logger.removeFilter(kept)
        logger.disabled = disabled
        logging.disable(all_below)
        logger.setLevel(level)


def _require_sizes(file: Path, said: Mapping[str, Any], most_layers: int) -> None:
    """Raises ModelError where a configuration cannot be right, whatever its family; before its family reads it."""
    for name, value in said.items():
        if isinstance(value, dict):
            _require_sizes(file, value, most_layers)
        if not isinstance(value, int | float):
            continue
        if SIZES.fullmatch(name) and (value < 1 or value is True):
            raise ModelError(f"{file} says {name} is {value}; want 1 or more")
        if POSITIVE.fullmatch(name) and (value <= 0 or value is True):
            raise ModelError(f"{file} says {name} is {value}; want a number above 0")
        if EPSILONS.fullmatch(name) and value >= 1:
            raise ModelError(f"{file} says {name} is {value}; want a small number")
        if LAYERS.fullmatch(name) and value > most_layers:
            raise ModelError(f"{file} says {name} is {value:,}; want at most {most_layers:,}")


def require_settings(path: Path) -> None:
    """Raises ModelError where the generation settings in `path` are none: transformers then takes its own instead."""
    if (file := path / "generation_config.json").is_file():
        ends = read_json(file).get("eos_token_id")
        for end in ends if isinstance(ends, list) else [ends]:
            if type(end) not in (int, NoneType):
                raise ModelError(
                    f"{file} says eos_token_id is {ends!r:.40}; want the number of a token, or a list of them"
                )


def _require_room(file: Path, config: PreTrainedConfig, stored: Mapping[str, Stored]) -> None:
    network = without_numbers(config, most=16 * len(stored) + MOST_LAYERS, name=str(file))
    needed = sum(weight.numel() for weight in network.parameters())
    held = sum(math.prod(one.shape) for one in stored.values())
    # A little that is not there is told by name, once the rest is loaded.
    if needed > 2 * held + 2**20:
        odd = (
            f": {name} is {_by(stored[name].shape)} there, and {_by(one.shape)} by its configuration"
            for name, one in network.named_parameters()
            if name in stored and stored[name].shape != one.shape
        )
        raise ModelError(f"{file} makes a network of {needed:,} numbers, its files hold {held:,}{next(odd, '')}")


def without_numbers(config: PreTrainedConfig, *, most: int, name: str) -> PreTrainedModel:
    """The network of a configuration on torch's meta device; ModelError where it has more than `most` parameters."""
    n_made = 0

    def counted(_module: nn.Module, _name: str, _parameter: nn.Parameter | None) -> None:
        nonlocal n_made
        n_made += 1
        if n_made > most:
            raise ModelError(f"{name} makes more than {most:,} tensors of parameters, and no file here holds that many")

    handle = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            return opens(config).from_config(config, trust_remote_code=False)
    finally:
        handle.remove()


def _require_fit(path: Path, network: PreTrainedModel, report: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    """Raises ModelError where network and files are not of each other: transformers warns, and draws or drops them."""
    name = type(network).__name__
    if absent := sorted(report["missing_keys"]):
        raise ModelError(f"the weights in {path} lack {len(absent)} tensors of {name}: {absent[0]}, ...")
    if odd := sorted(report["mismatched_keys"]):
        tensor, there, wanted = odd[0]
        raise ModelError(
            f"{len(odd)} tensors in {path} are not of the sizes in its config.json: {tensor} is {_by(there)}, and "
            f"{name} wants {_by(wanted)}"
        )
    if spare := sorted(key for key in report["unexpected_keys"] if not _may_be_spare(key, stored.get(key))):
        raise ModelError(
            f"{path} holds {len(spare)} tensors for which its config.json has no place: {', '.join(spare[:4])}; it "
            "would be another model without them: mend config.json, or take them out"
        )
    whole = {key for key, buffer in network.named_buffers() if not buffer.is_floating_point()} | set(
        report["unexpected_keys"]
    )
    is_packed = getattr(network.config, "quantization_config", None) is not None
    for key, one in stored.items():
        if one.dtype not in FLOATS and key not in whole and not is_packed:
            raise ModelError(f"{key} in {one.file} is stored as {one.dtype}; want one of {', '.join(FLOATS)}")


def _may_be_spare(name: str, stored: Stored | None) -> bool:
    """Whether a tensor without a place is none of the decoder's: a head for values, rotary frequencies, a mask."""
    is_mask = MASKS.search(name) is not None and stored is not None and len(stored.shape) in (0, 4)
    return is_mask or BESIDE.search(name) is not None


def say_tied(network: PreTrainedModel) -> None:
    """Where the two matrices of the vocabulary are not one, the configuration says so, whatever the file said."""
    embed, head = network.get_input_embeddings(), network.get_output_embeddings()
    if getattr(head, "weight", None) is not embed.weight:
        for part in (network.config, network.config.get_text_config()):
            part.tie_word_embeddings = False


def require_finite(network: PreTrainedModel, name: str) -> None:
    """Raises ModelError naming the first tensor that holds what is not a number."""
    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point() or tensor.itemsize < 2:
            continue
        # The extremes carry NaN and infinity, and need no second tensor.
        if not all(bool(extreme.isfinite()) for extreme in tensor.detach().aminmax()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"{key} of {name} holds values that are not finite in {kind}; fetch or train it again")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def read_tokenizer(path: Path, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """That of a directory; ModelError in one line where there is none, it cannot be read, or does not do as it says.

    How some of them split texts goes by the kind of their model, so one that lies beside an adapter wants the `config`.
    """
    if not any((path / name).is_file() for name in TOKENIZERS):
        # transformers would make one without a word in it.
        raise ModelError(f"cannot load the tokenizer in {path}: there is no {' or '.join(TOKENIZERS)}")
    with one_line(f"cannot load the tokenizer in {path}, so mend it or fetch it again"):
        said = {
            name: read_json(path / name, is_exact=False)
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
            if (path / name).is_file()
        }
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, trust_remote_code=False, local_files_only=True)
        # Some faults show only when a text is read.
        if not tokenizer("a 1", add_special_tokens=False).input_ids:
            raise ModelError(f"the tokenizer in {path} reads a text as no tokens: fetch its files again, all of them")
        listed = [(one["content"], one["id"]) for one in said.get("tokenizer.json", {}).get("added_tokens") or []]
        named = said.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
        for word, token in [*listed, *((one["content"], int(token)) for token, one in named.items())]:
            if (read := tokenizer.convert_tokens_to_ids(word)) != token:
                raise ModelError(
                    f"the tokenizer in {path} says {word!r} has id {token}, and reads it as {read}; mend it"
                )
        if not isinstance(tokenizer.chat_template, str | dict | None):
            raise ModelError(f"the chat template in {path} is {tokenizer.chat_template!r:.40}; want a text")
    return tokenizer


def require_rows(tokenizer: PreTrainedTokenizerBase, n_rows: int, name: str) -> dict[int, str]:
    """The tokens for which an embedding of `n_rows` has no row, by id: special ones that no text need hold.

    Raises ModelError where others have none, or two tokens have one id.
    """
    words: dict[int, str] = {}
    for word, token in sorted(tokenizer.get_vocab().items()):
        if token in words:
            raise ModelError(f"{name}: its tokenizer gives {words[token]!r} and {word!r} one id, {token}; want two")
        words[token] = word
    in_texts = {*words} - {*tokenizer.added_tokens_decoder} | {*tokenizer("a").input_ids}
    if odd := sorted(token for token in in_texts if token >= n_rows):
        shown = words.get(odd[0], "no token")
        raise ModelError(
            f"{name}: its embedding has {n_rows:,} rows, and {len(odd)} tokens of texts lie beyond, such as {odd[0]} "
            f"({shown!r}); want the tokenizer that it was trained with"
        )
    return {token: word for token, word in words.items() if token >= n_rows}


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
