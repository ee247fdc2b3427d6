"""A whole routing of a pair whose models differ, its file, and pairs that cannot be routed."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from elicitation.study.fits import disagreements
from lab.models.load import load
from lab.models.pair import ModelPair
from lab.models.source import LocalModel
from lab.records.errors import StorageError, VectorError
from lab.records.provenance import provenance
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, trace_table, verdict_table
from lab.scoring.scores import Row
from lab.tasks.source import Task, open_task, task_source
from probes.capture.site import Site
from probes.taxonomy.segments import Steps
from steering.export.vector_file import facts_of
from steering.fits.gradient import GradientFit
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.hybrid.interventions import Steer
from steering.hybrid.routers import BaseProbe
from steering.routing.category_vectors import streams_before
from steering.routing.routing import Routing, RoutingFit, fit_routing, load_routing, save_routing

SITE = Site(0)
SETTINGS = RoutingFit(n_categories=3, min_disagreements=4, vectors=GradientFit(n_steps=5, batch_size=16))


class Drawn(NamedTuple):
    """What a routing is fitted on."""

    pair: ModelPair
    task: Task
    by_base: pl.DataFrame
    by_tuned: pl.DataFrame
    disagreements: pl.DataFrame

    def fit(self, seed=0, **other) -> Routing:
        given = self._asdict() | other
        task = given.pop("task")
        by_id = {problem.id: problem for problem in task.problems}
        return fit_routing(
            site=SITE, problems=by_id, rule=Steps(task.steps, by_id), settings=SETTINGS, seed=seed, **given
        )


@pytest.fixture(scope="module")
def drawn(checkpoints) -> Drawn:
    opened = (load(LocalModel(path=path), device=torch.device("cpu"), dtype=torch.float32) for path in checkpoints)
    pair = ModelPair(base=next(opened), tuned=next(opened))
    task = open_task(task_source("chain:+:1-1"), n_problems=20, seed=0, held_out=False)
    base, tuned = (
        trace_table(name, sample(model, task.problems, 2, Decoding(max_new_tokens=12), seed=1))
        for name, model in (("base", pair.base), ("tuned", pair.tuned))
    )
    solved = tuned.filter(verdict_table(tuned, task.problems, task.verify)["strict"])
    found = disagreements(pair, solved, {problem.id: problem for problem in task.problems})
    return Drawn(pair, task, base, solved, found)


@pytest.fixture(scope="module")
def routing(drawn) -> Routing:
    return drawn.fit()


def test_decisions_fall_into_categories_of_either_model(drawn, routing):
    for side, reader in ((routing.base_side, "base"), (routing.tuned_side, "tuned")):
        assert side.reader == reader
        assert sum(side.n_disagreements) == drawn.disagreements.height
        assert side.taxonomy.n_categories == 3
        assert side.fitted
    assert routing.base_side.taxonomy.model_digest == drawn.pair.base.digest
    assert routing.tuned_side.taxonomy.model_digest == drawn.pair.tuned.digest


def test_the_probe_reads_the_base_model_and_tells_decisions(drawn, routing):
    assert routing.probe.site == SITE
    assert routing.probe_quality.auroc.value > 0.9


def test_the_schedule_opens_where_this_pair_differs(drawn, routing):
    opening = (drawn.disagreements["position"] == 0).sum() / drawn.by_tuned.height
    assert routing.schedule.rates[0] == pytest.approx(opening, abs=0.05)


def test_a_hybrid_opens_by_the_probe_and_looks_its_vector_up_without_the_tuned_model(drawn, routing):
    hybrid = Hybrid(BaseProbe(routing.probe), Steer(routing.base_side.table))
    assert not hybrid.needs_tuned
    short = Decoding(max_new_tokens=3, temperature=0.0)
    traces = sample(drawn.pair.base, drawn.task.problems, 1, short, seed=0, open_rows=open_hybrid(drawn.pair, hybrid))
    prompts = [drawn.pair.base.tokenizer(problem.prompt).input_ids for problem in drawn.task.problems]
    rows = [Row(prompt, [0]) for prompt in prompts]
    places = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    streams = streams_before(drawn.pair.base, SITE, rows, *places)
    opened = routing.probe.opens(streams)
    assert opened.float().mean() > 0.5
    assert [trace.routes[0] for trace in traces] == opened.long().tolist()
    categories = routing.base_side.taxonomy.category(streams)
    assert [trace.categories[0] for trace in traces] == torch.where(opened, categories, -1).tolist()


def test_equal_arguments_give_an_equal_routing(drawn, routing):
    again = drawn.fit()
    assert torch.equal(again.probe.weight, routing.probe.weight)
    assert again.base_side.vectors == routing.base_side.vectors
    assert again.tuned_side.vectors == routing.tuned_side.vectors
    assert (again.entropy, again.schedule, again.probe_quality) == (
        routing.entropy,
        routing.schedule,
        routing.probe_quality,
    )


def test_vectors_are_fitted_on_no_more_decisions_than_allowed(drawn):
    by_id = {problem.id: problem for problem in drawn.task.problems}
    few = RoutingFit(n_categories=2, min_disagreements=1, max_disagreements=7, vectors=GradientFit(n_steps=1))
    found = fit_routing(
        drawn.pair,
        SITE,
        drawn.by_base,
        drawn.by_tuned,
        drawn.disagreements,
        by_id,
        Steps(drawn.task.steps, by_id),
        few,
        seed=0,
    )
    assert sum(found.base_side.n_disagreements) == sum(found.tuned_side.n_disagreements) == 7


def test_a_pair_of_equal_models_has_nothing_to_route(drawn):
    alike = ModelPair(base=drawn.pair.base, tuned=drawn.pair.base)
    by_id = {problem.id: problem for problem in drawn.task.problems}
    none = disagreements(alike, drawn.by_tuned, by_id)
    with pytest.raises(VectorError, match=r"^0 of .* leave routing out where a model is paired with its like$"):
        drawn.fit(pair=alike, disagreements=none)


def test_decisions_of_other_traces_are_refused(drawn):
    with pytest.raises(VectorError, match="want the disagreements of these 2 traces"):
        drawn.fit(by_tuned=drawn.by_tuned.head(2))


@pytest.mark.parametrize("name", ["n_categories", "min_disagreements", "max_disagreements"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(VectorError, match="want 1 or more of each"):
        RoutingFit(**{name: 0})


def saved(directory: Path, drawn, routing) -> Path:
    made_by = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)
    save_routing(directory, routing, made_by, fitted_on=facts_of(drawn.pair.base))
    return directory


def test_a_file_gives_back_the_routing(drawn, routing, tmp_path):
    again = load_routing(saved(tmp_path / "routing", drawn, routing))
    assert torch.equal(again.probe.weight, routing.probe.weight)
    assert (again.probe.site, again.probe.bias) == (routing.probe.site, routing.probe.bias)
    assert (again.entropy, again.schedule, again.probe_quality) == (
        routing.entropy,
        routing.schedule,
        routing.probe_quality,
    )
    for side, other in ((again.base_side, routing.base_side), (again.tuned_side, routing.tuned_side)):
        assert (side.reader, side.n_disagreements, side.vectors) == (other.reader, other.n_disagreements, other.vectors)
        assert [vector.description for vector in side.vectors] == [vector.description for vector in other.vectors]
        assert side.taxonomy.names == other.taxonomy.names
        for name, tensor in side.taxonomy.tensors.items():
            assert torch.equal(tensor, other.taxonomy.tensors[name])


def test_what_is_undefined_comes_back_as_nan(drawn, routing, tmp_path):
    directory = saved(tmp_path / "routing", drawn, routing)
    described = json.loads((directory / "routing.json").read_text())
    described["quality"]["auroc"]["low"] = np.nan
    (directory / "routing.json").write_text(json.dumps(described))
    assert math.isnan(load_routing(directory).probe_quality.auroc.low)


def test_equal_routings_give_equal_bytes(drawn, routing, tmp_path):
    first, second = (saved(tmp_path / name, drawn, routing) for name in ("first", "second"))
    files = sorted(path.name for path in first.iterdir())
    assert len(files) == 2 + 2 * (1 + 3)
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    "name", ["routing.json", "probe.safetensors", "base-taxonomy.safetensors", "tuned-vector-1.safetensors"]
)
def test_a_directory_without_one_of_its_files_is_no_routing(drawn, routing, tmp_path, name):
    directory = saved(tmp_path / "routing", drawn, routing)
    (directory / name).unlink()
    with pytest.raises(StorageError, match=r"^cannot read a routing from .* name another, or fit it again$"):
        load_routing(directory)


@pytest.mark.parametrize("name", ["routing.json", "probe.safetensors", "base-vector-0.safetensors"])
def test_a_file_cut_in_half_is_refused(drawn, routing, tmp_path, name):
    directory = saved(tmp_path / "routing", drawn, routing)
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match=r"^cannot read a routing from .* name another, or fit it again$"):
        load_routing(directory)


def test_another_format_is_refused(drawn, routing, tmp_path):
    directory = saved(tmp_path / "routing", drawn, routing)
    (directory / "routing.json").write_text('{"format": "elicitation-lab.routing.9"}')
    with pytest.raises(
        StorageError, match=r"its format is 'elicitation-lab.routing.9', want 'elicitation-lab.routing.1'"
    ):
        load_routing(directory)


def test_the_file_that_says_all_are_there_is_written_last(drawn, routing, tmp_path, monkeypatch):
    def refused(path, text):
        raise StorageError("no space")

    monkeypatch.setattr("steering.routing.routing.write_text", refused)
    with pytest.raises(StorageError, match="no space"):
        saved(tmp_path / "routing", drawn, routing)
    assert not (tmp_path / "routing" / "routing.json").exists()
    assert len(list((tmp_path / "routing").iterdir())) == 9
