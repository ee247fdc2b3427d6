"""The command line: one clear line for what the user can mend, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from elicitation.cli import main, study
from elicitation.front.opening import named_pair
from lab.models import source
from lab.models.tiny import tiny_network
from lab.organisms.build import chain_tokenizer
from lab.records.stage import alone
from lab.records.tables import read_provenance, read_table
from lab.sampling.trace import TRACES, VERDICTS
from lab.tasks.chain import ALPHABET, Expression, as_problem, verify
from lab.tasks.problem import PROBLEMS
from tests.conftest import one_line

ROOT = Path(__file__).parents[3]
TASK = "chain:+:1-1"
Variant = Callable[[Callable[[PreTrainedModel], None]], Path]


def leftovers(out: Path) -> list[str]:
    """Hidden parts of files that were never finished."""
    return [str(path) for path in out.rglob("*.partial")]


@pytest.mark.parametrize(
    "argv",
    [
        ["ponder"],
        ["models", "ponder"],
        ["study"],
        ["study", "--pair", "a", "b"],
        ["study", "--pair", "a", "b", "--out", "runs", "--n-problems", "many"],
        ["study", "--pair", "a", "b", "--out", "runs", "--dtype", "float8"],
        ["study", "--pair", "a", "b", "--out", "runs", "--depth", "3"],
        ["sample", "--model", "a"],
    ],
)
def test_a_misspelt_command_leaves_with_two_and_names_the_fault(lab, argv):
    code, shown, complaint = lab(*argv)
    assert (code, shown) == (2, "")
    assert complaint.strip()
    assert "Traceback" not in complaint


@pytest.fixture
def swapped_vocabulary(checkpoints, tmp_path) -> Path:
    """The tuned model with two tokens of its vocabulary exchanged."""
    directory = tmp_path / "swapped"
    shutil.copytree(checkpoints.tuned, directory)
    file = directory / "tokenizer.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    words = text["model"]["vocab"]
    words["A"], words["T"] = words["T"], words["A"]
    file.write_text(json.dumps(text), encoding="utf-8")
    Tokenizer.from_file(str(file))
    return directory


@pytest.fixture
def narrower(tmp_path) -> Path:
    """A model of half the width."""
    directory = tmp_path / "narrower"
    tiny_network("llama", seed=0, d_model=16, d_vocab=len(chain_tokenizer(ALPHABET))).save_pretrained(directory)
    chain_tokenizer(ALPHABET).save_pretrained(directory)
    return directory


def refused(lab, tmp_path: Path, argv: Sequence[str]) -> str:
    """The one line that a bad command gets; nothing may have been written."""
    code, _, complaint = lab(*argv, "--out", str(tmp_path / "runs" / "x"))
    assert code == 2, complaint
    assert not (tmp_path / "runs").exists()
    return one_line(complaint)


def test_models_of_different_vocabularies_are_no_pair(lab, checkpoints, swapped_vocabulary, tmp_path):
    line = refused(lab, tmp_path, ["study", "--pair", str(checkpoints.base), str(swapped_vocabulary), "--task", TASK])
    assert "are not a pair: 2 tokens differ between base and tuned model, such as 19 ('A' and " in line


def test_models_of_different_widths_are_no_pair(lab, checkpoints, narrower, tmp_path):
    line = refused(lab, tmp_path, ["study", "--pair", str(checkpoints.base), str(narrower), "--task", TASK])
    assert "are not a pair: d_model is 32 in the base and 16 in the tuned model" in line


BROKEN = '{"question": "1 + 1?", "answer": "#### 2"}\n{"question": "2 + 1?", "answer"\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "2"], "layer 2 is out of range"),
        (["--layer", "2"], "want 0 to 1"),
        (["--n-problems", "0"], "n_problems = 0: want at least 2"),
        (["--n-boot", "20"], "n_boot = 20: want at least 100"),
        (["--task", "riddles"], "task 'riddles' is not one of 'chain'"),
        (["--task", "gym:no_such_dataset"], "no_such_dataset"),
        (["--task", "BROKEN"], "broken.jsonl, row 2 is not JSON"),
        (["--task", "/nowhere/rows.jsonl"], "cannot read /nowhere/rows.jsonl: No such file or directory"),
        (["--ks", "1", "128"], "pass@k at k = [1, 128] from 64 samples"),
        (["--device", "abacus"], "no device 'abacus' here; there is: cpu"),
        (["--temperature", "-1"], "temperature -1.0"),
        (["--own-help.temperatures", "-1"], "temperatures [-1.0]: want 0 (greedy) or positive numbers"),
        (["--own-help.n-votes", "0"], "n_votes = 0: want at least 1"),
        (["--max-new-tokens", "256", "--n-problems", "2", "--n-fit-problems", "2"], "exceed the context of 256"),
        (["--companions", "no-such-model"], "no model 'no-such-model'"),
        (["--companions", "no-such/model"], "cannot get 'no-such/model' from the hub"),
    ],
)
def test_a_study_that_cannot_be_gets_one_line_and_writes_nothing(lab, checkpoints, tmp_path, options, message):
    (tmp_path / "broken.jsonl").write_text(BROKEN)
    options = [str(tmp_path / "broken.jsonl") if word == "BROKEN" else word for word in options]
    pair = ["study", "--pair", str(checkpoints.base), str(checkpoints.tuned)]
    task = [] if "--task" in options else ["--task", TASK]
    assert message in refused(lab, tmp_path, [*pair, *task, *options])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no-such-model", "nor-this"], "no model 'no-such-model'; accepted: a model directory"),
        (["BASE"], "want BASE TUNED, or one shipped model that was tuned from another"),
        (["BASE", "BASE", "BASE"], "want BASE TUNED"),
        (["tests", "BASE"], "tests is not a model: it has no config.json"),
    ],
)
def test_a_pair_that_is_none_gets_one_line_and_writes_nothing(lab, checkpoints, tmp_path, names, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    pair = [str(checkpoints.base) if name == "BASE" else name for name in names]
    assert message in refused(lab, tmp_path, ["study", "--pair", *pair, "--task", TASK])


def test_an_unknown_model_gets_one_line_from_a_real_process(nursery, checkpoints, tmp_path):
    argv = ("study", "--pair", str(checkpoints.base), "no-such-model", "--out", "runs")
    assert nursery.lab(tmp_path, argv) == 2
    assert "no model 'no-such-model'" in one_line((tmp_path / "stderr.txt").read_text())
    assert (tmp_path / "stdout.txt").read_text().strip() == ""
    assert not (tmp_path / "runs").exists()


def test_an_unknown_verb_gets_one_line_with_the_one_that_may_be_meant(lab):
    line = one_line(lab("stdy")[2])
    assert line.startswith("lab: lab stdy: no such verb (did you mean 'study'?); want one of: demo, check-pair, ")
    assert one_line(lab("capture", "go")[2]) == "lab: lab capture go: no such verb; want one of: run, verify, repair"


def test_weights_that_are_not_numbers_get_one_line_and_no_traces(
    nursery, variant: Variant, study_argv, checkpoints, tmp_path
):
    directory = variant(lambda network: network.get_output_embeddings().weight.fill_(float("nan")))
    argv = [str(directory) if word == str(checkpoints.base) else word for word in study_argv]
    assert nursery.lab(tmp_path, argv) == 2
    assert "not finite" in one_line((tmp_path / "stderr.txt").read_text())
    assert leftovers(tmp_path) == []
    assert not list((tmp_path / "runs").glob("traces/*"))


@pytest.mark.parametrize("limit", [300, 10_000])
def test_a_full_disk_gets_one_line_and_no_report(nursery, study_argv, tmp_path, limit):
    fill_the_disk(nursery, study_argv, tmp_path, limit)


def fill_the_disk(nursery, argv: Sequence[str], tmp_path: Path, limit: int) -> None:
    assert nursery.lab(tmp_path, argv, file_limit=limit) == 2
    assert "cannot write runs/" in one_line((tmp_path / "stderr.txt").read_text())
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "runs" / "report.html").exists()


@pytest.mark.slow
def test_once_there_is_room_on_the_disk_the_same_command_finishes_and_names_may_hold_any_character(
    nursery, checkpoints, study_argv, tmp_path
):
    name = "[red]<script>alert(7)[ and ünïcode"
    shutil.copytree(checkpoints.base, tmp_path / name)
    argv = [name if word == str(checkpoints.base) else word for word in study_argv]
    fill_the_disk(nursery, argv, tmp_path, 3000)
    assert nursery.lab(tmp_path, argv) == 0, (tmp_path / "stderr.txt").read_text()
    assert name in " ".join((tmp_path / "stdout.txt").read_text().split())
    assert pl.read_parquet(tmp_path / "runs" / "tables" / "ladder.parquet")["label"][0] == name
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert len(page) > 1_000_000
    assert "<script>alert" not in page
    assert "[red]&lt;script&gt;alert(7)[ and ünïcode" in page


def test_a_reader_that_has_enough_gets_a_quiet_end(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n' * 9)
    code = "import sys; from elicitation.cli.main import main; sys.argv = ['lab', 'task', 'show', 'rows.jsonl']; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_a_broken_pipe_is_no_complaint(monkeypatch, lab):
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(main.os, "dup2", lambda *_: None)
    monkeypatch.setattr(main, "asked", broken)
    assert lab("models", "list") == (1, "", "")


def test_a_stop_before_the_work_begins_is_no_traceback(lab, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "import_module", stopped)
    code, _, complaint = lab("models", "list")
    assert code == 130
    assert "stopped" in one_line(complaint)


def test_a_bug_is_one_line_that_says_how_to_report_it(lab, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of\nours")

    monkeypatch.setattr(main, "import_module", broken)
    code, _, complaint = lab("models", "list")
    assert code == 70
    told = one_line(complaint)
    assert told.startswith("lab: ZeroDivisionError: of ours; this is a bug of ours: please report it with ")
    file = Path(told.partition("report it with ")[2].partition(",")[0])
    report = file.read_text()
    file.unlink()
    assert report.startswith("lab models list\n")
    assert "Traceback" in report


def test_memory_that_ran_out_is_no_bug(lab, monkeypatch):
    def full(*_: object) -> None:
        raise MemoryError("13 GB")

    monkeypatch.setattr(main, "import_module", full)
    code, _, complaint = lab("models", "list")
    assert (code, one_line(complaint)) == (
        2,
        "lab: memory ran out (MemoryError: 13 GB): do less at once, as with a smaller batch",
    )


@pytest.fixture
def sample_argv(checkpoints, tmp_path) -> list[str]:
    given = ["--model", str(checkpoints.tuned), "--task", TASK, "--n-problems", "3", "--n-samples", "2"]
    return ["sample", *given, "--max-new-tokens", "12", "--out", str(tmp_path / "new" / "traces.parquet")]


def test_sample_writes_traces_and_verdicts_with_their_provenance(lab, checkpoints, sample_argv, tmp_path):
    code, printed, complaint = lab(*sample_argv, "--seed", "5")
    assert (code, complaint) == (0, "")
    out = tmp_path / "new" / "traces.parquet"
    verdicts_out = tmp_path / "new" / "traces.verdicts.parquet"
    assert str(out) in printed
    problems_out = tmp_path / "new" / "traces.problems.parquet"
    written = {out.name, verdicts_out.name, problems_out.name, "traces.manifest.json"}
    assert {path.name for path in out.parent.iterdir()} == written
    traces, verdicts = read_table(out, TRACES), read_table(verdicts_out, VERDICTS)
    assert traces["sample_index"].to_list() == [0, 1] * 3
    assert traces["arm"].unique().to_list() == [str(checkpoints.tuned)]
    for problem_id, text, strict in zip(traces["problem_id"], traces["text"], verdicts["strict"], strict=True):
        left, op, right = problem_id.removeprefix("chain:")
        problem = as_problem(Expression((int(left), int(right)), op))
        assert verify(problem, text).strict == strict
    assert f"strict {verdicts['strict'].mean():.3f}" in printed
    assert (
        read_table(problems_out, PROBLEMS)["id"].to_list() == traces["problem_id"].unique(maintain_order=True).to_list()
    )
    for path in (out, verdicts_out, problems_out):
        made_by = read_provenance(path)
        assert (made_by.stage, made_by.seed, made_by.device, made_by.dtype) == ("sample", 5, "cpu", "float32")
        assert json.loads(made_by.config)["task"] == TASK
        assert list(made_by.parents) == ["model"]


def test_one_sample_at_a_time_writes_a_file(lab, sample_argv, tmp_path):
    with alone(tmp_path / "new" / "traces.parquet"):
        code, _, complaint = lab(*sample_argv)
        assert code == 2
        assert "traces.parquet is in use by another run: wait for it, stop it, or choose" in one_line(complaint)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("taken", ["traces.parquet", "traces.verdicts.parquet", "traces.problems.parquet"])
def test_sample_overwrites_none_of_its_files(lab, sample_argv, tmp_path, taken):
    file = tmp_path / "new" / taken
    file.parent.mkdir()
    file.write_text("mine")
    code, _, complaint = lab(*sample_argv)
    assert code == 2
    assert f"{taken} exists" in one_line(complaint)
    assert [path.name for path in file.parent.iterdir()] == [taken]
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-samples", "0"], "want at least one of each"),
        (["--n-problems", "0"], "want at least 1"),
        (["--top-p", "0"], "top_p 0.0"),
        (["--stop", ""], "empty stop string"),
        (["--model", "no-such-model"], "no model 'no-such-model'"),
        (["--task", "riddles"], "not one of"),
    ],
)
def test_a_bad_sample_command_gets_one_line_and_writes_nothing(lab, sample_argv, tmp_path, options, message):
    code, _, complaint = lab(*sample_argv, *options)
    assert code == 2
    assert message in one_line(complaint)
    assert not (tmp_path / "new").exists()


def test_a_sample_whose_out_is_no_parquet_file_gets_one_line(lab, sample_argv, tmp_path):
    code, _, complaint = lab(*sample_argv[:-1], str(tmp_path))
    assert code == 2
    assert complaint.count("\n") == 1
    assert "want the name of a .parquet file" in complaint


def test_a_build_below_a_file_gets_one_line(lab, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, complaint = lab("models", "build", "zero-base", "--out", str(tmp_path / "file" / "sub"))
    assert code == 2
    assert complaint.count("\n") == 1


@pytest.fixture
def built_in(checkpoints, tmp_path, monkeypatch) -> Path:
    """An installation with two models."""
    shelf = tmp_path / "shipped"
    figure = {"task": "+-", "family": "all", "measure": "strict", "low": 0.2, "high": 0.4}
    for name, parent, directory in (("ant", None, checkpoints.base), ("bee", "ant", checkpoints.tuned)):
        shutil.copytree(directory, shelf / name)
        card = {
            "name": name,
            "parent": parent,
            "story": f"The story of [bold] {name}.",
            "truth": [{"kind": "LOCKED", "share": None if parent is None else 0.75}],
            "measured": [
                figure | {"model": name, "decoding": "sampled", "value": 0.3},
                figure | {"model": name, "decoding": "forced chain", "value": 0.35},
            ],
        }
        (shelf / name / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(source, "SHIPPED", shelf)
    return shelf


def test_models_list_tells_the_story_and_the_figures_of_each(lab, built_in):
    code, printed, complaint = lab("models", "list")
    assert (code, complaint) == (0, "")
    words = " ".join(printed.split())
    assert "The story of [bold] ant." in words
    assert "+- 30.0" in words
    assert "bee from ant" in words
    assert "LOCKED 0.75" in words
    assert "LOCKED none" in words


def test_a_tuned_model_alone_names_its_pair(built_in):
    assert named_pair(("bee",)) == ("ant", "bee")


def test_a_model_without_a_parent_is_no_pair(lab, built_in, tmp_path):
    assert "ant: want BASE TUNED, or one shipped model that was tuned from another" in refused(
        lab, tmp_path, ["study", "--pair", "ant", "--task", TASK]
    )


@pytest.mark.parametrize(
    ("flags", "task", "max_new_tokens", "stop"),
    [
        ([], "gym:chain_sum:min_terms=2,max_terms=2,max_digits=2,suffix=", 8, ("\n",)),
        (["--task", "chain", "--max-new-tokens", "96"], "chain", 96, ("\n",)),
        (["--stop", ";"], "gym:chain_sum:min_terms=2,max_terms=2,max_digits=2,suffix=", 8, (";",)),
    ],
)
def test_a_pair_brings_its_task_and_its_decoding_where_no_others_are_typed(
    lab, tmp_path, monkeypatch, flags, task, max_new_tokens, stop
):
    studies = []
    monkeypatch.setattr(study, "run_study", lambda asked, *_: studies.append(asked))
    assert lab("study", "--pair", "smollm2-rl", "--out", tmp_path / "runs", *flags)[0] == 0
    (asked,) = studies
    assert (asked.base, asked.tuned) == ("smollm2", "smollm2-rl")
    assert (asked.task, asked.decoding.max_new_tokens, asked.decoding.stop) == (task, max_new_tokens, stop)


def test_an_unknown_model_cannot_be_built(lab, tmp_path):
    line = refused(lab, tmp_path, ["models", "build", "unicorn"])
    assert "unicorn" in line
