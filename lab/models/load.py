"""A source becomes a model: weights, tokenizer, and the named parts of the network, frozen and ready to read."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from lab.models.adapter import merged
from lab.models.anatomy import Anatomy, find_anatomy
from lab.models.checkpoint import (
    ADAPTER,
    PROBES,
    downloaded,
    opened_directory,
    read_tokenizer,
    require_rows,
    require_weights,
)
from lab.models.engine import Engine
from lab.models.prompt_format import Prompter, Raw, asked_and_ended
from lab.models.source import (
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
from lab.records.errors import ModelError, whole
from lab.records.stage import require_as_written


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
        return self.prompter.opened + whole(text)

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


class _Answer(dict[object, object]):
    """Of a body: families take the residuals by name or by place, and much else that may be None."""

    __getattr__ = dict.get


def finished(
    network: nn.Module, unembed: nn.Module, logits: Float[Tensor, "token d_vocab"]
) -> Float[Tensor, "token d_vocab"]:
    """What the network's own code makes of logits of its `unembed`: it runs with a body that computes nothing."""
    nothing = logits.new_empty(1, len(logits), unembed.get_parameter("weight").shape[1])
    answers = {unembed: logits[None], network: None}
    tokens = torch.zeros(1, len(logits), dtype=torch.long, device=logits.device)
    # Some families reach through their body for its decoder, and none deeper.
    shell = _hollow(network, answers, _Answer({0: nothing, "last_hidden_state": nothing}), depth=2)
    return shell.forward(input_ids=tokens, use_cache=False).logits[0]


def _hollow(part: nn.Module, answers: Mapping[nn.Module, Tensor | None], other: _Answer, *, depth: int) -> nn.Module:
    """A copy that gives its answer, or `other`, whatever it is asked; one whose answer is None works as it does."""
    made = copy.copy(part)
    # Trainers put a forward pass of the whole network's on it.
    vars(made).pop("forward", None)
    if depth:
        parts = part._modules.items()
        made._modules = {name: each and _hollow(each, answers, other, depth=depth - 1) for name, each in parts}
    # Nothing here refers to itself: what a circle of references holds, here logits, is freed late.
    answer = answers.get(part, other)
    if answer is not None:
        made.forward = lambda *_, **__: answer
    return made


def opened(source: ModelSource, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The network and the tokenizer at `source`, and the digest of their files; raises as `load`."""
    match source:
        case LocalModel(path=path):
            require_as_written(path)
            return opened_directory(path, dtype)
        case HubModel(name=name, revision=revision):
            return opened_directory(downloaded(name, revision), dtype)
        case GgufModel(path=path):
            from lab.models.gguf_weights import read_gguf

            network, tokenizer = read_gguf(path, dtype=dtype)
            return network, tokenizer, files_digest([path])
        case AdapterModel(path=path):
            require_as_written(path)
            return _from_adapter(source, dtype)
        case BuiltInModel():
            return opened(built_in_source(source), dtype)
        case never:
            assert_never(never)


def _from_adapter(source: AdapterModel, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    require_weights(source.path, "adapter_config.json", (ADAPTER,))
    network, tokenizer, base_digest = opened(adapter_base(source), dtype)
    network = merged(network, source.path)
    # Trainers put the tokenizer beside the adapter, with the chat template it was trained on.
    if (source.path / "tokenizer_config.json").is_file():
        of_base, tokenizer = tokenizer, read_tokenizer(source.path, network.config)
        for text in PROBES:
            if of_base(text, add_special_tokens=False).input_ids != tokenizer(text, add_special_tokens=False).input_ids:
                raise ModelError(f"the tokenizer in {source.path} reads {text[:40]!r} as that of its base does not")
    both = f"{base_digest} {directory_digest(source.path)}"
    return network, tokenizer, hashlib.sha256(both.encode()).hexdigest()[:16]


def load(source: ModelSource, *, device: torch.device, dtype: torch.dtype) -> Model:
    """The model at `source`, on `device` in `dtype`, without a bar.

    Only safetensors and GGUF are read, no code from a repository runs, and only a HubModel opens a connection.
    Raises ModelError, in one line, for what is missing, unreadable, pickled, unreachable, or of an unknown family.
    """
    with contextlib.ExitStack() as afterwards:
        if logging.is_progress_bar_enabled():
            afterwards.callback(logging.enable_progress_bar)
        logging.disable_progress_bar()
        # What transformers warns of, and then goes on, is refused here in words of its own.
        afterwards.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        # transformers draws numbers for some networks before it puts the stored ones in their place.
        afterwards.enter_context(torch.random.fork_rng(devices=[]))
        network, tokenizer, digest = opened(source, dtype)
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
            raise ModelError(f"{name}: its tokenizer has neither a pad nor an end token; add one to it")
        # Padding is always masked, so its identity does not matter.
        tokenizer.pad_token = tokenizer.eos_token
    anatomy = find_anatomy(network)
    if type(anatomy.unembed) is nn.Linear:
        anatomy.unembed.__class__ = Unembedding
    prompter, ends = asked_and_ended(network.generation_config, tokenizer)
    if beyond := require_rows(tokenizer, anatomy.d_vocab, name):
        anatomy.embed.register_forward_pre_hook(partial(_require_rows, beyond, anatomy.d_vocab, name))
    named, ends = ends, frozenset(token for token in ends if 0 <= token < anatomy.d_vocab)
    if named and not ends:
        raise ModelError(f"{name}: none of its ends, {sorted(named)}, has a row in its embedding; add one that has")
    if tokenizer.pad_token_id in beyond:
        if not ends:
            raise ModelError(f"{name}: its pad token has no row in its embedding, and it has no end; add one to it")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(min(ends))
    return Model(
        network=network,
        tokenizer=tokenizer,
        anatomy=anatomy,
        name=name,
        digest=_content_digest(network, tokenizer) if digest is None else digest,
        prompter=prompter,
        ends=ends,
    )


def _require_rows(beyond: dict[int, str], n_rows: int, name: str, _embed: nn.Module, read: tuple[Tensor, ...]) -> None:
    """Raises ModelError naming a token that a text holds and an embedding does not."""
    if read[0].numel() > 0 and (token := int(read[0].max())) >= n_rows:
        word = beyond.get(token, "no token of its own")
        raise ModelError(f"a text holds token {token} ({word!r}), and the embedding of {name} ends at {n_rows - 1}")


def in_float32(model: Model) -> Model:
    """`model` itself if it computes in float32, else a copy that does; it is the same model and keeps its digest."""
    if model.dtype == torch.float32:
        return model
    return of_network(model, copy.deepcopy(model.network).float(), name=model.name, digest=model.digest)


def of_network(model: Model, network: PreTrainedModel, *, name: str, digest: str | None = None) -> Model:
    """`model` with another network of its shape, asked and ended as it is; raises as `assemble`."""
    made = assemble(network, model.tokenizer, name=name, digest=digest)
    return replace(made, prompter=model.prompter, ends=model.ends)


def _content_digest(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    config = network.config.to_dict()
    total = hashlib.sha256(json.dumps([config, tokenizer.get_vocab()], sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy has no bfloat16.
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
