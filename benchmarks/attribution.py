"""How well gradients stand in for exact ablation of SAE features, and what each method costs in forward passes.

    python benchmarks/attribution.py --out benchmarks/results --sae /path/to/sae
    python benchmarks/attribution.py --out benchmarks/results --model /path/to/checkpoint --sae /path/to/sae \\
        --task gym:chain_sum --toward " The" --against " " --n-texts 8 --repetitions 1

The SAE is a directory as SAELens writes it, whose metadata name its site as `blocks.N.hook_resid_post`. The texts are
the prompts of a task; the contrast is that of the strings `--toward` against `--against` as the next token. All methods
read the same texts in the same batches, and take turns; the medians of their seconds are compared with that of the
plain forward pass of the same batches.
"""

import argparse
import json
import statistics
from pathlib import Path

import polars as pl
import torch
from agreement import feature_agreement, place_agreement
from machine import machine
from timed import timed

from lab.metrics.bootstrap import Interval, resamples
from lab.models.device import resolve_device
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.provenance import package_versions, revision
from lab.records.seeds import numpy_generator
from lab.sampling.decoder import left_padded, token_positions
from lab.tasks.source import open_task, task_source
from probes.attribution.contrast import first_token_contrasts
from probes.attribution.effects import (
    Ablation,
    Attribution,
    Gradient,
    Integrated,
    JointAblation,
    Method,
    attribute,
    completeness,
)
from probes.sae.dictionary import load_sae


@torch.inference_mode()
def forward(model: Model, contrasts: pl.DataFrame, batch: int) -> None:
    """One plain pass of all texts, in batches of like length."""
    texts = sorted(contrasts["tokens"].to_list(), key=len)
    for first in range(0, len(texts), batch):
        padded = left_padded(model, texts[first : first + batch])
        model.network(
            input_ids=padded.tokens,
            attention_mask=padded.mask.long(),
            position_ids=token_positions(padded.mask),
            use_cache=False,
            logits_to_keep=1,
        )


def described(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def compared(
    found: dict[str, Attribution], contrasts: pl.DataFrame, n_boot: int, seed: int
) -> dict[str, dict[str, object]]:
    """Method -> rank correlation with ablation at both levels, and completeness."""
    n_problems = contrasts["problem_id"].n_unique()
    weights = resamples(n_problems, n_boot, numpy_generator(seed, "agreement"))
    exact = found["ablation"].effects
    table = {}
    for name, attribution in found.items():
        figures: dict[str, object] = {"completeness": completeness(attribution.texts)._asdict()}
        if name != "ablation":
            agreed = feature_agreement(attribution.effects, exact, contrasts, weights)
            figures["rank_correlation_by_feature"] = described(agreed)
        if name not in ("ablation", "joint ablation"):
            agreed = place_agreement(attribution.effects, exact, contrasts, weights)
            figures["rank_correlation_by_place"] = described(agreed)
        table[name] = figures
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="zero-base")
    parser.add_argument("--sae", type=Path, required=True)
    parser.add_argument("--task", default="chain")
    parser.add_argument("--toward", nargs="+", default=["T"])
    parser.add_argument("--against", nargs="+", default=["A"])
    parser.add_argument("--n-texts", type=int, default=64)
    parser.add_argument("--n-steps", type=int, default=Integrated().n_steps)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--n-boot", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    model = load(model_source(arguments.model), device=device, dtype=torch.float32)
    sae = load_sae(arguments.sae, device=device)
    task = open_task(task_source(arguments.task), n_problems=arguments.n_texts, seed=arguments.seed)
    contrasts = first_token_contrasts(model, task.problems, arguments.toward, arguments.against)
    methods: list[Method] = [Gradient(), Integrated(arguments.n_steps), JointAblation(), Ablation()]

    forward(model, contrasts, arguments.batch)
    seconds: dict[str, list[float]] = {name: [] for name in ("forward", *(method.name for method in methods))}
    found: dict[str, Attribution] = {}
    for _ in range(arguments.repetitions):
        spent, _done = timed(lambda: forward(model, contrasts, arguments.batch), device)
        seconds["forward"].append(spent)
        for method in methods:
            spent, found[method.name] = timed(
                lambda method=method: attribute(model, sae, contrasts, method, batch=arguments.batch), device
            )
            seconds[method.name].append(spent)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    table = compared(found, contrasts, arguments.n_boot, arguments.seed)
    for name, figures in table.items():
        figures["seconds_per_text"] = medians[name] / len(contrasts)
        figures["times_forward"] = medians[name] / medians["forward"]
    commit, dirty = revision()
    result = {
        "benchmark": "methods of attribution against exact ablation, and their cost in forward passes",
        "model": model.name,
        "sae": sae.name,
        "site": str(sae.site),
        "d_sae": sae.d_sae,
        "task": task.name,
        "toward": arguments.toward,
        "against": arguments.against,
        "n_texts": len(contrasts),
        "n_tokens": int(contrasts["tokens"].list.len().sum()),
        "n_active": len(found["ablation"].effects),
        "n_steps": arguments.n_steps,
        "batch": arguments.batch,
        "forward_seconds_per_text": medians["forward"] / len(contrasts),
        "methods": table,
        "seconds": seconds,
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"attribution-{Path(model.name).name}-{sae.site.layer}-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"methods": table, "machine": result["machine"]}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
