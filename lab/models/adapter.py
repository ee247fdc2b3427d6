"""merged: a PEFT adapter becomes part of the network that it was trained on, if the sum computes what both do."""

import warnings
from dataclasses import fields
from pathlib import Path
from typing import cast, get_type_hints

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from lab.models.checkpoint import (
    ADAPTER,
    BESIDE,
    FLOATS,
    MOST_LAYERS,
    Stored,
    one_line,
    require_finite,
    say_tied,
    stored_tensors,
)
from lab.models.source import read_json
from lab.records.errors import ModelError

# Of the spread of logits, root mean squares both: rounding of a network's weights was seen to make a fifth of this.
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.025, torch.bfloat16: 0.2}
N_TRIED = 16


def merged(network: PreTrainedModel, path: Path) -> PreTrainedModel:
    """`network`, changed in place by the adapter in `path`.

    Maps that share a matrix get their own where an adapter changes one of them. Raises ModelError where the adapter is
    of a kind that cannot be merged, holds tensors that it says it has no place for or lacks some, or where the merged
    network computes other logits than PEFT does before merging.
    """
    from peft import PeftConfig, PeftModel

    stored = stored_tensors([path / ADAPTER])
    for name, one in stored.items():
        if one.dtype not in FLOATS:
            raise ModelError(f"{name} in {one.file} is stored as {one.dtype}; want one of {', '.join(FLOATS)}")
    with one_line(f"cannot load the adapter in {path}, so mend it or fetch it again"), warnings.catch_warnings():
        # Of tied matrices PEFT only warns; they are untied below.
        warnings.simplefilter("ignore")
        # So it does of what it has no tensors for, and leaves it without effect.
        warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
        _require_sizes(path / "adapter_config.json", stored)
        config = PeftConfig.from_pretrained(str(path))
        # Some may also be a word, such as how the weights were first drawn.
        kinds = get_type_hints(type(config))
        for field in fields(config):
            if kinds[field.name] is bool and not isinstance(value := getattr(config, field.name), bool):
                raise ModelError(
                    f"the adapter_config.json in {path} says {field.name} is {value!r:.40}; want true or false"
                )
        if str(getattr(config, "init_lora_weights", "")).startswith("pissa_niter"):
            raise ModelError(
                f"the adapter in {path} changes a part of its base found by chance (pissa_niter): convert it"
            )
        if config.is_prompt_learning or config.is_adaption_prompt:
            kind = str(config.peft_type).rpartition(".")[2]
            raise ModelError(
                f"the adapter in {path} is of kind {kind}, which changes no weights; want LoRA or its like"
            )
        with torch.random.fork_rng(devices=[]):
            _resize(network, stored)
            adapted = PeftModel.from_pretrained(network, str(path), local_files_only=True)
            # The first time it does not tell what it leaves out.
            left_out = adapted.load_adapter(str(path), "default", local_files_only=True).unexpected_keys
        if spare := sorted(key for key in left_out if not _may_be_spare(key, stored)):
            raise ModelError(
                f"the adapter in {path} holds {len(spare)} tensors for which its adapter_config.json has no place: "
                f"{', '.join(spare[:4])}; mend its target_modules and layers_to_transform"
            )
        wanted = _logits(adapted, network, path)
        _untie(adapted, network)
        made = adapted.merge_and_unload()
    say_tied(made)
    require_finite(made, str(path))
    _require_alike(_logits(made, made, path), wanted, path, TOLERANCES[made.dtype])
    return made


def _require_sizes(file: Path, stored: dict[str, Stored]) -> None:
    """Raises ModelError where the adapter would be larger than its tensors, or code is imported that it names."""
    said = read_json(file)
    if said.get("megatron_config"):
        raise ModelError(f"{file} says megatron_config, by which PEFT imports a module; want an adapter without it")
    largest = max((size for one in stored.values() for size in one.shape), default=0)
    ranks = [said.get("r"), *(said.get("rank_pattern") or {}).values()]
    if odd := [rank for rank in ranks if isinstance(rank, int) and rank > largest]:
        raise ModelError(f"{file} says r is {odd[0]:,}, and no side of its tensors is longer than {largest:,}")
    replicated = sum(end - start for start, end in said.get("layer_replication") or ())
    if replicated > MOST_LAYERS:
        raise ModelError(f"{file} makes {replicated:,} layers by layer_replication; want at most {MOST_LAYERS:,}")


def _may_be_spare(key: str, stored: dict[str, Stored]) -> bool:
    """Whether a tensor is a head for values, or what PEFT writes twice where a vocabulary grew and was trained."""
    twin = key.replace(".modules_to_save.", ".")
    if twin == key or twin not in stored:
        return BESIDE.search(key.removeprefix("base_model.model.")) is not None
    with safe_open(stored[key].file, "pt") as tensors:
        return torch.equal(tensors.get_tensor(key), tensors.get_tensor(twin))


def _resize(network: PreTrainedModel, stored: dict[str, Stored]) -> None:
    """Gives the vocabulary as many rows as the adapter's tensors for it have; new ones are NaN until it brings them."""
    ends = {id(weight) for weight in _ends(network)}
    names = [
        name.removesuffix(".weight")
        for name, one in network.named_parameters(remove_duplicate=False)
        if id(one) in ends
    ]
    rows: set[int] = set()
    axes = {"weight": 0, "base_layer.weight": 0, "lora_B.weight": 0, "lora_embedding_A": 1}
    for key, one in stored.items():
        parts = {key.removeprefix(f"base_model.model.{name}.") for name in names}
        rows |= {one.shape[axes[part]] for part in parts & set(axes)}
    n_before = _ends(network)[0].shape[0]
    if not rows - {n_before}:
        return
    if len(rows) > 1:
        raise ModelError(
            f"its tensors for the vocabulary have {' and '.join(map(str, sorted(rows)))} rows; want one number"
        )
    network.resize_token_embeddings(rows.pop(), mean_resizing=False)
    for weight in _ends(network):
        weight.data[n_before:] = torch.nan


def _ends(network: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """The matrices of the vocabulary: what tokens become, and what becomes tokens; one where they are tied."""
    embed, head = network.get_input_embeddings(), network.get_output_embeddings()
    return cast(Tensor, embed.weight), cast(Tensor, getattr(head, "weight", None))


def _untie(adapted: nn.Module, network: PreTrainedModel) -> None:
    """Gives each map a matrix of its own where several share one, but for a head that is tied and not adapted."""
    owners: dict[int, list[str]] = {}
    for name, parameter in adapted.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for key, names in owners.items():
        is_adapted = any(mark in name for name in names for mark in (".base_layer.", ".original_module."))
        if key == id(_ends(network)[1]) and not is_adapted:
            continue
        for name in names[1:]:
            module, _, leaf = name.rpartition(".")
            shared = adapted.get_parameter(name)
            setattr(adapted.get_submodule(module), leaf, nn.Parameter(shared.detach().clone(), requires_grad=False))


def _logits(network: nn.Module, asked: PreTrainedModel, path: Path) -> Tensor:
    """Of some tokens from all of the vocabulary, and of those that an adapter may have been trained for."""
    n_rows = _ends(asked)[0].shape[0]
    tokens = torch.linspace(0, n_rows - 1, N_TRIED, device=asked.device).round().long()
    chosen = read_json(path / "adapter_config.json").get("trainable_token_indices") or []
    chosen = [token for part in (chosen.values() if isinstance(chosen, dict) else [chosen]) for token in part]
    with torch.no_grad():
        return network(torch.cat([tokens, tokens.new_tensor(chosen[:N_TRIED])])[None]).logits[0].float()


def _require_alike(came: Tensor, wanted: Tensor, path: Path, tolerance: float) -> None:
    off, spread = (came - wanted).square().mean().sqrt(), (wanted - wanted.mean()).square().mean().sqrt()
    if not off <= tolerance * spread:
        raise ModelError(
            f"merged with its base the adapter in {path} gives other logits than before: off by {off:.3g}, where "
            f"rounding makes {tolerance * spread:.3g} at most; merge it where it was trained, and give the whole model"
        )
