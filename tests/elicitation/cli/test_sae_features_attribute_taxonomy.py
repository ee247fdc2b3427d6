"""The feature commands: from traces to tables and pages, free when given again, and one line for what can be mended."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import torch

from elicitation.pages.features.tables import TABLES
from lab.models.tiny import tiny_network
from lab.organisms.build import chain_tokenizer
from lab.records.tables import Schema, read_table
from lab.sampling.trace import TRACES
from lab.tasks.chain import ALPHABET
from probes.attribution.contrast import CONTRASTS
from probes.sae.dictionary import load_sae
from probes.tables import (
    CATEGORIES,
    CROSSCODER_QUALITY,
    EFFECTS,
    LATENT_KINDS,
    LATENTS,
    SAE_QUALITY,
    TAXONOMIES,
    TEXT_EFFECTS,
)
from tests.conftest import one_line

ROOT = Path(__file__).parents[3]
TASK = ("--task", "chain:+:1-1")
SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
SAE, TAXONOMY = f"saes/{SITES[1]}/topk-3-32", f"taxonomy/{SITES[1]}"
STEPS = ("--labels", "steps", "--problems", "t.problems.parquet")
SEGMENTS = ("--segments", "steps", "--problems", "t.problems.parquet")


class Chain(NamedTuple):
    """A directory in which all commands ran, one after another, and what each was."""

    directory: Path
    commands: dict[str, tuple[str, ...]]
    """Directory of the results -> the command."""
    printed: dict[str, str]
    """Directory of the results -> what the terminal showed, at 80 columns."""


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def stamps(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def stores(nursery, checkpoints, tmp_path_factory) -> Path:
    """A directory with traces of the tuned model, and stores of both models as they read them."""
    directory = tmp_path_factory.mktemp("chain")
    sampled = ("--n-problems", "25", "--n-samples", "3", "--max-new-tokens", "12", "--out", "t.parquet")
    # Shards of a few texts, so that there is more than one.
    capture = ("capture", "run", "--traces", "t.parquet", "--sites", *SITES, "--positions", "all", "--shard-mib", "0.1")
    for argv in (
        ("sample", "--model", str(checkpoints.tuned), *TASK, *sampled),
        (*capture, "--model", str(checkpoints.base), "--out", "acts-base"),
        (*capture, "--model", str(checkpoints.tuned), "--out", "acts-tuned"),
    ):
        assert nursery.lab(directory, argv) == 0, (directory / "stderr.txt").read_text()
    return directory


def chain_commands(tuned: Path) -> dict[str, tuple[str, ...]]:
    """Directory of the results -> a command, each quick."""
    trained = ("--architectures", "topk:3", "batchtopk:3", "--sizes", "32", "--n-tokens", "4096")
    attribute = ("attribute", "--model", str(tuned), "--sae", SAE, *TASK, "--shard-texts", "8")
    compare = ("sae", "compare", "--pair", "acts-base", "acts-tuned", "--site", SITES[1], "--d-sae", "64", "--k", "4")
    features = ("features", "--sae", SAE, "--store", "acts-base")
    commands = {
        "saes": ("sae", "train", "--store", "acts-base", *trained, "--batch-size", "256", "--held-out-share", "0.3"),
        "effects": (*attribute, "--toward", "T", "--against", "A", "--n-problems", "20"),
        "effects-of-answers": (*attribute, "--traces", "t.parquet", "--n-problems", "25", "--method", "ablation"),
        "features": (*features, "--tuned-store", "acts-tuned", "--effects", "effects", *STEPS),
        "features-alone": (*features, "--n-shown", "3"),
        "taxonomy": ("taxonomy", "--store", "acts-base", *SEGMENTS, "--sizes", "2", "3", "--ks", "1", "--n-seeds", "2"),
        "diff": (*compare, "--n-steps", "20"),
        "diff-beside-placebo": (*compare, "--n-steps", "20", "--placebo", "acts-base", "acts-tuned"),
    }
    return {out: (*command, "--out", out) for out, command in commands.items()}


@pytest.fixture(scope="module")
def chain(nursery, stores, checkpoints) -> Chain:
    commands, printed = chain_commands(checkpoints.tuned), {}
    for out, argv in commands.items():
        status = nursery.lab(stores, argv)
        assert (status, (stores / "stderr.txt").read_text()) == (0, ""), out
        printed[out] = (stores / "stdout.txt").read_text()
    return Chain(stores, commands, printed)


@pytest.mark.parametrize("words", ["sae train", "sae compare", "features", "attribute", "taxonomy"])
def test_the_help_of_every_command_has_an_example_of_itself(lab, words):
    code, shown, complaint = lab(*words.split(), "--help")
    assert (code, complaint) == (0, "")
    assert f"Example: lab {words} --" in " ".join(shown.replace("│", " ").split())


def test_every_command_says_where_its_results_are_within_eighty_columns(chain):
    for out, shown in chain.printed.items():
        where = chain.directory / out
        said = f"page: {where}/features.html" if out.startswith("features") else f"in {where}"
        assert said in shown.splitlines()
        assert [line for line in shown.splitlines() if len(line) > 80 and line != said] == []
        assert "…" not in shown, "a cell that was cut tells nothing"


@pytest.mark.parametrize(
    ("names", "schema"),
    [
        (("saes/quality.parquet",), SAE_QUALITY),
        (("effects/contrasts.parquet", "effects-of-answers/contrasts.parquet"), CONTRASTS),
        (tuple(f"effects/effects/0000{number}.parquet" for number in range(3)), EFFECTS),
        (tuple(f"effects/texts/0000{number}.parquet" for number in range(3)), TEXT_EFFECTS),
        (("taxonomy/quality.parquet",), TAXONOMIES),
        (("taxonomy/categories.parquet",), CATEGORIES),
        (("diff/pair.latents.parquet", "diff-beside-placebo/placebo.latents.parquet"), LATENTS),
        (("diff/pair.quality.parquet", "diff-beside-placebo/placebo.quality.parquet"), CROSSCODER_QUALITY),
        (("diff/kinds.parquet", "diff-beside-placebo/kinds.parquet"), LATENT_KINDS),
    ],
)
def test_tables_have_rows_of_their_declared_schemas(chain, names, schema):
    for name in names:
        assert not read_table(chain.directory / name, schema).is_empty(), name


EMPTY = {
    "features": {"quality", "interventions"},
    "features-alone": {"quality", "interventions", "effects", "differences"},
}


@pytest.mark.parametrize("out", EMPTY)
def test_a_feature_table_is_empty_only_where_its_source_was_not_given(chain, out):
    def is_empty(name: str, schema: Schema) -> bool:
        return read_table(chain.directory / out / f"{name}.parquet", schema).is_empty()

    found = {name for name, schema in TABLES if is_empty(name, schema)}
    # The tiny pair writes no words of reasoning.
    words = {"reason_scores", "label_probes", "label_activations"} if out == "features-alone" else set()
    assert found - words == EMPTY[out]


def test_an_sae_is_trained_for_every_site_and_architecture_and_judged(chain):
    quality = read_table(chain.directory / "saes" / "quality.parquet", SAE_QUALITY)
    names = [f"{site}/{kind}-3-32" for site in SITES for kind in ("topk", "batchtopk")]
    assert quality["sae"].to_list() == names
    for name in names:
        assert load_sae(chain.directory / "saes" / name, device=torch.device("cpu")).d_sae == 32
    for shown in (*SITES, "batchtopk-3-32"):
        assert shown in chain.printed["saes"]


def test_answers_are_weighed_only_in_the_traces_that_state_one(chain):
    traces = read_table(chain.directory / "t.parquet", TRACES)
    stating = traces.filter(pl.col("text").str.contains(r"A\d"))
    contrasts = read_table(chain.directory / "effects-of-answers" / "contrasts.parquet", CONTRASTS)
    assert contrasts["problem_id"].to_list() == stating["problem_id"].to_list()
    assert 0 < len(stating) <= len(traces)


def test_the_page_of_features_names_the_sae_and_the_two_sides(chain):
    page = (chain.directory / "features" / "features.html").read_text(encoding="utf-8")
    assert SAE in page
    assert "features/firing.parquet" in page or "firing.parquet" in page
    assert "lab features --sae" in page


def test_a_placebo_that_is_the_pair_itself_leaves_no_difference(chain):
    kinds = read_table(chain.directory / "diff-beside-placebo" / "kinds.parquet", LATENT_KINDS)
    assert kinds["difference"].abs().max() == 0
    assert kinds["reason"].unique().to_list() == ["ok"]
    alone = read_table(chain.directory / "diff" / "kinds.parquet", LATENT_KINDS)
    assert alone["share"].to_list() == kinds["share"].to_list()
    assert alone["difference"].is_nan().all()
    assert "placebo" in chain.printed["diff"]


def test_every_command_given_again_changes_no_byte(chain, nursery):
    before, written = files(chain.directory), stamps(chain.directory)
    for out, argv in chain.commands.items():
        assert nursery.lab(chain.directory, argv) == 0, (chain.directory / "stderr.txt").read_text()
        again = (chain.directory / "stdout.txt").read_text()
        assert again.splitlines()[-1] == chain.printed[out].splitlines()[-1]
    terminal = {"stdout.txt", "stderr.txt"}
    after = files(chain.directory)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} <= terminal
    # The SAEs are judged again, which takes a second; all else is found.
    touched = {name for name, stamp in stamps(chain.directory).items() if stamp != written[name]}
    assert touched - terminal <= {"saes/quality.parquet"}


OTHERWISE = [
    ("saes", ("--seed", "1"), "was trained otherwise, or on another store: choose another --out"),
    ("saes", ("--store", "acts-tuned"), "was trained otherwise, or on another store: choose another --out"),
    ("effects", ("--method", "ablation"), "effects holds results of another configuration: choose another --out"),
    ("effects", ("--against", "4"), "effects holds results of another configuration"),
    ("features", ("--n-shown", "2"), "features holds results of another configuration: choose another --out"),
    ("features", ("--sae", f"saes/{SITES[1]}/batchtopk-3-32"), "effects is of SAE"),
    ("features-alone", ("--labels", "none"), "features-alone holds results of another configuration"),
    ("features-alone", ("--sae", f"saes/{SITES[0]}/topk-3-32"), "features-alone holds results of another"),
    ("taxonomy", ("--sizes", "2"), "taxonomy holds results of another configuration: choose another --out"),
    ("taxonomy", ("--problems", "OTHER"), "taxonomy holds results of another configuration"),
    ("diff", ("--k", "3"), "diff holds results of another configuration: choose another --out"),
    ("diff", ("--site", SITES[0]), "diff holds results of another configuration"),
]


@pytest.mark.parametrize(("out", "options", "message"), OTHERWISE)
def test_another_configuration_is_refused_and_the_first_one_is_left_as_it_was(
    lab, chain, tmp_path, out, options, message, monkeypatch
):
    monkeypatch.chdir(chain.directory)
    pl.read_parquet("t.problems.parquet").with_columns(family=pl.lit("other")).write_parquet(tmp_path / "other.parquet")
    before = files(chain.directory)
    given = [str(tmp_path / "other.parquet") if word == "OTHER" else word for word in options]
    code, _, complaint = lab(*chain.commands[out], *given)
    assert code == 2
    assert message in one_line(complaint)
    assert files(chain.directory) == before


@pytest.fixture(scope="module")
def wider(tmp_path_factory) -> Path:
    """A model of twice the width."""
    directory = tmp_path_factory.mktemp("wider")
    tiny_network("llama", seed=0, d_model=64, d_vocab=len(chain_tokenizer(ALPHABET))).save_pretrained(directory)
    chain_tokenizer(ALPHABET).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def astray(nursery, chain, checkpoints, wider) -> Path:
    """Stores beside those of the chain: of the tuned model's other texts, and of a wider model."""
    capture = ("capture", "run", "--sites", *SITES, "--positions", "all", "--shard-mib", "0.1")
    other = ("--n-problems", "10", "--max-new-tokens", "12", "--n-samples", "1", "--out", "u.parquet")
    for argv in (
        ("sample", "--model", str(checkpoints.tuned), *TASK, *other),
        (*capture, "--traces", "u.parquet", "--model", str(checkpoints.tuned), "--out", "acts-other"),
        (*capture, "--traces", "t.parquet", "--model", str(wider), "--out", "acts-wider"),
        (*capture, "--traces", "t.parquet", "--model", str(checkpoints.base), "--positions", "ends", "--out", "ends"),
    ):
        assert nursery.lab(chain.directory, argv) == 0, (chain.directory / "stderr.txt").read_text()
    return chain.directory


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("saes", ("--sites", "blocks.7.hook_resid_post"), "has no blocks.7.hook_resid_post"),
        ("saes", ("--sites", "middle"), "no site is called 'middle'"),
        ("saes", ("--architectures", "topk"), "'topk'"),
        ("saes", ("--architectures", "topk:64"), "topk:64 with 32 features: want at least 64"),
        ("saes", ("--n-tokens", "10"), "want at least one whole batch"),
        ("saes", ("--store", "nothing"), "nothing is not a store of activations"),
        ("saes", ("--sizes",), "at least one"),
        ("effects", ("--traces", "t.parquet"), "want either --toward with --against, or --traces"),
        ("effects", ("--toward", "TA"), "'TA'"),
        ("effects", ("--toward", "A"), "on both sides"),
        ("effects", ("--shard-texts", "0"), "shards of 0 texts: want at least 1"),
        ("effects", ("--model", "WIDER"), "32"),
        ("effects", ("--sae", "acts-base"), "is not an SAE in SAELens' format"),
        ("effects", ("--task", "riddles"), "task 'riddles' is not one of"),
        ("effects-of-answers", ("--toward", "T"), "want either --toward with --against, or --traces"),
        ("effects-of-answers", ("--n-problems", "2"), "want the task that was sampled"),
        ("features", ("--store", "acts-wider"), "32"),
        ("features", ("--tuned-store", "acts-other"), "texts"),
        ("features", ("--effects", "saes"), "is no attribution: want a directory that `lab attribute` wrote"),
        ("features", ("--sae", f"saes/{SITES[0]}/topk-3-32"), "attribute with this very SAE"),
        ("features", ("--problems", "acts-base/texts.parquet"), "not a 'problems' table"),
        ("features", ("--n-shown", "0"), "want at least 1"),
        ("features-alone", ("--labels", "steps"), "--labels steps needs the problems of the texts"),
        ("taxonomy", ("--store", "ends"), "capture all tokens (--positions all)"),
        ("taxonomy", ("--sites", "blocks.7.hook_resid_post"), "blocks.7.hook_resid_post"),
        ("taxonomy", ("--sizes", "0"), "0 categories"),
        ("taxonomy", ("--ks", "9"), "k = 9 of 2 categories"),
        ("taxonomy", ("--n-seeds", "0"), "0 fits of each: want at least 1 of all"),
        ("taxonomy", ("--segments", "sentences", "--problems", "nothing.parquet", "--sizes", "900"), "900 categories"),
        ("diff", ("--pair", "acts-base", "acts-other"), "want both captured from the same traces"),
        ("diff", ("--pair", "acts-base", "acts-wider"), "have widths 32 and 64: want models of one d_model"),
        ("diff", ("--pair", "acts-base", "acts-base"), "are of the same model"),
        ("diff", ("--placebo", "acts-base", "acts-other"), "want both captured from the same traces"),
        ("diff", ("--site", "blocks.7.hook_resid_post"), "has no blocks.7.hook_resid_post"),
        ("diff", ("--k", "65"), "want k from 1 to d_sae"),
    ],
)
def test_what_cannot_be_gets_one_line_and_leaves_nothing(
    lab, chain, astray, wider, tmp_path, out, options, message, monkeypatch
):
    monkeypatch.chdir(astray)
    given = [str(wider) if word == "WIDER" else word for word in options]
    code, _, complaint = lab(*chain.commands[out], *given, "--out", str(tmp_path / "runs" / "x"))
    assert code == 2
    assert message in one_line(complaint)
    assert set(tmp_path.rglob("*")) <= {tmp_path / "runs"}


@pytest.mark.parametrize(
    ("out", "word", "n_words", "message"),
    [
        ("effects", "--against", 2, "want either --toward with --against, or --traces"),
        ("effects", "--toward", 2, "want either --toward with --against, or --traces"),
        ("effects-of-answers", "--traces", 2, "want either --toward with --against, or --traces"),
        ("taxonomy", "--problems", 2, "--segments steps needs the problems of the texts"),
        ("features", "--problems", 2, "--labels steps needs the problems of the texts"),
        ("diff", "--site", 2, f"{SITES[0]}, {SITES[1]}: name one of them with --site"),
    ],
)
def test_what_lacks_an_option_gets_one_line_and_leaves_nothing(
    lab, chain, tmp_path, out, word, n_words, message, monkeypatch
):
    monkeypatch.chdir(chain.directory)
    argv = chain.commands[out]
    start = argv.index(word)
    left = (*argv[:start], *argv[start + n_words :])
    code, _, complaint = lab(*left, "--out", str(tmp_path / "runs" / "x"))
    assert code == 2
    assert message in one_line(complaint)
    assert set(tmp_path.rglob("*")) <= {tmp_path / "runs"}


def from_anywhere(chain: Chain, out: str) -> list[str]:
    """The command with the paths of what it reads in full, so that its results may go elsewhere."""
    read = {name: str(chain.directory / name) for name in (SAE, "acts-base")}
    return [read.get(word, word) for word in chain.commands[out]]


@pytest.mark.slow
@pytest.mark.parametrize(("out", "moments"), [("saes", (1, 3, 5, 6, 7)), ("effects", (2, 4, 8, 10, 14, 18))])
def test_work_killed_before_one_change_on_disk_after_another_ends_with_the_same_bytes(
    chain, nursery, tmp_path, out, moments
):
    wanted, argv, ends = files(chain.directory / out), from_anywhere(chain, out), []
    for n_changes in moments:
        directory = tmp_path / str(n_changes)
        ends.append(nursery.lab(directory, argv, die_at=n_changes))
        assert nursery.lab(directory, argv) == 0, (directory / "stderr.txt").read_text()
        assert files(directory / out) == wanted, n_changes
        assert {path.name for path in directory.iterdir()} == {out, "stdout.txt", "stderr.txt"}
    assert set(ends) == {-signal.SIGKILL}


RUN_ALL = """
import json, sys
from elicitation.cli.main import main
for argv in json.loads(sys.argv[1]):
    sys.argv = ["lab", *argv]
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an optional extra: pip install -e .[ray]")
def test_workers_of_ray_write_the_bytes_of_one_process(chain, tmp_path):
    argvs = [[*from_anywhere(chain, out), "--ray"] for out in ("saes", "effects")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-c", RUN_ALL, json.dumps(argvs)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for out in ("saes", "effects"):
        assert files(tmp_path / out) == files(chain.directory / out)


def test_whatever_a_model_reads_reaches_the_page_as_text(chain, nursery, checkpoints, tmp_path):
    hostile, written = tmp_path / "hostile", "<script>alert(7)</script>"
    shutil.copytree(checkpoints.base, hostile)
    file = hostile / "tokenizer.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    words = text["model"]["vocab"]
    words[written] = words.pop("+")
    file.write_text(json.dumps(text), encoding="utf-8")
    capture = ("capture", "run", "--model", str(hostile), "--sites", *SITES, "--positions", "all", "--out", "acts")
    traces = ("--traces", str(chain.directory / "t.parquet"))
    features = ("features", "--sae", str(chain.directory / SAE), "--store", "acts", "--out", "features")
    for argv in ((*capture, *traces), features):
        assert nursery.lab(tmp_path, argv) == 0, (tmp_path / "stderr.txt").read_text()
    page = (tmp_path / "features" / "features.html").read_text(encoding="utf-8")
    assert "alert(7)" in page
    assert written not in page
