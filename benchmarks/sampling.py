"""Samples a second of our decoding loop against `transformers.generate`, same model, same prompts, same run.

    python benchmarks/sampling.py --out benchmarks/results

Both draw k = 32 samples of each prompt at temperature 1 from zero-base, which ends its texts itself. Each arm gets the
batch size that suits it best among those listed; repetitions alternate, and the median of each arm is compared.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from machine import machine

from lab.models.device import resolve_device
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.provenance import package_versions, revision
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from lab.tasks.source import open_task, task_source

K = 32
DECODING = Decoding(max_new_tokens=96)
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)


def ours(model: Model, problems: tuple[Problem, ...], batch_size: int) -> float:
    """Seconds for K samples of each problem."""
    start = time.perf_counter()
    traces = sample(model, problems, K, DECODING, seed=0, batch_size=batch_size)
    assert len(traces) == K * len(problems)
    return time.perf_counter() - start


@torch.inference_mode()
def theirs(model: Model, problems: tuple[Problem, ...], batch_size: int) -> float:
    """The same by `generate`, with `num_return_sequences`."""
    torch.manual_seed(0)
    n_prompts = batch_size // K
    start = time.perf_counter()
    for first in range(0, len(problems), n_prompts):
        prompts = [problem.prompt for problem in problems[first : first + n_prompts]]
        encoded = model.tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
        output = model.network.generate(
            input_ids=encoded.input_ids,
            attention_mask=encoded.attention_mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=K,
            max_new_tokens=DECODING.max_new_tokens,
            pad_token_id=model.tokenizer.pad_token_id,
            eos_token_id=sorted(model.ends),
        )
        model.tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="zero-base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-problems", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    model = load(model_source(arguments.model), device=device, dtype=torch.float32)
    problems = open_task(task_source("chain"), n_problems=arguments.n_problems, seed=0).problems
    arms = {"lab.sample": ours, "transformers.generate": theirs}
    best = {
        name: min(BATCH_SIZES, key=lambda size, timed=timed: timed(model, problems, size))
        for name, timed in arms.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(arguments.repetitions):
        for name, timed in arms.items():
            seconds[name].append(timed(model, problems, best[name]))
    n_samples = K * len(problems)
    rates = {name: n_samples / statistics.median(times) for name, times in seconds.items()}
    commit, dirty = revision()
    result = {
        "benchmark": "samples per second at k = 32",
        "model": model.name,
        "n_problems": len(problems),
        "batch_size": best,
        "seconds": seconds,
        "samples_per_second": rates,
        "ratio": rates["lab.sample"] / rates["transformers.generate"],
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"sampling-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("samples_per_second", "batch_size", "ratio", "machine")}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
