"""A study gives one result, however often it is interrupted, and touches nothing that is not its own."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from elicitation.pages.study.tables import EXAMPLES, LADDER
from elicitation.study.run import Measured, prepare, problem_stage, report_stage, run
from lab.models.pair_check import PAIR
from lab.records.errors import DecodingError, LabError, ModelError, SiteError, StorageError, TaskError
from lab.records.stage import MARKER, Artefact, claimed
from lab.records.tables import read_provenance, read_table, write_table
from lab.scoring.evidence import ARMS
from lab.tasks.question_rows import Reading


def files(out: Path) -> dict[str, bytes]:
    """Every file under `out`, hidden ones too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def stamps(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(nursery, study_argv, tmp_path_factory) -> dict[str, bytes]:
    """The files of a study that nothing interrupted, made by the command line without any network."""
    directory = tmp_path_factory.mktemp("undisturbed")
    status = nursery.lab(directory, study_argv)
    assert status == 0, (directory / "stderr.txt").read_text()
    assert (directory / "stderr.txt").read_text() == ""
    return files(directory / "runs")


@pytest.fixture(scope="module")
def finished(small_study, tmp_path_factory) -> Path:
    """The directory of a small study that ran in this process."""
    out = tmp_path_factory.mktemp("finished") / "runs"
    run(small_study, out, command="lab study")
    return out


def test_nothing_tells_where_the_results_lie(finished):
    for file in (path for path in finished.rglob("*") if path.is_file()):
        assert str(finished.parent).encode() not in file.read_bytes(), file


def test_a_study_on_local_directories_opens_no_socket_and_leaves_only_whole_results(undisturbed):
    names = list(undisturbed)
    assert "report.html" in names
    assert "tables/ladder.parquet" in names
    assert "vectors/fitted.safetensors" in names
    assert [name for name in names if name.startswith(".") or "partial" in name or "shard" in name] == []


@pytest.mark.slow
def test_a_study_killed_before_one_change_on_disk_after_another_ends_with_the_same_bytes(
    undisturbed, nursery, study_argv, tmp_path
):
    # Each life is a little longer than the last, so the kills fall into every stage and before every kind of change.
    lives = [*range(1, 18), 23, 29, 41, 60, 90, 140, 200]
    ends = [nursery.lab(tmp_path, study_argv, die_at=n_changes) for n_changes in lives]
    assert ends[:20] == [-signal.SIGKILL] * 20, (tmp_path / "stderr.txt").read_text()
    assert set(ends) <= {-signal.SIGKILL, 0}, (tmp_path / "stderr.txt").read_text()
    assert nursery.lab(tmp_path, study_argv) == 0, (tmp_path / "stderr.txt").read_text()
    assert files(tmp_path / "runs") == undisturbed


STAGES = (
    "problems",
    "traces/base",
    "traces/tuned",
    "activations",
    "disagreements",
    "vectors",
    "traces/fitted-always",
    "traces/takeover-scattered",
    "tables",
)


def working(stage: Path) -> Path:
    """Where a stage lies until it is finished."""
    return stage.parent / ".work" / stage.name


@pytest.mark.slow
def test_a_study_killed_whenever_another_stage_begins_ends_with_the_same_bytes(
    undisturbed, nursery, study_argv, tmp_path
):
    out = tmp_path / "runs"
    generator = random.Random(0)
    ends = []
    for stage in STAGES:
        process = nursery.start(tmp_path, study_argv)
        deadline = time.monotonic() + 60
        while not (working(out / stage).exists() or (out / stage).exists()) and time.monotonic() < deadline:
            time.sleep(0.001)
        # Somewhere inside the stage.
        time.sleep(generator.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        ends.append(nursery.answer())
    assert ends.count(-signal.SIGKILL) >= 8, ends
    assert nursery.lab(tmp_path, study_argv) == 0, (tmp_path / "stderr.txt").read_text()
    assert files(out) == undisturbed


def test_a_finished_study_run_again_samples_nothing_and_leaves_its_tables_alone(small_study, finished):
    before, written = files(finished), stamps(finished)
    told: list[tuple[str, int, int]] = []
    again = run(small_study, finished, command="lab study", watch=lambda *progress: told.append(progress))
    assert told == []
    assert files(finished) == before
    assert {name for name, stamp in stamps(finished).items() if stamp != written[name]} == {"README.txt", "report.html"}
    assert again.ledger.ladder.equals(read_table(finished / "tables" / "ladder.parquet", LADDER))


def test_the_ladder_of_a_study_begins_with_the_base_and_ends_with_the_tuned_model(small_study, finished):
    ladder = read_table(finished / "tables" / "ladder.parquet", LADDER).filter(pl.col("measure") == "strict")
    assert ladder["arm"][0] == "base"
    assert ladder["arm"][-1] == "tuned"
    assert ladder["order"].to_list() == list(range(ladder.height))
    assert ladder.filter(pl.col("kind") == "end")["label"].to_list() == [small_study.base, small_study.tuned]
    rungs = ladder.filter(pl.col("kind") == "rung")["arm"].to_list()
    assert set(ladder["control_of"].drop_nulls()) <= set(rungs)


def test_a_study_begins_with_its_pair_and_shows_it_folded(small_study, finished):
    pair = read_table(finished / "pair" / "pair.parquet", PAIR)
    assert pair.row(0) == ("model", small_study.base, small_study.tuned, "ok", "")
    assert "refused" not in pair["verdict"]
    assert not {"memory", "time"} & {*pair["fact"]}, "tables are the same on every machine"
    assert "arms: in step" in pair["fact"]
    page = (finished / "report.html").read_text(encoding="utf-8")
    section = page[page.index(">The pair, before anything ran</h2>") :].partition("</section>")[0]
    assert '<details class="numbers"><summary>All that was compared</summary>' in section
    assert "the same ids of 9 probes" in section
    assert "pair/pair.parquet" in section


def test_the_readme_names_every_part_and_every_arm(small_study, finished):
    text = (finished / "README.txt").read_text(encoding="utf-8")
    assert text.startswith(f"A study of {small_study.base} and {small_study.tuned} on held-out chain")
    named = [
        line.split()[0].rstrip("/") for line in text.splitlines()[2:] if line and not line.startswith(("A ", "To "))
    ]
    listed = [line for line in text.splitlines() if line.startswith("  ")]
    assert len({len(line) - len(line[2:].split(maxsplit=1)[1]) for line in listed if len(line.split()) > 1}) == 1
    parts = {path.name for path in finished.iterdir()} - {"README.txt"}
    assert sorted(named) == sorted([*parts, *(path.name for path in (finished / "traces").iterdir())])
    arms = read_table(finished / "tables" / "arms.parquet", ARMS)
    for arm, label in arms.select("arm", "label").iter_rows():
        assert [line for line in text.splitlines() if line.split() == [arm, *label.removeprefix("+ ").split()]]


def test_a_study_of_another_configuration_is_refused_and_the_first_one_is_left_as_it_was(small_study, finished):
    before = files(finished)
    with pytest.raises(StorageError, match="another configuration"):
        run(replace(small_study, seed=1), finished, command="lab study")
    assert files(finished) == before


def test_a_study_of_a_model_that_has_changed_since_is_refused(nursery, study_argv, checkpoints, variant, tmp_path):
    directory = variant(lambda network: None)
    argv = [str(directory) if word == str(checkpoints.base) else word for word in study_argv]
    assert nursery.lab(tmp_path, argv, die_at=60) == -signal.SIGKILL
    assert (tmp_path / "runs" / "traces" / "base").exists()
    shutil.copy(checkpoints.tuned / "model.safetensors", directory)
    # The dead run's empty locks are taken away; nothing else is touched.
    before = {name: data for name, data in files(tmp_path / "runs").items() if not name.endswith(".lock")}
    assert nursery.lab(tmp_path, argv) == 2
    assert "runs/pair holds results of another configuration" in (tmp_path / "stderr.txt").read_text()
    assert files(tmp_path / "runs") == before


@pytest.mark.slow
def test_a_damaged_table_is_named_and_computed_again_once_its_stage_is_deleted(small_study, finished, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    table = out / "traces" / "tuned" / "traces.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"traces/tuned/traces\.parquet is missing or damaged: delete"):
        run(small_study, out, command="lab study")
    shutil.rmtree(table.parent)
    run(small_study, out, command="lab study")
    assert files(out) == files(finished)


def test_a_directory_that_holds_something_else_is_refused_and_left_as_it_was(small_study, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match="not empty and holds no study"):
        run(small_study, tmp_path, command="lab study")
    assert files(tmp_path) == {"thesis.tex": b"mine"}


def test_an_out_that_is_a_file_is_refused(small_study, tmp_path):
    out = tmp_path / "runs"
    out.write_text("mine")
    with pytest.raises(StorageError, match="runs"):
        run(small_study, out, command="lab study")
    assert out.read_text() == "mine"


@pytest.mark.slow
def test_a_pair_of_one_model_gets_a_report_that_refuses_every_share(small_study, tmp_path):
    finished = run(replace(small_study, base=small_study.tuned), tmp_path / "runs", command="lab study")
    between = finished.ledger.ladder.filter(pl.col("kind") != "end")
    assert set(between["arm"]) == {
        "prompt",
        "temperature",
        "self-consistency",
        "one-vote",
        "cot-decoding",
        "power",
        "power-unmoved",
        "one-branch",
        "base-greedy",
        "mean-first-token",
        "random-mean",
        "tuned-greedy",
        "reranked-greedy",
        "rank2-greedy",
        "scattered-greedy",
        "takeover-disagreement",
        "takeover-scattered",
    }
    assert between["refusal"].null_count() == 0
    assert between["share"].is_nan().all()
    assert "No share can be given" in finished.report.read_text()


def test_two_runs_at_once_do_not_share_a_directory(small_study, tmp_path):
    out = tmp_path / "runs"
    with claimed(out, small_study), pytest.raises(StorageError, match="in use by another run"):
        run(small_study, out, command="lab study")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tuned": "no-such-model"}, ModelError, "no model 'no-such-model'"),
        ({"companions": ("no-such-model",)}, ModelError, "no model 'no-such-model'"),
        ({"layer": 2}, SiteError, "want 0 to 1"),
        ({"layer": -1}, SiteError, "want 0 to 1"),
        ({"task": "riddles"}, TaskError, "task 'riddles' is not one of"),
        ({"task": "chain:^"}, TaskError, "want a non-empty subset"),
        ({"n_problems": 0}, TaskError, "want at least 2"),
        ({"n_problems": 1}, TaskError, "want at least 2"),
        ({"n_problems": 40}, TaskError, "want fewer"),
        ({"device": "abacus"}, ModelError, "no device 'abacus'"),
        ({"decoding": {"max_new_tokens": 300}}, DecodingError, "exceed the context of 256"),
        ({"decoding": {"temperature": -1.0}}, DecodingError, "temperature -1"),
        ({"ks": (1, 5)}, DecodingError, "want 1 <= k <= samples"),
        ({"ks": (0, 1)}, DecodingError, "want 1 <= k <= samples"),
        ({"ks": ()}, DecodingError, "want 1 <= k <= samples"),
        ({"n_samples": 0}, DecodingError, "want at least 1"),
        ({"batch_size": 0}, DecodingError, "want at least 1"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(small_study, tmp_path, changes, error, message):
    def ask() -> None:
        given = dict(changes)
        if "decoding" in given:
            given["decoding"] = replace(small_study.decoding, **given["decoding"])
        run(replace(small_study, **given), tmp_path / "runs", command="lab study")

    with pytest.raises(error, match=message) as caught:
        ask()
    assert isinstance(caught.value, LabError)
    assert not (tmp_path / "runs").exists()


def test_problems_that_were_edited_under_their_old_names_are_not_taken_for_the_old_ones(small_study, tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [json.dumps({"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(40)]
    file.write_text("".join(rows))
    study = replace(small_study, task=str(file), n_problems=3, n_fit_problems=3)
    out = tmp_path / "runs"
    first = problem_stage(prepare(study, out, lambda *_: None))
    assert problem_stage(prepare(study, out, lambda *_: None)) == first
    file.write_text("".join(row.replace("#### ", "#### 1") for row in rows))
    with pytest.raises(StorageError, match="another configuration"):
        problem_stage(prepare(study, out, lambda *_: None))


def test_how_rows_are_read_and_parted_is_told_and_flags_for_rows_want_rows(small_study, tmp_path):
    file, other = tmp_path / "sums.csv", tmp_path / "more.jsonl"
    file.write_text("sum,value\n1 + 1?,2\n2 + 2?,4\n3 + 3?,\n")
    other.write_text(json.dumps({"problem": "1 + 2?", "answer": 3}) + "\n")
    reading = Reading(
        question_column=("sum", "problem"), answer_column=("value", "answer"), skip_bad_rows=True, suffix=""
    )
    study = replace(
        small_study, task=str(file), fit_task=str(other), reading=reading, n_problems=None, n_fit_problems=None
    )
    context = prepare(study, tmp_path / "runs", lambda *_: None)
    assert context.told == (
        f"{file}: 2 problems: question from `sum`, answer from `value`; 1 bad rows left out",
        f"{other}: 1 problems: question from `problem`, answer from `answer`",
        f"2 of 2 problems are held out, 1 of {other} fit vectors",
    )
    assert [problem.prompt for problem in context.fit_task.problems] == ["1 + 2?"]
    with pytest.raises(TaskError, match=r"--suffix and --run-code say how rows are read, and chain:.* has none: leave"):
        prepare(replace(small_study, reading=reading), tmp_path / "runs", lambda *_: None)


def test_whatever_a_model_wrote_reaches_the_report_as_text(small_study, finished, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    path = out / "tables" / "examples.parquet"
    hostile = "<script>alert(7)</script>"
    examples = read_table(path, EXAMPLES).with_columns(
        text=pl.lit(hostile), prompt=pl.lit(hostile), reason=pl.lit(hostile), tokens=pl.lit([hostile])
    )
    examples = examples.with_columns(routes=pl.col("routes").list.head(1), logprobs=pl.col("logprobs").list.head(1))
    write_table(path, examples, EXAMPLES, read_provenance(path))
    (path.parent / MARKER).unlink()
    context = prepare(small_study, out, lambda *_: None)
    stages = {name: Artefact(out / name, "0" * 16) for name in ("tables", "evidence", "estimates")}
    measured = Measured(**stages, features=None, comparisons=None)
    report = report_stage(context, measured, f"lab study --pair {hostile}").report
    page = report.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(7)" in page
