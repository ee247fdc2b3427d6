"""A store that workers fill has the bytes of one filled here, whoever is killed meanwhile."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from lab.models.load import load
from lab.models.source import BuiltInModel, LocalModel
from lab.records.errors import ModelError, StorageError
from lab.records.scale_out import Here, Ray
from probes.capture.site import CompletionTokens
from probes.storage import fill as fill_module
from probes.storage.fill import reopened
from probes.storage.store import MANIFEST, plan

from .captured import captured
from .conftest import SHARD_BYTES, SITES, Case

SCRIPT = Path(__file__).parent / "captured.py"
WORKER = "ray::_Worker"


@pytest.fixture(scope="module")
def wanted(files, tmp_path_factory) -> dict[str, bytes]:
    """The files of a store that was filled here."""
    return files(captured(tmp_path_factory.mktemp("here") / "store", Here()).path)


def on_ray(test):
    """Marks a test that starts Ray."""
    absent = importlib.util.find_spec("ray") is None
    return pytest.mark.slow(pytest.mark.skipif(absent, reason="ray is an optional extra: pip install -e .[ray]")(test))


def below(process: int, title: str = "") -> dict[psutil.Process, list[str]]:
    """The processes that this one began, or those of them whose command lines begin so, with their command lines."""
    found = {}
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = child.cmdline()
            if "".join(line).startswith(title):
                found[child] = line
    return found


def folders(process: int) -> set[str]:
    """Where Ray writes, for this process."""
    return set(re.findall(r"/tmp/lab-\w+", " ".join(word for line in below(process).values() for word in line)))


@on_ray
def test_two_workers_write_the_bytes_of_one_process_though_one_is_killed(wanted, files, tmp_path, capfd):
    me, told, killed, written = os.getpid(), [], [], set()
    # Other tests of this process may have left workers of theirs.
    before = set(below(me))

    def killing(n_rows: int, total: int) -> None:
        told.append((n_rows, total))
        if n_rows and not killed:
            written.update(folders(me))
            killed.extend(list(below(me, WORKER))[:1])
            for worker in killed:
                worker.kill()

    store = captured(tmp_path / "store", Ray(n_workers=2), killing)
    assert killed
    assert files(store.path) == wanted
    assert sum(n_rows for n_rows, _ in told) == store.n_rows
    assert {total for _, total in told} == {store.n_rows}
    # Ray goes as it came, and says nothing.
    assert psutil.wait_procs(set(below(me)) - before, timeout=30)[1] == []
    assert [Path(folder).exists() for folder in written] == [False]
    assert "ray" not in "".join(capfd.readouterr())


@on_ray
def test_a_killed_capture_on_ray_goes_on_here_and_ends_with_the_same_bytes(wanted, files, tmp_path):
    out = tmp_path / "store"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[3])}
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(out)], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("shards/*.safetensors")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        crew, left = below(process.pid, WORKER), folders(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert crew
    assert psutil.wait_procs(crew, timeout=30)[1] == []
    assert 0 < len(list(out.glob("shards/*.safetensors"))) < sum(name.startswith("shards/") for name in wanted)
    assert files(captured(out, Here()).path) == wanted
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_finds_the_model_and_the_store_from_another_directory(case, tmp_path, files, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    case.model.network.save_pretrained(here / "model")
    case.model.tokenizer.save_pretrained(here / "model")
    monkeypatch.chdir(here)
    model = load(LocalModel(path=Path("model")), device=torch.device("cpu"), dtype=torch.float32)
    local = Case(model, case.texts, plan(model, case.texts, SITES, CompletionTokens(), shard_bytes=SHARD_BYTES))
    wanted = files(local.fill(Path("wanted")).path)

    def map_elsewhere(prepare, shards, on, **_):
        monkeypatch.chdir(elsewhere)
        work = prepare()
        for shard in shards:
            work(shard)
        monkeypatch.chdir(here)

    monkeypatch.setattr(fill_module, "map_shards", map_elsewhere)
    assert files(local.fill(Path("came"), on=Ray()).path) == wanted


def test_a_model_that_workers_cannot_find_is_refused_before_anything_is_written(case, tmp_path):
    with pytest.raises(ModelError, match="no model 'tiny-llama-5'"):
        case.fill(tmp_path / "store", on=Ray())
    assert not (tmp_path / "store").exists()


def test_a_worker_that_finds_another_model_refuses_it(store):
    with pytest.raises(
        StorageError, match=r"made from tiny-llama-5 with digest .*, and zero-base has .*: want that very"
    ):
        reopened(store.path, BuiltInModel(name="zero-base"))


def test_shards_that_workers_wrote_where_they_alone_see_them_are_missed(case, tmp_path, monkeypatch):
    monkeypatch.setattr(fill_module, "write_shard", lambda *_: None)
    message = r"shards/00000\.safetensors is not here, though a worker wrote it: want --out where all machines"
    with pytest.raises(StorageError, match=message):
        case.fill(tmp_path / "store")
    assert '"files": {}' in (tmp_path / "store" / MANIFEST).read_text()
