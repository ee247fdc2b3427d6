"""Both published methods on a pair of tiny chain models, fitted once."""

from typing import NamedTuple

import polars as pl
import pytest
import torch

from lab.models.load import load
from lab.models.pair import ModelPair
from lab.models.source import LocalModel
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, trace_table
from lab.tasks.source import Task, open_task, task_source
from probes.taxonomy.segments import Steps
from steering.published_hybrids.fit_published import fit_published
from steering.published_hybrids.material import Descent, PublishedSettings
from steering.published_hybrids.published_hybrids import PublishedHybrids

QUICK = Descent(n_epochs=12, batch_size=8, learning_rate=0.05, patience=10)
SCALED = Descent(n_epochs=15, batch_size=8, learning_rate=0.2, patience=10)
SETTINGS = PublishedSettings(
    n_categories=3,
    n_traces=24,
    n_segments=12,
    n_disagreements=64,
    d_hidden=8,
    bias=QUICK,
    categories=QUICK,
    scaled=SCALED,
)


class StudyContext(NamedTuple):
    """What they are fitted on."""

    pair: ModelPair
    task: Task
    traces: pl.DataFrame
    settings: PublishedSettings = SETTINGS

    @property
    def problems(self):
        return {problem.id: problem for problem in self.task.problems}

    @property
    def rule(self) -> Steps:
        assert self.task.steps is not None
        return Steps(self.task.steps, self.problems)


@pytest.fixture(scope="session")
def context(checkpoints) -> StudyContext:
    cpu = torch.device("cpu")
    base, tuned = (load(LocalModel(path=path), device=cpu, dtype=torch.float32) for path in checkpoints)
    task = open_task(task_source("chain:+:1-1"), n_problems=20, seed=0, held_out=False)
    traces = sample(tuned, task.problems, 2, Decoding(max_new_tokens=12), seed=1)
    return StudyContext(ModelPair(base=base, tuned=tuned), task, trace_table("fit-tuned", traces))


@pytest.fixture(scope="session")
def published(context: StudyContext) -> PublishedHybrids:
    return fit_published(context.pair, context.traces, context.problems, context.rule, context.settings, seed=0)
