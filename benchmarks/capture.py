"""Seconds to read one site, against a bare forward pass cut at the same block, TransformerLens and nnsight.

    python benchmarks/capture.py --out benchmarks/results
    python benchmarks/capture.py --out benchmarks/results --model /path/to/checkpoint --lengths 128 2048

All arms read the output of the middle block for the same tokens, and must agree. The bare pass is a copy of the network
without the blocks above and without a head, so it is the least that the work can take. Repetitions alternate, and the
median of each arm is compared. nnsight is not among our dependencies; without it, its arm is left out and says so.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from machine import machine
from torch import Tensor, nn

from lab.models.bridge import to_bridge
from lab.models.device import resolve_device
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.provenance import package_versions, revision
from lab.records.seeds import torch_generator
from probes.capture.capture import capture
from probes.capture.site import Site

Arm = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos d_model"]]


def ours(model: Model, site: Site) -> Arm:
    """`probes.capture.capture`."""
    return lambda tokens: capture(model, tokens, torch.ones_like(tokens).bool(), [site])[site]


def path_of(model: Model, module: nn.Module) -> str:
    """Its name in the network."""
    return next(name for name, each in model.network.named_modules() if each is module)


def blocks_path(model: Model) -> str:
    """The name of the list of blocks."""
    return path_of(model, model.anatomy.blocks[0]).rpartition(".")[0]


def bare(model: Model, site: Site) -> Arm:
    """transformers alone, on a network that ends with the block."""
    network, blocks = copy.deepcopy(model.network), blocks_path(model)
    network.config.num_hidden_layers = site.layer + 1
    kept = nn.ModuleList(list(network.get_submodule(blocks).children())[: site.layer + 1])
    final_norm = path_of(model, model.anatomy.final_norm)
    for path, module in ((blocks, kept), (final_norm, nn.Identity())):
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, module)
    return lambda tokens: network.base_model(input_ids=tokens, use_cache=False).last_hidden_state


def transformer_lens(model: Model, site: Site) -> Arm:
    """`run_with_cache` with one name, stopped behind the block."""
    bridge, name = to_bridge(model), str(site)
    assert name in bridge.hook_dict

    def read(tokens: Tensor) -> Tensor:
        _, cache = bridge.run_with_cache(tokens, names_filter=[name], stop_at_layer=site.layer + 1)
        return cache[name]

    return read


def nnsight(model: Model, site: Site) -> Arm:
    """A trace that is stopped behind the block; ImportError without nnsight."""
    from nnsight import NNsight  # pyright: ignore[reportMissingImports]

    traced, path = NNsight(model.network), blocks_path(model)

    def read(tokens: Tensor) -> Tensor:
        with traced.trace(tokens, use_cache=False) as tracer:
            block = traced.get(f"{path}.{site.layer}")
            stream = block.output.save()
            tracer.stop()
        return stream

    return read


ARMS = {"probes.capture.capture": ours, "bare forward": bare, "transformer_lens": transformer_lens, "nnsight": nnsight}


def opened(model: Model, site: Site) -> tuple[dict[str, Arm], dict[str, str]]:
    """(the arms there are, why others are left out)."""
    arms, missing = {}, {}
    for name, made in ARMS.items():
        try:
            arms[name] = made(model, site)
        except ImportError as error:
            missing[name] = f"left out: {error}"
    return arms, missing


@torch.inference_mode()
def timed(arms: dict[str, Arm], tokens: Tensor, repetitions: int) -> dict[str, list[float]]:
    """Seconds of every repetition, after one that warms up and in which the arms must agree."""

    def finished(arm: Arm) -> Tensor:
        read = arm(tokens)
        if tokens.is_cuda:
            torch.cuda.synchronize()
        return read

    streams = {name: finished(arm).float() for name, arm in arms.items()}
    wanted = streams["bare forward"]
    for name, stream in streams.items():
        away = float((stream - wanted).abs().max() / wanted.abs().max())
        assert stream.shape == wanted.shape, name
        assert away < 1e-3, f"{name} is {away:.1e} away"
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, arm in arms.items():
            start = time.perf_counter()
            finished(arm)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="zero-base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-tokens", type=int, default=4096, help="tokens a pass, in texts of one length")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    model = load(model_source(arguments.model), device=device, dtype=torch.float32)
    site = Site((model.anatomy.n_layers - 1) // 2)
    arms, missing = opened(model, site)
    cases = []
    for length in arguments.lengths:
        n_texts = max(1, arguments.n_tokens // length)
        highest = len(model.tokenizer)
        tokens = torch.randint(1, highest, (n_texts, length), generator=torch_generator(0, "tokens", length))
        seconds = timed(arms, tokens.to(device), arguments.repetitions)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        cases.append(
            {
                "n_texts": n_texts,
                "length": length,
                "seconds": seconds,
                "tokens_per_second": {name: n_texts * length / median for name, median in medians.items()},
                "times_bare_forward": {name: median / medians["bare forward"] for name, median in medians.items()},
            }
        )
    commit, dirty = revision()
    result = {
        "benchmark": "seconds to read one site, as multiples of a bare forward pass cut at the same block",
        "model": model.name,
        "site": str(site),
        "n_layers": model.anatomy.n_layers,
        "dtype": "float32",
        "cases": cases,
        "missing": missing,
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"capture-{Path(model.name).name}-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    shown = [{"length": case["length"], "times_bare_forward": case["times_bare_forward"]} for case in cases]
    print(json.dumps({"cases": shown, "missing": missing, "machine": result["machine"]}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
