"""`lab capture`: traces to a store, which no kill can change, and one clear line for what the user can mend."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
import torch

from lab.records.provenance import provenance
from lab.records.tables import read_table, write_table
from lab.sampling.trace import TRACES, Trace, trace_table
from lab.tasks.chain import ALPHABET
from lab.tasks.problem import PROBLEMS, Problem, problem_table
from probes.capture.site import Site
from probes.storage.store import open_store, read_rows
from tests.conftest import one_line

N_TEXTS = 300
SITES = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_pre")


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> Path:
    """Traces and their problems as `lab sample` leaves them; the texts are noise."""
    draw = random.Random(0)
    problems = [
        Problem(id=f"p{n}", prompt=f"<{n % 10}+{n // 10}?", answer="", family="", source="") for n in range(100)
    ]
    written = [
        Trace(
            problem_id=f"p{n % 100}",
            sample_index=n // 100,
            tokens=tuple(draw.randrange(1, len(ALPHABET)) for _ in range(draw.randrange(5, 30))),
            logprobs=(),
            routes=(),
            categories=(),
            content_bits=(),
            text="",
            stop="eos",
        )
        for n in range(N_TEXTS)
    ]
    made_by = provenance("sample", {"task": "noise"}, {}, device="cpu", dtype="float32", seed=0)
    folder = tmp_path_factory.mktemp("traces")
    write_table(folder / "traces.parquet", trace_table("noise", written), TRACES, made_by)
    write_table(folder / "traces.problems.parquet", problem_table(problems), PROBLEMS, made_by)
    return folder / "traces.parquet"


@pytest.fixture(scope="module")
def capture_argv(checkpoints, traces) -> tuple[str, ...]:
    """A capture of about six shards, into `acts` of the working directory."""
    sizes = ("--shard-mib", "0.25", "--batch-tokens", "512")
    given = ("--model", str(checkpoints.base), "--traces", str(traces), "--out", "acts")
    return ("capture", "run", *given, *sizes, "--sites", *SITES)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(nursery, capture_argv, tmp_path_factory) -> Path:
    """The directory of a capture that nothing stopped."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert nursery.lab(directory, capture_argv) == 0, (directory / "stderr.txt").read_text()
    return directory / "acts"


@pytest.fixture
def acts(undisturbed, tmp_path) -> Path:
    """A copy of it, the test's own."""
    return shutil.copytree(undisturbed, tmp_path / "acts")


@pytest.mark.slow
def test_a_capture_opens_no_socket_and_leaves_only_whole_files(undisturbed):
    store = open_store(undisturbed)
    assert len(store.portions) >= 5
    assert set(files(undisturbed)) == {"manifest.json", *store.files}
    assert store.n_rows == sum(len(tokens) for tokens in store.index().collect()["token"].to_frame().iter_rows())
    assert store.plan.sites == tuple(map(Site.parse, SITES))


def test_the_tokens_of_a_store_are_those_of_the_traces(undisturbed, traces):
    index = open_store(undisturbed).index().collect()
    found = index.group_by("problem_id", "sample_index", maintain_order=True).agg("token")
    wanted = read_table(traces, TRACES)
    assert found["token"].to_list() == wanted["tokens"].to_list()
    assert found["problem_id"].to_list() == wanted["problem_id"].to_list()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_capture_killed_at_twenty_random_moments_ends_with_the_same_bytes(
    undisturbed, nursery, capture_argv, tmp_path
):
    wanted, draw, states = files(undisturbed), random.Random(0), []

    def begun(directory: Path) -> float:
        """Waits for the first thing on disk; when that was."""
        deadline = time.monotonic() + 60
        while not (directory / "acts").exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        return time.monotonic()

    # How long the work takes here and now: a life begins with imports, before which a kill meets nothing.
    nursery.start(tmp_path / "timed", capture_argv)
    start = begun(tmp_path / "timed")
    assert nursery.answer() == 0
    work = time.monotonic() - start
    for life in range(60):
        directory = tmp_path / str(life)
        process = nursery.start(directory, capture_argv)
        begun(directory)
        time.sleep(draw.uniform(0, work))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        if nursery.answer() == -signal.SIGKILL:
            states.append(len(list((directory / "acts").rglob("*"))))
            assert nursery.lab(directory, capture_argv) == 0, (directory / "stderr.txt").read_text()
            assert files(directory / "acts") == wanted
        if len(states) == 20:
            break
    assert len(states) == 20
    assert len(set(states)) >= 4, states


@pytest.mark.slow
def test_a_capture_killed_before_any_change_on_disk_ends_with_the_same_bytes(
    undisturbed, nursery, capture_argv, tmp_path
):
    wanted, ends = files(undisturbed), []
    # Three changes a file: its directory, its rename, and the removal of what is no longer there.
    for n_changes in range(1, 3 * len(wanted) + 1, 2):
        directory = tmp_path / str(n_changes)
        ends.append(nursery.lab(directory, capture_argv, die_at=n_changes))
        assert nursery.lab(directory, capture_argv) == 0, (directory / "stderr.txt").read_text()
        assert files(directory / "acts") == wanted
    assert set(ends) == {-signal.SIGKILL}


@pytest.mark.slow
def test_a_repair_killed_before_one_change_on_disk_after_another_ends_with_the_same_bytes(
    undisturbed, nursery, acts, tmp_path
):
    for name in ("shards/00001.safetensors", "shards/00003.safetensors", "index/00002.parquet"):
        (acts / name).unlink()
    ends = [nursery.lab(tmp_path, ["capture", "repair", "acts"], die_at=n_changes) for n_changes in range(1, 16, 2)]
    assert ends.count(-signal.SIGKILL) >= 5, ends
    assert nursery.lab(tmp_path, ["capture", "repair", "acts"]) == 0, (tmp_path / "stderr.txt").read_text()
    assert files(acts) == files(undisturbed)


def test_a_full_disk_gets_one_line_and_once_there_is_room_the_same_command_finishes(
    undisturbed, nursery, capture_argv, tmp_path
):
    assert nursery.lab(tmp_path, capture_argv, file_limit=100_000) == 2
    assert "cannot write acts/shards/00000.safetensors" in one_line((tmp_path / "stderr.txt").read_text())
    assert list(tmp_path.rglob("*.partial")) == []
    assert nursery.lab(tmp_path, capture_argv) == 0, (tmp_path / "stderr.txt").read_text()
    assert files(tmp_path / "acts") == files(undisturbed)


def test_the_same_command_again_changes_nothing(nursery, undisturbed, capture_argv):
    stamps = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert nursery.lab(undisturbed.parent, capture_argv) == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == stamps


def test_verify_names_a_flipped_byte_and_repair_mends_that_shard_alone(lab, acts, undisturbed):
    assert lab("capture", "verify", str(acts))[0] == 0
    stamps = {path: path.stat().st_mtime_ns for path in acts.rglob("*") if path.is_file()}
    file = acts / "shards" / "00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    code, _, complaint = lab("capture", "verify", str(acts))
    assert code == 2
    assert f"damaged: shards/00002.safetensors is altered; lab capture repair {acts}" in one_line(complaint)
    code, printed, complaint = lab("capture", "repair", str(acts))
    assert (code, complaint) == (0, "")
    assert "shards/00002.safetensors was altered" in printed
    assert files(acts) == files(undisturbed)
    assert {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp} == {file}
    assert "nothing was damaged" in lab("capture", "repair", str(acts))[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--sites", "blocks.1.hook_mlp_out"],
            "no site is called 'blocks.1.hook_mlp_out': want blocks.N.S with S one of",
        ),
        (["--sites", "blocks.2.hook_resid_post"], "layer 2 is out of range"),
        (["--sites", *SITES, SITES[0]], "want at least one, and none twice"),
        (["--positions", "every"], "no positions 'every': want all, completion, ends"),
        (["--positions", "tokens", "=3"], "'=3' is 2 tokens of this model, want one"),
        (["--positions", "ends", "@"], "no token of 300 texts is among the positions"),
        (["--shard-mib", "0"], "want at least 1 of each"),
        (["--traces", "/nowhere/t.parquet"], "cannot read table 'traces' at /nowhere/t.parquet"),
        (["--problems", "/nowhere/p.parquet"], "cannot read table 'problems' at /nowhere/p.parquet"),
        (["--problems", "TRACES"], "not a 'problems' table"),
        (["--model", "no-such-model"], "no model 'no-such-model'"),
    ],
)
def test_a_capture_that_cannot_be_gets_one_line_and_writes_nothing(
    lab, capture_argv, traces, tmp_path, options, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, complaint = lab(*capture_argv, *[str(traces) if word == "TRACES" else word for word in options])
    assert code == 2
    assert message in one_line(complaint)
    assert list(tmp_path.iterdir()) == []


def test_traces_without_problems_beside_them_ask_for_problems(lab, capture_argv, traces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(traces, tmp_path / "alone.parquet")
    code, _, complaint = lab(*capture_argv, "--traces", "alone.parquet")
    assert code == 2
    assert (
        "no problems at alone.problems.parquet, which hold the prompts of alone.parquet: name --problems" in complaint
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sites", SITES[0]], "sites is blocks.1.hook_resid_post blocks.0.hook_resid_pre there and blocks.1"),
        (["--stored-dtype", "bfloat16"], "stored is float32 there and bfloat16 here"),
        (["--model", "TUNED"], "model_digest is"),
    ],
)
def test_a_store_of_another_configuration_or_model_is_refused(
    lab, capture_argv, acts, checkpoints, tmp_path, options, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = files(acts)
    code, _, complaint = lab(*capture_argv, *[str(checkpoints.tuned) if word == "TUNED" else word for word in options])
    assert code == 2
    assert "acts is a store of another configuration" in one_line(complaint)
    assert message in complaint
    assert files(acts) == before


def test_a_missing_index_and_a_damaged_manifest_are_named(lab, acts, tmp_path):
    (acts / "index" / "00000.parquet").unlink()
    assert "index/00000.parquet is missing" in one_line(lab("capture", "verify", str(acts))[2])
    text = (acts / "manifest.json").read_text()
    (acts / "manifest.json").write_text(text.replace("resid_post", "resid_pozt"))
    for command in ("verify", "repair"):
        code, _, complaint = lab("capture", command, str(acts))
        assert code == 2
        assert "manifest.json is damaged" in one_line(complaint)
    assert "is not a store of activations" in lab("capture", "verify", str(tmp_path / "nothing"))[2]


def test_a_capture_of_a_sample_is_the_activations_of_its_tokens(lab, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampled = ("--task", "chain:+:1-1", "--n-problems", "3", "--n-samples", "2", "--max-new-tokens", "12")
    assert lab("sample", "--model", str(checkpoints.tuned), *sampled, "--out", "t.parquet")[0] == 0
    run = ("capture", "run", "--model", str(checkpoints.base), "--traces", "t.parquet", "--sites", SITES[0])
    code, printed, complaint = lab(*run, "--positions", "ends", ";", ".", "--stored-dtype", "bfloat16", "--out", "a/b")
    assert (code, complaint) == (0, "")
    store = open_store(tmp_path / "a" / "b")
    assert f"{store.n_rows} activations in bfloat16 at each of {SITES[0]}; 1 shards in a/b" in printed
    traces = read_table(tmp_path / "t.parquet", TRACES)
    # The full stop is the end token, and not in the text.
    n_ends = (traces["stop"] == "eos").sum()
    assert store.n_rows == sum(text.count(";") for text in traces["text"]) + n_ends > n_ends > 0
    assert read_rows(store, Site(1), 0).dtype == torch.bfloat16
    assert set(store.made_by.parents) == {"model", "texts", "traces"}
    assert pl.read_parquet(tmp_path / "a" / "b" / "texts.parquet").height == 6
