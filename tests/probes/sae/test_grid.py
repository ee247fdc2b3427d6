"""A grid of SAEs: whole or absent one by one, gone on with after a kill, and judged in one table."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import polars as pl
import pytest
import torch

from lab.models.load import load
from lab.models.source import BuiltInModel
from lab.records.errors import ModelError, StorageError
from lab.records.provenance import provenance
from lab.records.stage import alone
from lab.records.tables import read_provenance, read_table
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, trace_table
from lab.tasks.problem import problem_table
from lab.tasks.source import open_task, task_source
from probes.capture.site import AllTokens, Site, texts
from probes.sae import train as grid_module
from probes.sae.architecture import CONFIG, QUALITY_FILE, JumpReLU, TopK, Training
from probes.sae.dictionary import WEIGHTS, load_sae, made_by, quality
from probes.sae.train import grid, judge, train_unit
from probes.storage.fill import fill
from probes.storage.store import plan
from probes.tables import SAE_QUALITY

from .conftest import CPU, SITES, TRAINING
from .grid_process import units

HERE = Path(__file__).parent


@pytest.fixture
def two(store, tmp_path):
    return units(store.path, tmp_path / "grid")


def test_a_grid_is_every_combination(store, tmp_path):
    found = grid(store.path, SITES, [TopK(2), JumpReLU(0.5)], [16, 32], TRAINING, tmp_path, device=CPU)
    assert [str(unit.path.relative_to(tmp_path)) for unit in found] == [
        f"{site}/{kind}-{size}"
        for site in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre")
        for kind in ("topk-2", "jumprelu-0.5")
        for size in (16, 32)
    ]


def test_a_unit_can_be_sent_to_another_process(two):
    assert ForkingPickler.loads(ForkingPickler.dumps(two[0])) == two[0]


@pytest.mark.slow
def test_a_killed_grid_goes_on_to_the_same_bytes(two, store, tmp_path, files):
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, str(HERE / "grid_process.py"), str(store.path), str(out)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # But for the mark of the one that was being trained.
    kept = {name: told for name, told in files(out).items() if not name.endswith(".lock")}
    assert {name.split("/")[1] for name in kept} == {"topk-6-48"}
    for unit in units(store.path, out):
        train_unit(unit)
    for unit in two:
        train_unit(unit)
    assert files(out) == files(two[0].out)
    assert kept.items() < files(out).items()


def test_what_a_killed_save_left_is_swept_away(two):
    leftover = two[0].path.parent / f".{two[0].path.name}.x.partial"
    leftover.mkdir(parents=True)
    (leftover / "cfg.json").write_text("{")
    others = two[1].path.parent / f".{two[1].path.name}.x.partial"
    others.mkdir()
    train_unit(two[0])
    assert not leftover.exists()
    assert others.exists()


def test_what_is_there_is_not_trained_again(two, monkeypatch):
    train_unit(two[0])
    monkeypatch.setattr(grid_module, "train_sae", None)
    train_unit(two[0])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_an_sae_that_is_there_and_has_another_bit_is_refused(two, name):
    unit = two[0]
    train_unit(unit)
    file = unit.path / name
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StorageError, match=f"{name} is missing or damaged"):
        train_unit(unit)
    shutil.rmtree(unit.path)
    with alone(unit.path), pytest.raises(StorageError, match="in use by another run"):
        train_unit(unit)


def test_an_sae_of_another_recipe_or_of_nobody_is_refused(two):
    train_unit(two[0])
    path = two[0].path
    slower = replace(two[0].recipe, training=replace(TRAINING, lr=1e-5))
    with pytest.raises(StorageError, match="was trained otherwise, or on another store"):
        train_unit(replace(two[0], recipe=slower))
    (path / "cfg.json").write_text("{}")
    with pytest.raises(StorageError, match="was trained otherwise"):
        train_unit(two[0])


def test_the_table_has_a_row_for_each_and_says_what_it_was_made_from(two, store, model):
    for unit in two:
        train_unit(unit)
    table = judge(model, two)
    out = two[0].out
    assert table["sae"].to_list() == ["blocks.1.hook_resid_post/topk-6-48", "blocks.1.hook_resid_post/batchtopk-6-48"]
    assert table["architecture"].to_list() == ["topk:6", "batchtopk:6"]
    assert read_table(out / QUALITY_FILE, SAE_QUALITY).equals(table)
    saes = [load_sae(unit.path, device=CPU) for unit in two]
    assert read_provenance(out / QUALITY_FILE).parents == {
        "model": model.digest,
        **{name: sae.digest for name, sae in zip(table["sae"], saes, strict=True)},
    }
    alone = quality(model, saes[0], store, held_out_share=TRAINING.held_out_share)
    assert alone.drop("sae").equals(table[:1].drop("sae"))
    assert made_by(two[0].path) != made_by(two[1].path)
    assert isinstance(table, pl.DataFrame)


def test_only_what_was_trained_and_lies_together_is_judged(two, model, tmp_path):
    with pytest.raises(ModelError, match="no directory at"):
        judge(model, two)
    with pytest.raises(StorageError, match="want those of one"):
        judge(model, [two[0], replace(two[1], out=tmp_path / "elsewhere")])


@pytest.mark.slow
def test_an_sae_of_a_trained_model_stands_for_its_stream(tmp_path):
    model = load(BuiltInModel(name="zero-base"), device=CPU, dtype=torch.float32)
    problems = open_task(task_source("chain"), n_problems=100, seed=0).problems
    traces = trace_table(model.name, sample(model, problems, 6, Decoding(max_new_tokens=64), seed=0))
    read = texts(model, traces, problem_table(problems))
    planned = plan(model, read, (Site(1),), AllTokens())
    captured = fill(
        model,
        read,
        planned,
        tmp_path / "store",
        provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0),
    )
    training = Training(n_tokens=100_000, batch_size=512)
    (unit,) = grid(captured.path, [Site(1)], [TopK(16)], [512], training, tmp_path / "saes", device=CPU)
    train_unit(unit)
    found = judge(model, [unit]).row(0, named=True)
    assert found["explained_variance"] > 0.95
    assert found["ce_recovered_low"] > 0.95
    assert found["ce_ablated"] > found["ce_clean"] + 1
