"""Shrunk random models of any configuration, and the six checks that a family has to pass."""

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig

from lab.models.anatomy import text_config
from lab.models.checkpoint import read_config
from lab.models.configuration import opens
from lab.models.load import Model, assemble, load
from lab.models.passes import arguments, first_of, with_first
from lab.models.source import LocalModel
from lab.models.tiny import byte_tokenizer
from lab.records.errors import VectorError
from lab.records.provenance import provenance
from lab.sampling.cache import StateLayer, cache_layers
from lab.sampling.decoder import Batch, CachedDecoder, left_padded, token_positions
from probes.capture.capture import capture
from probes.capture.site import Site, Stream, hook_site
from steering.edit import Add, apply
from steering.export.biases import BakedBias
from steering.export.vector_file import Origin, facts_of
from steering.vector import SteeringVector

WIDE, DEEP, WORDS, HEADS, HEAD = 64, 4, 512, 4, 16
# Names that configurations have for a size, as patterns, and what it becomes; the first that fits counts.
# fmt: off
SIZES: tuple[tuple[str, Callable[[int, Mapping[str, Any]], int]], ...] = (
    (r".*vocab_size.*", lambda _, __: WORDS),
    (r".*token_(id|index)s?|.*_tokens?_(id|index)", lambda was, _: was % WORDS if was >= 0 else was),
    (r"linear_num_key_heads", lambda _, __: 2),
    (r"linear_num_value_heads|linear_num_heads|num_v_heads", lambda _, __: 4),
    (r".*n_groups|n_group|num_expert_group|topk_group|mamba_n_groups", lambda was, _: min(was, 2)),
    (r".*(num|n)_(key_value|kv)_heads|.*kv_heads.*|num_key_value_heads.*", lambda was, all_: _fewer(was, all_)),
    (r"mamba_n_heads|mamba_num_heads", lambda _, __: 8),
    (r"(num_|n_)?(attention_|attn_)?n?_?heads?(_num)?|n_head|num_.*attention_heads|index_n_heads", lambda _, __: HEADS),
    (
        r"mamba_d_head|mamba_head_dim|.*head_dim|.*head_size|attention_head_dim|d_kv|kv_channels|d_head",
        lambda _, __: HEAD,
    ),
    (r".*lora_rank", lambda _, __: HEAD),
    (r"(num|n)_?(hidden_|decoder_|encoder_)?layers?|(de|en)coder_layers|depth|num_blocks|n_blocks", lambda _, __: DEEP),
    (r".*(num_experts_per_tok|experts_per_token|top_?k|moe_k|num_selected_experts).*", lambda was, _: min(was, 2)),
    (r"num_shared_experts|n_shared_experts|moe_num_shared_experts", lambda was, _: was),
    (r".*(num|n)_.*experts|moe_num_experts", lambda was, _: min(was, 8)),
    (r".*(intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|inner_dim|ffn_size).*", lambda _, __: 96),
    (
        r".*hidden_size(_per_layer_input)?|n_embd|d_model|dim|embedding_size|word_embed_proj_dim",
        lambda _, __: WIDE,
    ),
    (r"mamba_d_state|state_size|ssm_state_size", lambda _, __: 8),
    (r"rotary_dim", lambda _, __: 8),
    (r"lru_width|attention_window_size", lambda _, __: WIDE),
    (r"(attention_)?sliding_window|attention_chunk_size|.*window_size", lambda was, _: min(was, 8)),
    (
        r"first_k_dense_replace|sliding_window_pattern|full_attention_interval|attn_layer_period",
        lambda was, _: min(was, 2),
    ),
    (r"num_kv_shared_layers|num_nextn_predict_layers", lambda was, _: min(was, 1)),
)
# fmt: on


def _fewer(was: int, given: Mapping[str, Any]) -> int:
    all_heads = next((each for name, each in given.items() if name in ("num_attention_heads", "n_head")), was)
    return HEADS if was == all_heads else min(was, 2)


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same kind of model, 64 wide, of 4 blocks and 512 tokens."""
    fields = _shrunk(config.to_dict())
    return AutoConfig.for_model(**fields)


def _shrunk(given: dict[str, Any]) -> dict[str, Any]:
    depths = [value for name, value in given.items() if re.fullmatch(r"(num_hidden_|n_|num_)layers?|n_layer", name)]
    depth = next((each for each in depths if isinstance(each, int)), None)
    fields = dict(given)
    for name, value in given.items():
        if isinstance(value, dict) and ("model_type" in value or name.endswith("_config")):
            fields[name] = _shrunk(value)
        elif isinstance(value, bool):
            continue
        elif isinstance(value, list) and depth is not None and len(value) == depth and depth > DEEP:
            fields[name] = [_sized(name, each, given) for each in _some(value)]
        elif isinstance(value, list) and re.fullmatch(r".*token_id|.*token_ids", name):
            fields[name] = [_sized(name, each, given) for each in value]
        else:
            fields[name] = _sized(name, value, given)
    for name in ("dtype", "torch_dtype", "quantization_config"):
        fields.pop(name, None)
    if "initializer_range" in fields:
        fields["initializer_range"] = 0.1
    if isinstance(fields.get("rope_parameters"), dict):
        fields["rope_parameters"] = _rope(fields["rope_parameters"], fields)
    return fields


def _some(values: list[object]) -> list[object]:
    """As many as there are blocks, one of every kind among them."""
    kept = values[:DEEP]
    for missing in [each for each in values if isinstance(each, str) and each not in kept][:1]:
        kept[-1] = missing
    return kept


def _sized(name: str, value: object, given: Mapping[str, Any]) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return next((size(value, given) for pattern, size in SIZES if re.fullmatch(pattern, name)), value)


def _rope(rope: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    if any(isinstance(each, dict) for each in rope.values()):
        return {name: _rope(each, fields) if isinstance(each, dict) else each for name, each in rope.items()}
    if "num_attention_heads" not in fields:
        return rope
    head = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    half = int(head * float(rope.get("partial_rotary_factor", fields.get("partial_rotary_factor") or 1.0))) // 2
    cut = {name: each[:half] for name, each in rope.items() if name.endswith("_factor") and isinstance(each, list)}
    if "mrope_section" in rope:
        cut["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
    return rope | cut


def random_network(config: PreTrainedConfig, seed: int = 0):
    """With numbers of which none is what it is at initialisation; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = opens(config).from_config(config, dtype=torch.float32).eval()
        for weight in network.parameters():
            weight.data.add_(0.05 * torch.randn(weight.shape) if weight.ndim == 1 else 0.02 * torch.randn(weight.shape))
    return network


def config_of(path: Path, folder: Path) -> PreTrainedConfig:
    """That of a configuration file, as the loader reads it from a checkpoint in `folder`."""
    (folder / "config.json").write_bytes(path.read_bytes())
    return read_config(folder)


def random_model(config: PreTrainedConfig, name: str, folder: Path | None = None) -> Model:
    """Shrunk and random, with the byte tokenizer; saved in `folder` and loaded again, if one is given."""
    network = random_network(shrunk(config))
    if folder is None:
        return assemble(network, byte_tokenizer(), name=name)
    network.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return load(LocalModel(path=folder), device=torch.device("cpu"), dtype=torch.float32)


LENGTHS = (3, 40, 11)
"""Of the texts that the checks read: shorter and longer than a window."""


def some_texts(model: Model) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 256, (length,), generator=generator).tolist() for length in LENGTHS]


def own_logits(model: Model, text: list[int]) -> torch.Tensor:
    """transformers' own, of one text, without padding, mask or positions."""
    with torch.no_grad():
        return model.network(torch.tensor([text])).logits[0].float()


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


def decoded(model: Model, texts: list[list[int]], n_prompt: list[int]) -> list[torch.Tensor]:
    """Logits behind every token from the prompts' last on, by our own decoder with its cache."""
    prompts = left_padded(model, [text[:n] for text, n in zip(texts, n_prompt, strict=True)])
    owner = torch.arange(len(texts))
    decoder = CachedDecoder(model, Batch(prompts.tokens, prompts.mask, owner, np.zeros(len(texts), dtype=np.uint64)))
    steps = min(len(text) - n for text, n in zip(texts, n_prompt, strict=True))
    found = [decoder.propose().logits]
    for step in range(steps):
        decoder.append(torch.tensor([text[n + step] for text, n in zip(texts, n_prompt, strict=True)]))
        found.append(decoder.propose().logits)
    return list(torch.stack(found, dim=1))


@torch.no_grad()
def padded_as_alone(model: Model) -> float:
    """1: logits of a batch padded on the left are transformers' own of each text."""
    texts = some_texts(model)
    tokens, mask = left_padded(model, texts)
    given = {"attention_mask": mask.long(), "position_ids": token_positions(mask)}
    logits = model.network(**arguments(model.network, input_ids=tokens, use_cache=False, **given)).logits
    return max(far(row[-len(text) :], own_logits(model, text)) for row, text in zip(logits, texts, strict=True))


@torch.no_grad()
def cached_as_uncached(model: Model) -> float:
    """2: decoding with a cache gives the logits of reading the text as a whole."""
    texts = [text[:3] + text for text in some_texts(model)]
    n_prompt = [len(text) - 3 for text in texts]
    found = decoded(model, texts, n_prompt)
    wanted = [own_logits(model, text)[n - 1 :] for text, n in zip(texts, n_prompt, strict=True)]
    return max(map(far, found, wanted))


@torch.no_grad()
def alone_as_in_batch(model: Model) -> float:
    """3: a row alone is the row beside longer and shorter ones."""
    texts = some_texts(model)
    n_prompt = [len(text) - 2 for text in texts]
    together = decoded(model, texts, n_prompt)
    alone = [decoded(model, [text], [n])[0] for text, n in zip(texts, n_prompt, strict=True)]
    return max(map(far, together, alone))


@torch.no_grad()
def captured_and_spliced(model: Model) -> float:
    """4: watching changes nothing, putting back what was seen changes nothing, and it is transformers' own stream."""
    text = some_texts(model)[1]
    tokens = torch.tensor([text])
    layers = range(model.anatomy.n_layers)
    streams: list[Stream] = ["resid_pre", "resid_mid", "resid_post"]
    streams.remove("resid_mid") if not model.anatomy.has_resid_mid else None
    sites = [Site(layer, stream) for layer in layers for stream in streams]
    seen = capture(model, tokens, torch.ones_like(tokens).bool(), sites)
    whole = model.network(tokens, output_hidden_states=True)
    found = [far(seen[Site(at)], whole.hidden_states[at + 1]) for at in layers[:-1]]
    assert len(whole.hidden_states) == model.anatomy.n_layers + 1
    choosing = [Site(at, "router") for at in layers if model.anatomy.routers[at] is not None]
    for site, logits in (capture(model, tokens, torch.ones_like(tokens).bool(), choosing) if choosing else {}).items():
        assert logits.shape == (1, len(text), model.anatomy.n_experts), site
    found += [far(seen[Site(at, "resid_pre")], whole.hidden_states[at]) for at in layers]
    for site in sites:
        handle = hook_site(model, site, lambda stream: None)
        found.append(far(model.network(tokens).logits, whole.logits))
        handle.remove()
        handle = hook_site(model, site, lambda _, site=site: seen[site])
        found.append(far(model.network(tokens).logits, whole.logits))
        handle.remove()
    return max(found)


@torch.no_grad()
def applied_and_restored(model: Model) -> float:
    """5: an edit changes the logits, and leaves nothing behind."""
    text = some_texts(model)[1]
    before, vector = own_logits(model, text), drawn(model, Site(1))
    with apply(model, Add(vector)):
        assert far(own_logits(model, text), before) > 1e-3, "the edit does nothing"
    return far(own_logits(model, text), before)


class Baked(NamedTuple):
    difference: float
    """The largest of those that are baked."""
    refused: dict[str, str]
    """What is not, and why."""


@torch.no_grad()
def baked_as_applied(model: Model, path: Path) -> Baked:
    """6: a checkpoint with the vector in its biases computes what `apply` computes; or that is refused."""
    text = some_texts(model)[1]
    middles = [Site(1, "resid_mid")] if model.anatomy.has_resid_mid else []
    found, refused = [], {}
    made_by = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7)
    for site in [Site(0, "resid_pre"), *middles, Site(1)]:
        vector = drawn(model, site)
        try:
            BakedBias(model).write(path / str(site), vector, Origin(made_by=made_by, fitted_on=facts_of(model)))
        except VectorError as error:
            refused[str(site)] = str(error)
            continue
        baked = type(model.network).from_pretrained(path / str(site)).eval()
        with apply(model, Add(vector)):
            wanted = own_logits(model, text)
        assert far(wanted, own_logits(model, text)) > 1e-3
        found.append(far(baked(torch.tensor([text])).logits[0], wanted))
    return Baked(max(found, default=0.0), refused)


def drawn(model: Model, *sites: Site) -> SteeringVector:
    generator = torch.Generator().manual_seed(3)
    directions = {site: torch.randn(model.anatomy.d_model, generator=generator) for site in sites}
    return SteeringVector(directions, dict.fromkeys(sites, 2.0), "drawn")


CHECKS: dict[str, Callable[[Model], float]] = {
    "padding": padded_as_alone,
    "cache": cached_as_uncached,
    "batch": alone_as_in_batch,
    "capture": captured_and_spliced,
    "apply": applied_and_restored,
}
EXACT = ("capture", "apply")
"""No bit may differ in these; in the others sums are done in another order."""
NEAR = 1e-4


class Row(NamedTuple):
    """What the page says of a configuration."""

    name: str
    family: str
    kind: str
    sites: str
    differences: dict[str, float]
    baked: str

    @property
    def line(self) -> str:
        """As Markdown."""
        told = [written(self.differences[check]) for check in (*CHECKS, "bake")]
        return f"| {' | '.join([self.name, self.family, self.kind, self.sites, *told, self.baked])} |"


def written(difference: float) -> str:
    """0, or the power of ten that it stays below."""
    return "0" if difference == 0 else f"< 1e{math.ceil(math.log10(difference))}"


def row_of(name: str, model: Model, folder: Path) -> Row:
    """The six checks, run."""
    differences = {check: run(model) for check, run in CHECKS.items()}
    baked = baked_as_applied(model, folder)
    told = [
        f"{short(site)}: {'no bias' if 'has no bias' in why else why_not(why)}" for site, why in baked.refused.items()
    ]
    return Row(
        name=name,
        family=model.anatomy.family,
        kind=kind_of(model),
        sites=", ".join(stream.removeprefix("resid_") for stream in streams_of(model)),
        differences={**differences, "bake": baked.difference},
        baked="; ".join(told) or "all",
    )


def short(site: str) -> str:
    return "embedding" if site == "blocks.0.hook_resid_pre" else site.rpartition("resid_")[2]


def why_not(why: str) -> str:
    """Of a refusal, in a word."""
    for sign, word in (("same matrix", "tied"), ("no linear map", "no map adds to the stream"), ("no bias", "no bias")):
        if sign in why:
            return word
    return "not added to the stream"


def streams_of(model: Model) -> list[str]:
    found = ["resid_pre", *["resid_mid"] * model.anatomy.has_resid_mid, *["router"] * bool(model.anatomy.n_experts)]
    return [*found, "resid_post"]


def kind_of(model: Model) -> str:
    """In words, from what was found."""
    anatomy = model.anatomy
    said = ["MoE" if anatomy.n_experts else "dense"]
    if any(isinstance(layer, StateLayer) for layer in cache_layers(model.network) or []):
        said.append("linear attention")
    if getattr(text_config(model.network), "sliding_window", None) and "sliding" in str(text_config(model.network)):
        said.append("sliding windows")
    if not anatomy.has_resid_mid:
        said.append("parallel" if is_parallel(model) else "no middle")
    if type(model.network.config) is not type(text_config(model.network)):
        said.append("text part")
    return ", ".join(said)


def is_parallel(model: Model) -> bool:
    """Whether the MLP of block 0 reads the same whatever attention adds."""
    attention, mlp = model.anatomy.attentions[0], model.anatomy.mlps[0]
    if attention is None or mlp is None:
        return False
    read: list[torch.Tensor] = []
    hooks = [mlp.register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))]
    own_logits(model, [1, 2, 3])
    hooks.append(attention.register_forward_hook(lambda *given: with_first(given[2], 2 * first_of(given[2]))))
    own_logits(model, [1, 2, 3])
    for hook in hooks:
        hook.remove()
    return torch.equal(*read)


PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
CONFIGS = Path(__file__).parent.parent.parent / "shared" / "data" / "configs"
FAST = {"dense": "llama", "MoE": "qwen3_moe", "hybrid": "qwen3_5_text", "post-norm": "olmo2", "parallel": "cohere"}
"""One of each kind, with transformers' own default configuration."""
UNNAMED = ("stablelm", "falcon", "mixtral", "deepseek_v3", "glm4", "bloom", "opt", "gpt_neo", "lfm2", "nemotron_h")
"""Families that nothing in the code names."""


def own_config(family: str) -> PreTrainedConfig:
    return AutoConfig.for_model(family)


def rows_of_table(folder: Path) -> Iterator[Row]:
    """Every row of the page, by running the checks: of published configurations, then of transformers' own."""
    for at, path in enumerate(sorted(CONFIGS.glob("*.json"))):
        (here := folder / str(at)).mkdir()
        yield row_of(path.stem, random_model(config_of(path, here), path.stem, here / "model"), here)
    for family in (*FAST.values(), *UNNAMED):
        (here := folder / family).mkdir()
        yield row_of(f"`{family}`", random_model(own_config(family), family), here)


def write_page() -> None:
    """Runs the checks, and writes what they found into the page between its marks."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [row.line for row in rows_of_table(Path(folder))]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- rows -->")
    behind = rest.partition("<!-- end -->")[2]
    told = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- rows -->\n{told}\n<!-- end -->{behind}", encoding="utf-8")


if __name__ == "__main__":
    write_page()
