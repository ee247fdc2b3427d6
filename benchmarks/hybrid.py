"""What a hybrid costs: against its own definition without a cache, and against two models that decode apart.

    PYTHONPATH=. python benchmarks/hybrid.py --out benchmarks/results

The hybrid is that of arXiv 2510.07364 in its first form: where the models disagree, the tuned one names a category, the
base writes fifty candidates under that category's vector, and the tuned model picks one. The main case sweeps fifty
doses at the last position; beside it stand the windows of the paper (ten doses, five windows). Prompts have their own
ten bytes or so, or sixty, as those of real problems do in tokens. The pair is random, and its texts never end, so that
every completion has 100 tokens; the noise between the two models sets how often they disagree, which decides the cost
and is recorded. The reference, `tests/steering/hybrid/reference.py`, reads the whole text for every model, token and
candidate; it writes a few problems, those whose share of such tokens is nearest to that of all, and seconds are scaled
to one problem.

Token-forwards are positions passed through a whole network: each block counts the positions that it computes, over the
number of blocks. Both sides are counted on the same problems, in passes of their own beside the timed ones.

Throughput: tokens a second of the hybrid that takes over where the models disagree, against those of the base and then
the tuned model, decoded apart at the same batch size. Repetitions alternate.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine
from timed import timed
from torch import Tensor, nn

from lab.models.device import resolve_device
from lab.models.load import Model, assemble
from lab.models.pair import ModelPair
from lab.models.tiny import EOS, byte_tokenizer, tiny_network
from lab.records.provenance import package_versions, revision
from lab.records.seeds import torch_generator
from lab.sampling.decoder import OpenDecoder
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.hybrid.interventions import PerCategory, Sweep, Takeover, TunedChooser
from steering.hybrid.routers import Disagreement
from steering.vector import SteeringVector
from tests.steering.hybrid.reference import write

N_LAYERS, D_MODEL = 4, 128
DECODING = Decoding(temperature=0.0, max_new_tokens=100)
LAST_POSITION = tuple(n / 50 for n in range(1, 51)), (1,)
PUBLISHED = tuple(n / 10 for n in range(1, 11)), (None, 1, 15, 50, 100)
LONGER_PROMPT = 60
N_CATEGORIES = 5
SITE, READ = Site(1), Site(2)
NORM = 1000.0
"""Of the vectors: somewhat less than the stream's own, so that the candidates of a sweep differ."""


def endless_pair(noise: float, device: torch.device) -> ModelPair:
    """A random base and the same network with `noise`, relative to each weight's spread; neither ever ends a text."""
    base = tiny_network("llama", seed=0, n_layers=N_LAYERS, d_model=D_MODEL)
    tuned, generator = copy.deepcopy(base), torch_generator(0, "noise")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
        for network in (base, tuned):
            # A logit of 0, where the greatest of the others is some nats.
            network.get_parameter("lm_head.weight")[EOS] = 0.0
            nn.Module.to(network, device)
    return ModelPair(
        base=assemble(base, byte_tokenizer(), name="base"), tuned=assemble(tuned, byte_tokenizer(), name="tuned")
    )


def rivals_table(pair: ModelPair) -> PerCategory:
    """Random vectors under a random taxonomy of the tuned model's stream."""
    generator = torch_generator(0, "hybrid")
    directions = NORM * torch.nn.functional.normalize(torch.randn(N_CATEGORIES, D_MODEL, generator=generator), dim=1)
    centres = torch.nn.functional.normalize(torch.randn(N_CATEGORIES, D_MODEL, generator=generator), dim=1)
    taxonomy = Taxonomy(
        site=READ,
        mean=torch.zeros(D_MODEL),
        W_enc=centres.T.contiguous(),
        b_enc=torch.zeros(N_CATEGORIES),
        W_dec=centres,
        b_dec=torch.zeros(D_MODEL),
        k=1,
        names=tuple(map(str, range(N_CATEGORIES))),
        model=pair.tuned.name,
        model_digest=pair.tuned.digest,
    ).to(pair.tuned.device)
    edits = tuple(Add(SteeringVector({SITE: row}, {SITE: float("nan")}, "random")) for row in directions)
    return PerCategory(taxonomy, "tuned", edits)


@contextmanager
def counted(pair: ModelPair) -> Iterator[dict[str, float]]:
    """Token-forwards of each model within the block, padding included.

    Each block's MLP counts, as blocks that a pass skips are called too.
    """
    totals = {"base": 0.0, "tuned": 0.0}

    def counting(name: str, model: Model) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            totals[name] += args[0].shape[0] * args[0].shape[1] / model.anatomy.n_layers

        return count

    handles = [
        block.get_submodule("mlp").register_forward_pre_hook(counting(name, model))
        for name, model in (("base", pair.base), ("tuned", pair.tuned))
        for block in model.anatomy.blocks
    ]
    try:
        yield totals
    finally:
        for handle in handles:
            handle.remove()


def cached(model: Model, problems: Sequence[Problem], batch_size: int, rows: OpenDecoder | None) -> list[Trace]:
    """Completions by the decoding loop, all of full length."""
    traces = sample(model, problems, 1, DECODING, seed=0, batch_size=batch_size, open_rows=rows)
    assert all(len(trace.tokens) == DECODING.max_new_tokens for trace in traces), "a text ended early"
    return traces


def defined(pair: ModelPair, hybrid: Hybrid, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """Tokens by the reference."""
    return [tuple(one.token for one in write(pair, hybrid, problem, DECODING, seed=0)) for problem in problems]


def routed_share(traces: Sequence[Trace]) -> float:
    """Share of the tokens that the base did not write alone."""
    routes = [route > 0 for trace in traces for route in trace.routes]
    return sum(routes) / len(routes)


def longer(problems: Sequence[Problem]) -> list[Problem]:
    """The same under prompts of `LONGER_PROMPT` bytes, which end in their own and begin with those of others."""
    prompts = [problem.prompt for problem in problems] * (1 + LONGER_PROMPT)
    return [
        replace(problem, prompt="".join(prompts[: len(problems) + number + 1])[-LONGER_PROMPT:])
        for number, problem in enumerate(problems)
    ]


def sweep_cost(
    pair: ModelPair,
    problems: Sequence[Problem],
    doses: tuple[float, ...],
    windows: tuple[int | None, ...],
    *,
    n_reference: int,
) -> dict[str, object]:
    """A sweep with caches and a batch, before and after a few problems by its definition."""
    hybrid = Hybrid(Disagreement(), Sweep(rivals_table(pair), doses, windows, TunedChooser()))
    opened, size, device = open_hybrid(pair, hybrid), len(problems), pair.base.device
    first, traces = timed(lambda: cached(pair.base, problems, size, opened), device)
    share = routed_share(traces)
    order = sorted(range(size), key=lambda number: abs(routed_share([traces[number]]) - share))[:n_reference]
    few = [problems[number] for number in order]
    with counted(pair) as by_cache:
        cached(pair.base, few, size, opened)
    with counted(pair) as by_reference:
        reference, tokens = timed(lambda: defined(pair, hybrid, few), device)
    second, _ = timed(lambda: cached(pair.base, problems, size, opened), device)
    return {
        "doses": len(doses),
        "windows": windows,
        "prompt_bytes": statistics.mean(len(problem.prompt) for problem in problems),
        "n_problems": size,
        "n_reference": len(few),
        "n_equal": sum(traces[number].tokens == wanted for number, wanted in zip(order, tokens, strict=True)),
        "routed_share": share,
        "routed_share_reference": routed_share([traces[number] for number in order]),
        "token_forwards": {"reference": by_reference, "cached": by_cache},
        "token_forwards_ratio": sum(by_reference.values()) / sum(by_cache.values()),
        "seconds": {"reference": reference, "cached": (first, second)},
        "seconds_a_problem_ratio": (reference / len(few)) / (statistics.mean((first, second)) / size),
    }


def takeover_cost(pair: ModelPair, problems: Sequence[Problem], repetitions: int) -> dict[str, object]:
    """A hybrid that takes over against two models that decode apart."""
    opened, size = open_hybrid(pair, Hybrid(Disagreement(), Takeover())), len(problems)
    work: dict[str, Callable[[], object]] = {
        "takeover": lambda: cached(pair.base, problems, size, opened),
        "base": lambda: cached(pair.base, problems, size, None),
        "tuned": lambda: cached(pair.tuned, problems, size, None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repetitions):
        for name, task in work.items():
            seconds[name].append(timed(task, pair.base.device)[0])
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "n_problems": size,
        "routed_share": routed_share(cached(pair.base, problems, size, opened)),
        "seconds": seconds,
        "throughput_share": (median["base"] + median["tuned"]) / median["takeover"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-problems", type=int, default=64)
    parser.add_argument("--n-published", type=int, default=4, help="problems under the windows of the paper")
    parser.add_argument("--n-reference", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.002)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    pair = endless_pair(arguments.noise, device)
    problems = open_task(task_source("chain"), n_problems=arguments.n_problems, seed=0).problems
    some = problems[: arguments.n_published]
    n_reference = arguments.n_reference
    sweeps = {
        "last position": sweep_cost(pair, problems, *LAST_POSITION, n_reference=n_reference),
        "last position, longer prompts": sweep_cost(pair, longer(problems), *LAST_POSITION, n_reference=n_reference),
        "published windows": sweep_cost(pair, some, *PUBLISHED, n_reference=1),
        "published windows, longer prompts": sweep_cost(pair, longer(some), *PUBLISHED, n_reference=1),
    }
    takeover = takeover_cost(pair, problems, arguments.repetitions)
    commit, dirty = revision()
    result = {
        "benchmark": "a hybrid of 50 candidates against its definition, and one that takes over against two models",
        "pair": f"random llamas of {N_LAYERS} layers, width {D_MODEL}, noise {arguments.noise}",
        "site": str(SITE),
        "n_tokens": DECODING.max_new_tokens,
        "sweeps": sweeps,
        "takeover": takeover,
        "note": "the reference writes n_reference problems one by one; its seconds are scaled to a problem",
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"hybrid-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    shown = ("routed_share", "n_equal", "token_forwards_ratio", "seconds_a_problem_ratio")
    for name, figures in sweeps.items():
        print(name, json.dumps({key: figures[key] for key in shown}))
    print("takeover", json.dumps({key: takeover[key] for key in ("routed_share", "throughput_share")}))
    print(path)


if __name__ == "__main__":
    main()
