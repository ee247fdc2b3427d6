"""Seconds of ReasonScore in one pass over a store, against reading everything again for every 48 features.

    python benchmarks/features.py --out benchmarks/results
    python benchmarks/features.py --out benchmarks/results --widths 512 2048 8192 --n-problems 4000 --device cuda

The code of the ReasonScore paper (AIRI-Institute/SAE-Reasoning) takes 48 features at a time and runs the model over
all texts for each such minibatch. The arm `rerun the model` does so up to the site; `read the store again` takes the
streams from the store instead. Both encode only their 48 features, and add up only means; the one pass also adds up
what firing and AUROC need. The seconds of a minibatch are measured, and those of all d_sae / 48 are extrapolated from a
few. All arms must give equal means. Texts are documents of the chain world, and the SAE has random ReLU features that
fire at one token in fifty.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from machine import machine
from sae_lens import StandardSAE, StandardSAEConfig
from timed import timed
from torch import Tensor

from lab.models.device import resolve_device
from lab.models.load import Model, load
from lab.models.source import BuiltInModel
from lab.records.provenance import package_versions, provenance, revision
from lab.records.seeds import numpy_generator, torch_generator
from lab.sampling.decoder import left_padded
from lab.tasks.chain import CHAIN_STEPS, Habits, as_expression, chain_document
from lab.tasks.source import open_task, task_source
from probes.capture.capture import capture
from probes.capture.site import TEXTS, AllTokens, Site
from probes.sae.dictionary import Sae
from probes.scores.labels import label_names, label_rows, read_site, step_labels
from probes.scores.sums import Sums, reason_scores, sums
from probes.storage.fill import fill
from probes.storage.store import Store, plan, read_texts

MINIBATCH = 48
FIRING_SHARE = 0.02
N_TEXTS = 256


def made_store(model: Model, site: Site, n_problems: int, out: Path) -> tuple[Store, pl.DataFrame]:
    """A store of worked chains with slips and checks, and the labels of their steps."""
    problems = open_task(task_source("chain"), n_problems=n_problems, seed=0).problems
    generator = numpy_generator(0, "documents")
    texts = TEXTS.frame(
        [
            {
                "problem_id": problem.id,
                "sample_index": 0,
                "prompt": model.tokenizer(problem.prompt).input_ids,
                "completion": model.tokenizer(chain_document(as_expression(problem), Habits(), generator)).input_ids,
            }
            for problem in problems
        ]
    )
    planned = plan(model, texts, (site,), AllTokens(), shard_bytes=2**23)
    made_by = provenance("benchmark", planned, {}, device=str(model.device), dtype="float32", seed=0)
    return fill(model, texts, planned, out, made_by), step_labels(texts, model.tokenizer, problems, CHAIN_STEPS)


def made_sae(store: Store, d_sae: int, device: torch.device) -> Sae:
    """Random directions, each with the bias at which it fires at one token in fifty."""
    (site,), d_model = store.plan.sites, store.plan.d_model
    directions = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=torch_generator(0, "sae", d_sae)))
    coder = StandardSAE(StandardSAEConfig(d_in=d_model, d_sae=d_sae))
    sae = Sae(name="random", site=site, coder=coder, trained_on=None, digest="")
    rows = read_site(store, sae, 0)[:4096].float()
    bias = -torch.quantile(rows @ directions.T, 1 - FIRING_SHARE, dim=0)
    coder.load_state_dict(
        {"W_enc": directions.T.contiguous(), "b_enc": bias, "W_dec": directions, "b_dec": torch.zeros(d_model)}
    )
    coder.to(device).requires_grad_(False)
    return sae


class Batch(NamedTuple):
    """Tokens in memory with what they are, so that this is no part of the time of the minibatch arms."""

    kinds: Float[Tensor, "row kind"]
    """Columns of 1 and 0: outside, inside, each label."""
    stream: Callable[[], Float[Tensor, "row d_model"]]


def stored(store: Store, sae: Sae, marked: list[Bool[Tensor, "row label"]]) -> list[Batch]:
    """The shards, of which each is read when it is asked for."""
    return [
        Batch(_kinds(here), lambda number=number: read_site(store, sae, number).to(sae.W_dec.device))
        for number, here in enumerate(marked)
    ]


def run(model: Model, store: Store, marked: list[Bool[Tensor, "row label"]]) -> list[Batch]:
    """The texts in batches of like length, which the model reads when they are asked for."""
    texts = [[*prompt, *completion] for _, _, prompt, completion in read_texts(store).iter_rows()]
    marked_of = torch.cat(marked).split([len(text) for text in texts])
    order = sorted(range(len(texts)), key=lambda text: len(texts[text]))
    (site,) = store.plan.sites

    def batch(chosen: list[int]) -> Batch:
        padded = left_padded(model, [texts[text] for text in chosen])
        return Batch(
            _kinds(torch.cat([marked_of[text] for text in chosen])),
            lambda: capture(model, padded.tokens, padded.mask, [site])[site][padded.mask],
        )

    return [batch(order[first : first + N_TEXTS]) for first in range(0, len(order), N_TEXTS)]


def _kinds(marked: Bool[Tensor, "row label"]) -> Float[Tensor, "row kind"]:
    inside = marked.any(dim=1, keepdim=True)
    return torch.cat([~inside, inside, marked], dim=1).double()


@torch.no_grad()
def minibatch_means(batches: list[Batch], sae: Sae, first: int) -> Float[Tensor, "kind feature"]:
    """Mean activations of 48 features outside, inside and at each label."""
    weights, chosen = sae.coder.state_dict(), slice(first, first + MINIBATCH)
    encoder, bias = weights["W_enc"][:, chosen], weights["b_enc"][chosen]
    added = torch.zeros(batches[0].kinds.shape[1], encoder.shape[1], dtype=torch.float64, device=encoder.device)
    for batch in batches:
        added += batch.kinds.T.to(encoder.device) @ torch.relu(batch.stream() @ encoder + bias).double()
    return added.cpu() / torch.cat([batch.kinds for batch in batches]).sum(dim=0)[:, None]


def scored(store: Store, sae: Sae, labels: pl.DataFrame) -> Sums:
    """The one pass, with the scores worked out of it."""
    added = sums(store, sae, labels)
    reason_scores(added)
    return added


def case(model: Model, store: Store, labels: pl.DataFrame, d_sae: int, repetitions: int) -> dict[str, object]:
    """All arms for one SAE, alternately."""
    device, sae = model.device, made_sae(store, d_sae, model.device)
    names = label_names(store, labels)
    marked = [torch.from_numpy(label_rows(store, labels, names, number)) for number in range(len(store.portions))]
    arms = {"read the store again": stored(store, sae, marked), "rerun the model": run(model, store, marked)}
    n_minibatches = math.ceil(d_sae / MINIBATCH)
    seconds: dict[str, list[float]] = {"one pass": [], **{name: [] for name in arms}}
    for repetition in range(repetitions + 1):
        took, added = timed(lambda: scored(store, sae, labels), device)
        # The first of all warms up.
        if repetition:
            seconds["one pass"].append(took)
        wanted = np.stack([added.outside / (added.n_tokens - added.n_inside), added.inside / added.n_inside])
        wanted = np.concatenate([wanted, added.labelled / added.n_labelled[:, None]])
        for name, batches in arms.items():
            first = MINIBATCH * (repetition % (d_sae // MINIBATCH))
            took, means = timed(lambda batches=batches, first=first: minibatch_means(batches, sae, first), device)
            np.testing.assert_allclose(means, wanted[:, first : first + MINIBATCH], rtol=1e-3, atol=1e-5)
            if repetition:
                seconds[name].append(took)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    extrapolated = {name: medians[name] * n_minibatches for name in arms}
    return {
        "d_sae": d_sae,
        "n_minibatches": n_minibatches,
        "seconds_one_pass": seconds["one pass"],
        "seconds_of_a_minibatch": {name: seconds[name] for name in arms},
        "seconds_of_all_minibatches_extrapolated": extrapolated,
        "times_one_pass": {name: total / medians["one pass"] for name, total in extrapolated.items()},
        "minibatches_that_cost_one_pass": {name: medians["one pass"] / medians[name] for name in arms},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--n-problems", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if min(arguments.widths) < MINIBATCH:
        parser.error(f"--widths {min(arguments.widths)}: want at least {MINIBATCH}, the features of a minibatch")
    device = resolve_device(arguments.device)
    model = load(BuiltInModel(name="zero-base"), device=device, dtype=torch.float32)
    site = Site((model.anatomy.n_layers - 1) // 2)
    with tempfile.TemporaryDirectory() as folder:
        store, labels = made_store(model, site, arguments.n_problems, Path(folder) / "store")
        cases = [case(model, store, labels, d_sae, arguments.repetitions) for d_sae in arguments.widths]
    commit, dirty = revision()
    result = {
        "benchmark": "seconds of ReasonScore in one pass, against minibatches of 48 features (extrapolated from a few)",
        "model": model.name,
        "site": str(site),
        "n_tokens": store.n_rows,
        "n_labels": labels["label"].n_unique(),
        "firing_share": FIRING_SHARE,
        "cases": cases,
        "machine": machine(device),
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"features-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    shown = [{key: case[key] for key in ("d_sae", "seconds_one_pass", "times_one_pass")} for case in cases]
    print(json.dumps({"n_tokens": result["n_tokens"], "cases": shown, "machine": result["machine"]}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
