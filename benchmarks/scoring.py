"""Seconds and memory of scoring completions at a large vocabulary, against tables of all its log-probabilities.

    python benchmarks/scoring.py --out benchmarks/results
    python benchmarks/scoring.py --out benchmarks/results --dtype bfloat16 --device cuda --n-texts 200

Two random models of four blocks, 64 wide, read the same random texts, of which each token is a completion's. `scores`
is what the lab does. The others hold a table of text x vocabulary for either model: `double` takes log-probabilities of
the network's logits in double precision, `float32` in single. Each way has a process of its own, whose growth is that
of its largest resident size; on a CPU the seconds are those of its one thread. The tables are read for fewer texts, one
at a time, and compared by the token. The figures of the texts that all have read must agree.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import machine
from timed import timed
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lab.models.device import resolve_device
from lab.models.load import assemble
from lab.models.pair import ModelPair
from lab.models.tiny import byte_tokenizer
from lab.records.provenance import package_versions, revision
from lab.records.seeds import torch_generator
from lab.sampling.trace import Trace, trace_table
from lab.scoring.scores import scores
from lab.tasks.problem import Problem

WAYS = ("scores", "double", "float32")
PROMPT = "abc"


def random_network(arguments: argparse.Namespace, seed: int) -> LlamaForCausalLM:
    # Logits of random networks differ by whole nats at this range.
    config = LlamaConfig(
        vocab_size=arguments.d_vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=arguments.n_tokens + 8,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = LlamaForCausalLM(config)
    placed = network.to(getattr(torch, arguments.dtype))
    placed.to(resolve_device(arguments.device))  # pyright: ignore[reportArgumentType] -- its stub lost `self`
    return placed


def by_tables(pair: ModelPair, texts: list[list[int]], dtype: torch.dtype) -> list[tuple[float, float, float]]:
    """(log-probability under base and tuned model, divergence of the tuned from the base) of each text."""
    prompt = pair.base.prompt_ids(PROMPT)

    def table(network: PreTrainedModel, text: list[int]) -> Tensor:
        tokens = torch.tensor([prompt + text], device=pair.base.device)
        logits = network(input_ids=tokens, use_cache=False, logits_to_keep=len(text) + 1).logits[0, :-1]
        return logits.to(dtype).log_softmax(dim=-1)

    found = []
    for text in texts:
        base, tuned = (table(model.network, text) for model in (pair.base, pair.tuned))
        written = torch.tensor(text, device=base.device)[:, None]
        divergence = (base.exp() * (base - tuned)).sum(dim=-1)
        # What `scores` gives besides.
        _rank = 1 + (base > base.gather(-1, tuned.argmax(dim=-1, keepdim=True))).sum(dim=-1)
        _entropy = -(base.exp() * base).sum(dim=-1)
        figures = base.gather(-1, written), tuned.gather(-1, written), divergence
        found.append(tuple(float(one.double().sum()) for one in figures))
    return found


def by_scores(pair: ModelPair, texts: list[list[int]]) -> list[tuple[float, float, float]]:
    problem = Problem(id="p", prompt=PROMPT, answer="", family="all", source="benchmark")
    written = [
        Trace(
            problem_id="p",
            sample_index=index,
            tokens=tuple(text),
            logprobs=(0.0,) * len(text),
            routes=(0,) * len(text),
            categories=(-1,) * len(text),
            content_bits=(0.0,) * len(text),
            text="",
            stop="length",
        )
        for index, text in enumerate(texts)
    ]
    read = scores(pair, "base", trace_table("base", written), {"p": problem})
    return read.scores.select("logp_base", "logp_tuned", "token_kl").rows()


@torch.inference_mode()
def one_way(arguments: argparse.Namespace) -> dict[str, object]:
    """Seconds, growth and figures of `arguments.way`."""
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    base, tuned = (
        assemble(random_network(arguments, seed), byte_tokenizer(), name=f"random-{seed}", digest=str(seed))
        for seed in (0, 1)
    )
    pair, is_new = ModelPair(base=base, tuned=tuned), arguments.way == "scores"
    shape = (arguments.n_texts if is_new else arguments.n_of_tables, arguments.n_tokens)
    texts = torch.randint(arguments.d_vocab, shape, generator=torch_generator(0, "scoring texts")).tolist()
    dtype = torch.float64 if arguments.way == "double" else torch.float32
    work = (lambda some: by_scores(pair, some)) if is_new else (lambda some: by_tables(pair, some, dtype))
    work([texts[0][:8]])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    busy = time.process_time()
    seconds, figures = timed(lambda: work(texts), base.device)
    if arguments.device == "cpu":
        seconds = time.process_time() - busy
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    figured = {"milliseconds_per_token": 1000 * seconds / (shape[0] * shape[1]), "growth_gib": grown}
    return {"n_texts": shape[0], "seconds": seconds, **figured, "figures": figures[: arguments.n_of_tables]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--d-vocab", type=int, default=151_936)
    parser.add_argument("--n-texts", type=int, default=200)
    parser.add_argument("--n-of-tables", type=int, default=2)
    parser.add_argument("--n-tokens", type=int, default=1000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(one_way(arguments)))
        return
    ways = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, *sys.argv, "--way", way], capture_output=True, text=True, check=True)
        ways[way] = json.loads(done.stdout.splitlines()[-1])
    figures = {way: torch.tensor(found.pop("figures"), dtype=torch.float64) for way, found in ways.items()}
    apart = (figures["scores"] - figures["float32"]).abs().max() / arguments.n_tokens
    spent = {way: found["milliseconds_per_token"] for way, found in ways.items()}
    commit, dirty = revision()
    device = resolve_device(arguments.device)
    result = {
        "benchmark": "seconds and memory of scoring completions, against tables of text x vocabulary",
        "model": "two random Llamas of 4 blocks, 64 wide",
        "d_vocab": arguments.d_vocab,
        "n_tokens_per_text": arguments.n_tokens,
        "dtype": arguments.dtype,
        "ways": ways,
        "times_as_fast_as": {way: spent[way] / spent["scores"] for way in WAYS[1:]},
        "nats_a_token_from_float32": float(apart),
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"scoring-{arguments.dtype}-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    shown = {key: result[key] for key in ("ways", "times_as_fast_as", "nats_a_token_from_float32", "machine")}
    print(json.dumps(shown, indent=1))
    print(path)


if __name__ == "__main__":
    main()
