"""Shards: the attribution of all texts at once, cut into files, with the same bytes however often it was killed."""

import os
import signal
import subprocess
import sys
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError, SiteError, StorageError
from lab.records.provenance import provenance
from lab.records.tables import read_provenance
from probes.attribution.effects import Ablation, Gradient, Integrated, attribute
from probes.attribution.shards import attribute_shards, attribution_plan, stored_effects, write_shard
from probes.capture.site import Site
from probes.tables import EFFECTS

from .conftest import MadeSae, made_contrasts

N_TEXTS, SHARD_TEXTS = 8, 3


class Case:
    """What is attributed, and how a run is given its shards."""

    def __init__(self, method=Gradient(), n_texts=N_TEXTS):  # noqa: B008 -- a frozen value
        self.model, self.sae = tiny_model("llama", seed=5), MadeSae()(Site(0))
        self.contrasts = made_contrasts(n_texts)
        self.plan = attribution_plan(self.model, self.sae, self.contrasts, method, batch=2, shard_texts=SHARD_TEXTS)
        self.made_by = provenance("attribution", self.plan, {}, device="cpu", dtype="float32", seed=0)
        self.write = partial(write_shard, self.model, self.sae, self.plan, self.made_by)

    def run(self, shards):
        for shard in shards:
            self.write(shard)

    def attribute(self, out, run=None):
        return attribute_shards(out, "effects", self.plan, self.contrasts, self.made_by, run or self.run)


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """A run that was never stopped."""
    return case.attribute(tmp_path_factory.mktemp("whole"))


def test_effects_of_other_columns_are_refused(whole, tmp_path):
    file = tmp_path / "effects" / "00000.parquet"
    file.parent.mkdir()
    pl.read_parquet(whole.path / "effects" / file.name).drop("position").write_parquet(file)
    with pytest.raises(StorageError, match=r"not a .* table: position came as"):
        stored_effects(tmp_path)


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_the_shards_together_are_the_attribution_of_all_texts(case, whole):
    stored = EFFECTS.checked(stored_effects(whole.path).collect())
    wanted = attribute(case.model, case.sae, case.contrasts, Gradient(), batch=2).effects
    assert stored.drop("activation", "effect").equals(wanted.drop("activation", "effect"))
    np.testing.assert_allclose(stored["effect"], wanted["effect"], atol=1e-4)
    assert set(files(whole.path)) == {
        "plan.json",
        "contrasts.parquet",
        "stage.json",
        *[f"{kind}/{number:05d}.parquet" for kind in ("effects", "texts") for number in range(3)],
    }
    assert read_provenance(whole.path / "texts" / "00002.parquet") == case.made_by
    counted = pl.read_parquet(whole.path / "texts" / "00002.parquet")["text"]
    assert counted.to_list() == [6, 7]


@pytest.mark.parametrize("n_written", range(4))
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(case, whole, n_written, tmp_path):
    done = []

    def stopping(shards):
        for shard in shards:
            if len(done) == n_written:
                raise KeyboardInterrupt
            case.write(shard)
            done.append(shard.number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.attribute(tmp_path, stopping)
    # What a kill between the two files of a shard, and inside a write, leaves.
    work = tmp_path / ".work" / "effects"
    if n_written:
        (work / "texts" / "00000.parquet").unlink()
        (work / "effects" / ".00000.parquet.x.partial").write_text("half")
    asked = []
    resumed = case.attribute(tmp_path, lambda shards: (asked.extend(shards), case.run(shards)))
    assert files(resumed.path) == files(whole.path)
    assert [shard.number for shard in asked] == [number for number in range(3) if not 0 < number < n_written]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.probes.attribution.test_shards import Case

left, plain = int(sys.argv[2]), Path.replace

def replace(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, target)

Path.replace = replace
Case().attribute(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_between_the_files_of_a_shard_ends_with_the_same_bytes(case, whole, tmp_path):
    root = Path(__file__).parents[3]
    # The stage's owner, the plan and the contrasts, a whole shard, and the first file of the next.
    command = [sys.executable, "-c", KILLED, str(tmp_path), "6"]
    ended = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    work = tmp_path / ".work" / "effects"
    assert {name for name in files(work) if "0" in name and "partial" not in name} == {
        "effects/00000.parquet",
        "texts/00000.parquet",
        "effects/00001.parquet",
    }
    assert files(case.attribute(tmp_path).path) == files(whole.path)


def test_shards_may_be_done_in_any_order_and_a_finished_run_is_only_read(case, whole, tmp_path):
    shuffled = case.attribute(tmp_path, lambda shards: case.run(reversed(shards)))
    assert files(shuffled.path) == files(whole.path)
    assert case.attribute(tmp_path, lambda _: pytest.fail("there is nothing to do")) == shuffled


def test_a_shard_is_a_value_that_can_be_sent_elsewhere(case, tmp_path):
    seen = []
    case.attribute(tmp_path, lambda shards: (seen.extend(shards), case.run(shards)))
    assert ForkingPickler.loads(ForkingPickler.dumps(seen)) == seen
    assert [(shard.first_text, shard.n_texts) for shard in seen] == [(0, 3), (3, 3), (6, 2)]


def test_a_directory_of_another_plan_is_refused(case, whole, tmp_path):
    other = Case(Integrated(2))
    with pytest.raises(StorageError, match="holds results of another configuration: choose another --out or delete"):
        attribute_shards(whole.path.parent, "effects", other.plan, other.contrasts, other.made_by, other.run)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.attribute(tmp_path, stop)
    with pytest.raises(StorageError, match="holds unfinished work of another configuration"):
        other.attribute(tmp_path)


def test_a_damaged_file_is_found(case, tmp_path):
    done = case.attribute(tmp_path)
    file = done.path / "effects" / "00001.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"00001\.parquet is missing or damaged"):
        case.attribute(tmp_path)


def test_a_run_that_leaves_shards_out_is_not_finished(case, tmp_path):
    with pytest.raises(StorageError, match=r"00001\.parquet was not written, one of 2 shards: run it again"):
        case.attribute(tmp_path, lambda shards: case.run(shards[:1]))
    assert not (tmp_path / "effects").exists()


def test_another_model_or_sae_than_the_plans_is_refused(case, tmp_path):
    other = MadeSae()(Site(0), seed=1)
    with pytest.raises(StorageError, match=f"made-1 have digests {case.model.digest} and {other.digest}, and .* with"):
        case.attribute(tmp_path, lambda shards: write_shard(case.model, other, case.plan, case.made_by, shards[0]))


def test_a_plan_is_checked_before_any_work(case):
    with pytest.raises(EstimateError, match="shards of 0 texts: want at least 1"):
        attribution_plan(case.model, case.sae, case.contrasts, Ablation(), shard_texts=0)
    with pytest.raises(SiteError, match="layer 2 is out of range"):
        attribution_plan(case.model, MadeSae()(Site(2)), case.contrasts, Ablation())
