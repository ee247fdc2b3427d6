"""path_test: how far a model gets on its own accepted samples, drawn at once or round by round (reference for E1, E2).

What one round brings was in the base model's reach: every text that was learned is its own, and only the choice among
them is new. What further rounds bring beyond it was climbed to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lab.models.load import Model
from lab.post_training.trainers import Document, SupervisedRun, train_on_documents
from lab.records.seeds import child_seed, numpy_generator
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.source import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class PathTest:
    """Sizes of a path test; both routes draw as many samples and take as many steps in all."""

    n_problems: int = 400
    """Training problems."""
    n_samples: int = 64
    """Samples of each, over all rounds."""
    n_rounds: int = 4
    """Rounds of the iterated route."""
    n_kept: int = 4
    """Distinct accepted samples of a problem that a round learns from, at most."""
    run: SupervisedRun = field(
        default_factory=lambda: SupervisedRun(n_steps=80, batch_size=64, learning_rate=5e-4, warmup_steps=5, n_parts=1)
    )
    """Steps over all rounds."""
    decoding: Decoding = field(default_factory=Decoding)


def path_test(model: Model, task: Task, test: PathTest, *, n_rounds: int, seed: int, work: Path) -> list[int]:
    """Changes `model` in place by `n_rounds` rounds of sampling, filtering by the strict verdict, and learning.

    Returns the number of accepted samples in each round, before the cap; a round that accepts nothing learns nothing.
    """
    accepted = []
    for number in range(n_rounds):
        drawn = draw(model, task, test.n_samples // n_rounds, test.decoding, child_seed(seed, "path", number))
        kept, n_accepted = chosen(task, drawn, test.n_kept, str(model.tokenizer.eos_token))
        accepted.append(n_accepted)
        if kept:
            run = replace(test.run, n_steps=max(1, test.run.n_steps // n_rounds))
            learn(model, kept, run, seed=child_seed(seed, "path", number, "learn"), work=work / f"round-{number}")
    return accepted


def draw(model: Model, task: Task, n_samples: int, decoding: Decoding, seed: int) -> list[list[str]]:
    """Completions of each problem, in the problems' order."""
    model.network.requires_grad_(False).eval()
    traces = sample(model, task.problems, n_samples, decoding, seed=seed, batch_size=1024)
    return [[trace.text for trace in traces[start : start + n_samples]] for start in range(0, len(traces), n_samples)]


def chosen(task: Task, drawn: Sequence[Sequence[str]], n_kept: int, end: str) -> tuple[list[Document], int]:
    """What a round learns from, and how many samples the verifier accepted."""
    kept, n_accepted = [], 0
    for problem, texts in zip(task.problems, drawn, strict=True):
        right = [text for text in texts if task.verify(problem, text).strict]
        n_accepted += len(right)
        kept += [Document(prompt=problem.prompt, completion=text + end) for text in list(dict.fromkeys(right))[:n_kept]]
    return kept, n_accepted


def learn(model: Model, kept: Sequence[Document], run: SupervisedRun, *, seed: int, work: Path) -> None:
    """Passes over the kept samples in random order, as many as the run has steps for."""
    generator = numpy_generator(seed, "order")
    order = generator.integers(len(kept), size=run.n_steps * run.batch_size)
    network = model.network.requires_grad_(True).train()
    documents = [kept[index] for index in order]
    train_on_documents(network, model.tokenizer, documents, run, seed=seed, device=model.device, work=work)
    network.requires_grad_(False).eval()


def strict_rates(
    model: Model, task: Task, n_samples: int, decoding: Decoding, *, seed: int
) -> Float[np.ndarray, " problem"]:
    """Strict accuracy on each problem."""
    drawn = draw(model, task, n_samples, decoding, seed)
    judged = zip(task.problems, drawn, strict=True)
    return np.array([np.mean([task.verify(problem, text).strict for text in texts]) for problem, texts in judged])
