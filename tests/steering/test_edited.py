"""Each prompt is read and continued under its own edit, exactly as if `apply` had put in that edit alone."""

import pytest
import torch

from lab.models.load import load
from lab.models.source import LocalModel
from lab.records.errors import VectorError
from lab.sampling.sample import Request, asked, make_batch, sample
from lab.sampling.trace import Decoding
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from steering.edit import Add, Edited, apply, chosen_edits, open_edited
from steering.gate import EVERYWHERE, WhileWriting
from steering.vector import SteeringVector

SITE = Site(0)


@pytest.fixture(scope="module")
def model(checkpoints):
    return load(LocalModel(path=checkpoints.base), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def problems():
    return open_task(task_source("chain:+:1-1"), n_problems=12, seed=0).problems


def written(model, problems, **more) -> list[tuple[int, ...]]:
    traces = sample(model, problems, 3, Decoding(max_new_tokens=12), seed=0, batch_size=7, **more)
    return [trace.tokens for trace in traces]


def drawn(model, n: int, where) -> list[Add]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(n, model.anatomy.d_model, generator=generator)
    return [Add(SteeringVector({SITE: direction}, {SITE: 4.0}, "random"), 2.0, where) for direction in noise]


def chosen(model, problems, n: int) -> list[int]:
    ids = {asked(problem): model.prompt_ids(problem.prompt) for problem in problems}
    requests = [Request(problem, 0) for problem in problems]
    return chosen_edits(make_batch(model, ids, requests, 0), n).tolist()


@pytest.mark.parametrize("where", [EVERYWHERE, WhileWriting((0,))], ids=["every token", "first token"])
def test_each_problem_does_as_it_does_under_its_own_edit(model, problems, where):
    edits = drawn(model, 3, where)
    found = written(model, problems, open_rows=open_edited(model, Edited(tuple(edits))))
    alone = []
    for edit in edits:
        with apply(model, edit):
            alone.append(written(model, problems))
    which = chosen(model, problems, 3)
    assert len(set(which)) == 3
    assert found == [alone[edit][3 * index + place] for index, edit in enumerate(which) for place in range(3)]


def test_a_single_edit_is_that_of_apply(model, problems):
    (edit,) = drawn(model, 1, EVERYWHERE)
    with apply(model, edit):
        wanted = written(model, problems)
    assert written(model, problems, open_rows=open_edited(model, Edited((edit,)))) == wanted
    assert wanted != written(model, problems)


def test_a_prompt_keeps_its_edit_in_another_batch_and_order(model, problems):
    forwards = chosen(model, problems, 256)
    assert chosen(model, problems[::-1], 256) == forwards[::-1]
    assert chosen(model, problems[4:6], 256) == forwards[4:6]


def test_no_edit_at_all_is_refused():
    with pytest.raises(VectorError, match="want at least one"):
        Edited(())
