"""A source becomes a model: weights, tokenizer, and the named parts of the network, frozen and ready to read."""

import contextlib
import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from lab.models.engine import Engine
from lab.models.prompt_format import Prompter, Raw, asked_and_ended
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
    source_name,
)
from lab.records.errors import ModelError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# The libraries fall back to pickles where these are absent, so other safetensors files are not enough.
WHOLE, SHARDED, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"

# Any of these holds one.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


class Layout(NamedTuple):
    """Module paths from the top of the network; those of `attention` and `mlp` start at a block."""

    embed: str
    blocks: str
    final_norm: str
    attention: str
    mlp: str
    unembed: str = "lm_head"


LLAMA = Layout("model.embed_tokens", "model.layers", "model.norm", "self_attn", "mlp")
GPT2 = Layout("transformer.wte", "transformer.h", "transformer.ln_f", "attn", "mlp")
GPT_NEOX = Layout("gpt_neox.embed_in", "gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp")
# Keyed by `config.model_type`. A family is here once a tiny network of it passes tests/lab/models/test_anatomy.py.
LAYOUTS = {
    **dict.fromkeys(("llama", "mistral", "smollm3", "phi3", "qwen2", "qwen3", "qwen3_moe"), LLAMA),
    **dict.fromkeys(("olmo2", "olmo3", "gemma", "gemma2", "gemma3_text"), LLAMA),
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
# What attention adds goes through a norm of its own first.
NORMED_ATTENTION = ("olmo2", "olmo3", "gemma2", "gemma3_text")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Anatomy:
    """The parts of one network. The modules are the network's own, so two anatomies are equal only when identical.

    A block takes and returns the residual stream, `batch pos d_model`, as a plain tensor.
    """

    family: str
    """`config.model_type`."""
    embed: nn.Module
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module
    unembed: nn.Module
    attentions: tuple[nn.Module, ...]
    """One a block; its output is a tuple that starts with what it adds to the stream (`NORMED_ATTENTION`: normed)."""
    mlps: tuple[nn.Module, ...]
    d_model: int
    has_resid_mid: bool
    """Whether attention adds its output to the stream as it is, and the MLP then reads that stream."""
    d_vocab: int
    """Rows of the unembedding, which may exceed the tokenizer's tokens where a family pads its matrix."""

    @property
    def n_layers(self) -> int:
        """How many blocks; layers count from 0."""
        return len(self.blocks)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """A decoder with its tokenizer, in eval mode, without gradients, padding on the left. Equal only when identical."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    name: str
    digest: str
    """Sixteen hex digits of SHA-256 over the files (or, in memory, the tensors) that it was made from."""
    prompter: Prompter
    """How problems are put to it."""
    ends: frozenset[int]
    """Every token that ends a text: its generation settings', its tokenizer's, and that of a turn of its template. In
    a pair those of both."""
    engine: Engine | None = None
    """What writes its completions instead of the lab's own loop."""

    def raw(self) -> "Model":
        """The same, asked by the text of a problem as it is."""
        return replace(self, prompter=Prompter(format=Raw(), tokenizer=self.tokenizer))

    def prompt_ids(self, prompt: str, opening: str = "") -> list[int]:
        """The ids that it reads for a problem's prompt, in its format, and for `opening`, how its answer begins."""
        return self.prompter.ids(prompt, opening)

    @property
    def quiet(self) -> frozenset[int]:
        """Tokens that stand in no text: ends, and those that pad or open one, or stand for nothing known."""
        marks = (self.tokenizer.pad_token_id, self.tokenizer.bos_token_id, self.tokenizer.unk_token_id)
        return self.ends | {mark for mark in marks if isinstance(mark, int)}

    def text(self, tokens: Sequence[int]) -> str:
        """Written tokens as text: special ones too, such as marks of thinking, but none that is `quiet`.

        Where its prompts open a thought, the mark of that stands before the text, as for a model that writes it itself.
        """
        shown = [token for token in tokens if token not in self.quiet]
        text = self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one list of tokens decodes to one text"
        return self.prompter.opened + text

    def __repr__(self) -> str:
        """In a line: the network and the tokenizer would fill pages."""
        shape = f"{self.anatomy.family} of {self.anatomy.n_layers} blocks, d_model {self.anatomy.d_model}"
        return f"Model({self.name!r}, {shape}, {str(self.dtype).removeprefix('torch.')} on {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.network.dtype

    @property
    def n_parameters(self) -> int:
        """How many numbers its weights are, tied ones once."""
        return sum(weight.numel() for weight in self.network.parameters())


class Unembedding(nn.Linear):
    """The linear map that it was, of residuals in one piece.

    Those of some positions are a view with gaps, for which torch's product on a CPU takes three to 600 times as long.
    """

    def forward(self, input: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:  # noqa: A002
        """Logits of the residuals."""
        return super().forward(input.contiguous())


def load(source: ModelSource, *, device: torch.device, dtype: torch.dtype) -> Model:
    """The model at `source`, on `device` in `dtype`, without a bar.

    Only safetensors and GGUF are read, no code from a repository runs, and only a HubModel opens a connection.
    Raises ModelError, in one line, for what is missing, unreadable, pickled, unreachable, or of an unknown family.
    """
    with contextlib.ExitStack() as afterwards:
        if logging.is_progress_bar_enabled():
            afterwards.callback(logging.enable_progress_bar)
        logging.disable_progress_bar()
        network, tokenizer, digest = _opened(source, dtype)
    network.to(device)  # pyright: ignore[reportArgumentType] -- its stub lost `self`
    model = assemble(network, tokenizer, name=source_name(source), digest=digest)
    # What ships was trained and measured on raw text, whatever template its parent brings.
    return model.raw() if isinstance(source, BuiltInModel) else model


def assemble(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str, digest: str | None = None
) -> Model:
    """A model of parts in memory; `network` is frozen and `tokenizer` set to pad on the left, both in place.

    Without `digest`, that of the configuration, the tensors and the vocabulary is taken.
    Raises ModelError when the family has no layout, or the tokenizer can neither pad nor end.
    """
    network.eval().requires_grad_(False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{name}: its tokenizer has neither a pad nor an end-of-sequence token; add one to it")
        # Padding is always masked, so its identity does not matter.
        tokenizer.pad_token = tokenizer.eos_token
    anatomy = find_anatomy(network)
    if type(anatomy.unembed) is nn.Linear:
        anatomy.unembed.__class__ = Unembedding
    prompter, ends = asked_and_ended(network.generation_config, tokenizer)
    return Model(
        network=network,
        tokenizer=tokenizer,
        anatomy=anatomy,
        name=name,
        digest=_content_digest(network, tokenizer) if digest is None else digest,
        prompter=prompter,
        ends=ends,
    )


def find_anatomy(network: PreTrainedModel) -> Anatomy:
    """The parts of `network`; ModelError naming the family or the part that is not where its layout says."""
    family, name = network.config.model_type, type(network).__name__
    layout = LAYOUTS.get(family)
    if layout is None:
        raise ModelError(f"{name} is of family {family!r}, which has no layout here; known: {', '.join(LAYOUTS)}")

    def part(what: str, path: str, parent: nn.Module = network) -> nn.Module:
        try:
            return parent.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"{name} has no {what} at {path!r}: {error}") from error

    blocks, unembed = part("blocks", layout.blocks), part("unembed", layout.unembed)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelError(f"{name}: blocks at {layout.blocks!r} are not a list of modules")
    matrix = getattr(unembed, "weight", None)
    if matrix is None or matrix.ndim != 2:
        raise ModelError(f"{name}: unembed is a {type(unembed).__name__}, not a linear map")
    numbered = list(enumerate(blocks))
    return Anatomy(
        family=family,
        embed=part("embed", layout.embed),
        blocks=tuple(blocks),
        final_norm=part("final norm", layout.final_norm),
        unembed=unembed,
        attentions=tuple(part(f"attention of block {layer}", layout.attention, block) for layer, block in numbered),
        mlps=tuple(part(f"MLP of block {layer}", layout.mlp, block) for layer, block in numbered),
        d_model=matrix.shape[1],
        has_resid_mid=family not in NORMED_ATTENTION and not getattr(network.config, "use_parallel_residual", False),
        d_vocab=matrix.shape[0],
    )


def in_float32(model: Model) -> Model:
    """`model` itself if it computes in float32, else a copy that does; it is the same model and keeps its digest."""
    if model.dtype == torch.float32:
        return model
    return of_network(model, copy.deepcopy(model.network).float(), name=model.name, digest=model.digest)


def of_network(model: Model, network: PreTrainedModel, *, name: str, digest: str | None = None) -> Model:
    """`model` with another network of its shape, asked and ended as it is; raises as `assemble`."""
    made = assemble(network, model.tokenizer, name=name, digest=digest)
    return replace(made, prompter=model.prompter, ends=model.ends)


def _opened(source: ModelSource, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
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
            return _opened(built_in_source(source), dtype)
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
    network, tokenizer, base_digest = _opened(adapter_base(source), dtype)
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
    """Turns what the libraries below raise on bad files and networks into a ModelError of one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    # The hub's errors are OSErrors.
    known = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, UserWarning)
    try:
        yield
    except (*known, ArithmeticError, StrictDataclassError, SafetensorError) as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), "no reason given")
        raise ModelError(f"{action}: {type(error).__name__}: {reason}") from error


def _content_digest(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    config = network.config.to_dict()
    total = hashlib.sha256(json.dumps([config, tokenizer.get_vocab()], sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy has no bfloat16.
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
