"""Seconds of a step of the gradient fit, against the blocks above its layer alone, and against the whole network.

    python benchmarks/gradient_fit.py --out benchmarks/results
    python benchmarks/gradient_fit.py --out benchmarks/results --model /path/to/checkpoint --lengths 128 512

All arms draw the same contexts, and give the same loss at a zero vector. "blocks above" is a forward and a backward
pass from a stream that lies ready, padded, and is neither edited nor stepped on: the least that a step can take. "whole
network" is a step with a hook, as a fit without stored streams would take it. A step of the fit is what a step more
costs: seconds of a fit of some steps, less those of one without any, which is the reading. Repetitions alternate, and
the median of each arm is compared.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from machine import machine
from timed import timed
from torch import Tensor

from lab.models.device import resolve_device
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.provenance import package_versions, revision
from lab.records.seeds import numpy_generator, torch_generator
from lab.sampling.decoder import left_padded, token_positions
from probes.capture.capture import LayersAbove, layers_above
from probes.capture.site import Site, hook_site
from steering.fits.fit import Disagreements, chosen
from steering.fits.gradient import GradientFit, fit_gradient

Pass = Callable[[], Float[Tensor, ""]]
"""One forward pass; gradients reach the vector or the stream."""


def contexts(model: Model, length: int, n_contexts: int) -> Disagreements:
    """Random contexts of `length` / 2 to `length` tokens, none the beginning of another, with random targets."""
    generator = numpy_generator(0, "contexts", length)
    highest = len(model.tokenizer)
    texts = [generator.integers(1, highest, generator.integers(length // 2, length + 1)) for _ in range(n_contexts)]
    padded = left_padded(model, [text.tolist() for text in texts])
    targets = torch.from_numpy(generator.integers(1, highest, n_contexts)).to(model.device)
    return Disagreements(padded.tokens, padded.mask, targets)


def trimmed(decided: Disagreements, rows: Int[Tensor, " row"]) -> Disagreements:
    """Some of the contexts, as wide as the longest of them."""
    some = chosen(decided, rows)
    width = int(some.mask.sum(dim=1).max())
    return some._replace(tokens=some.tokens[:, -width:], mask=some.mask[:, -width:])


def above(rest: LayersAbove, targets: Int[Tensor, " row"]) -> Pass:
    """The blocks above, from a stream that lies ready."""
    stream = rest.stream.clone().requires_grad_(True)
    last = rest.lengths[:, None] - 1
    return lambda: torch.nn.functional.cross_entropy(rest.logits(stream, last)[:, 0].float(), targets)


def whole(model: Model, decided: Disagreements) -> Pass:
    """The network as it is."""
    return lambda: torch.nn.functional.cross_entropy(
        model.network(
            input_ids=decided.tokens,
            attention_mask=decided.mask.long(),
            position_ids=token_positions(decided.mask),
            use_cache=False,
            logits_to_keep=1,
        )
        .logits[:, -1]
        .float(),
        decided.targets,
    )


def case(model: Model, site: Site, length: int, n_steps: int, repetitions: int, batch_size: int) -> dict[str, object]:
    """A case: seconds of a step by each arm."""
    decided = contexts(model, length, 4 * batch_size)
    generator = torch_generator(0, "draws")
    draws = [torch.randint(4 * batch_size, (batch_size,), generator=generator) for _ in range(n_steps)]
    batches = [trimmed(decided, rows.to(model.device)) for rows in draws]
    rests = [above(layers_above(model, site, batch.tokens, batch.mask), batch.targets) for batch in batches]
    passes = [whole(model, batch) for batch in batches]
    direction = torch.zeros(model.anatomy.d_model, device=model.device, requires_grad=True)

    def fit(n: int) -> Callable[[], object]:
        how = GradientFit(n_steps=n, batch_size=batch_size)
        return lambda: fit_gradient(model, site, decided, how, torch_generator(0, "draws"), description="benchmark")

    def blocks_above() -> None:
        for one in rests:
            one().backward()

    def whole_network() -> None:
        optimiser = torch.optim.Adam([direction], lr=1e-6)
        handle = hook_site(model, site, lambda stream: stream + direction.to(stream.dtype))
        for one in passes:
            optimiser.zero_grad()
            one().backward()
            optimiser.step()
        handle.remove()

    losses = [float(one[0]().detach()) for one in (rests, passes)]
    assert abs(losses[0] - losses[1]) < 1e-3 * abs(losses[1]), losses
    taken: dict[str, list[float]] = {"step of the fit": [], "blocks above": [], "whole network": [], "reading": []}
    for repetition in range(repetitions + 1):
        (reading, _), (fitting, _) = timed(fit(0), model.device), timed(fit(n_steps), model.device)
        found = {
            "step of the fit": (fitting - reading) / n_steps,
            "blocks above": timed(blocks_above, model.device)[0] / n_steps,
            "whole network": timed(whole_network, model.device)[0] / n_steps,
            "reading": reading,
        }
        for name, value in found.items():
            # The first one warms up.
            taken[name] += [value] if repetition else []
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "length": length,
        "batch_size": batch_size,
        "seconds": taken,
        "times_blocks_above": {name: medians[name] / medians["blocks above"] for name in medians if name != "reading"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="zero-base")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--layer", type=int, default=None, help="block whose output is edited; the middle one if left out"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--n-steps", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    model = load(model_source(arguments.model), device=device, dtype=torch.float32)
    site = Site(model.anatomy.n_layers // 2 if arguments.layer is None else arguments.layer)
    cases = [
        case(model, site, length, arguments.n_steps, arguments.repetitions, arguments.batch_size)
        for length in arguments.lengths
    ]
    commit, dirty = revision()
    result = {
        "benchmark": "seconds of a step of the gradient fit, as multiples of the blocks above its layer alone",
        "model": model.name,
        "site": str(site),
        "n_layers": model.anatomy.n_layers,
        "dtype": "float32",
        "cases": cases,
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"gradient_fit-{Path(model.name).name}-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    shown = [{"length": one["length"], "times_blocks_above": one["times_blocks_above"]} for one in cases]
    print(json.dumps({"cases": shown, "machine": result["machine"]}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
