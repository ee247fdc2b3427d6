"""A comparison gives one result, however often it is interrupted, and files that the other commands take."""

import io
import json
from dataclasses import fields, replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from elicitation.cli.export import ExportCommand
from elicitation.cli.main import parse
from elicitation.cli.terminal import Terminal
from elicitation.cli.vectors import VectorsCommand, effects_shown
from elicitation.comparison.config import Comparison, compared
from elicitation.comparison.run import compare
from elicitation.pages.study.tables import LADDER
from elicitation.pages.vectors.tables import (
    VECTOR_DOSES,
    VECTOR_FITS,
    VECTOR_TRANSFERS,
)
from elicitation.study.config import Study
from lab.post_training.trainers import GrpoRun
from lab.records.errors import LabError, ModelError, SiteError, StorageError, TaskError, VectorError
from lab.records.tables import read_table
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import ARMS
from steering.export.tensors import read_vector

FITS = ("mean-first-1", "gradient-1", "gradient-first-1", "policy")


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_fit_has_a_canonical_vector_and_its_controls(finished):
    assert [path.stem for path in sorted((finished / "vectors").glob("*.safetensors"))] == sorted(FITS)
    for name in FITS:
        file = read_vector(finished / "vectors" / f"{name}.safetensors")
        assert file.origin is not None
        assert file.origin.measured_dose == 1.0
        assert file.origin.fitted_on is not None
    table = read_table(finished / "tables" / "fits.parquet", VECTOR_FITS)
    controls = {
        name: set(table.filter(pl.col("fit") == name)["control"].drop_nulls()) for name in table["fit"].unique()
    }
    assert controls["policy"] == {"shuffled-labels"}
    assert all(controls[name] == {"shuffled-labels", "other-task", "placebo-pair"} for name in FITS[:3])
    # A placebo that is the base itself never decides otherwise.
    missing = table.filter(pl.col("reason").is_not_null())
    assert ("gradient-first-1", "placebo-pair") in missing.select("fit", "control").rows()


def test_controls_are_as_long_as_what_they_control_for(finished):
    table = read_table(finished / "tables" / "fits.parquet", VECTOR_FITS).filter(pl.col("site").is_not_null())
    for (_, _), rows in table.group_by(["fit", "site"]):
        assert rows["norm"].max() == pytest.approx(rows["norm"].min(), rel=1e-4)


def test_every_arm_is_run_and_judged_at_either_decoding(finished, comparison):
    ladder = read_table(finished / "tables" / "ladder.parquet", LADDER)
    arms = read_table(finished / "tables" / "arms.parquet", ARMS)
    verdicts = read_table(finished / "tables" / "verdicts.parquet", VERDICTS)
    names = set(arms["arm"])
    assert {"base", "tuned-greedy", "policy.random-vectors", "mean-first-1.other-task-greedy"} <= names
    assert len([name for name in names if name.endswith("-greedy")]) == len(names) / 2
    assert set(ladder["arm"]) == set(verdicts["arm"]) == names
    assert ladder.height == 2 * len(names)
    sizes = dict(verdicts.group_by("arm").len().iter_rows())
    assert sizes["mean-first-1"] == comparison.study.n_problems * comparison.study.n_samples
    assert sizes["mean-first-1-greedy"] == comparison.study.n_problems


def test_gains_and_controls_of_a_greedy_fit_are_those_of_greedy_arms(finished):
    tables = finished / "tables"
    strict = read_table(tables / "verdicts.parquet", VERDICTS).group_by("arm").agg(pl.col("strict").mean())
    rates = dict(strict.iter_rows())
    ladder = read_table(tables / "ladder.parquet", LADDER).filter(pl.col("measure") == "strict")
    assert ladder.height == len(rates)
    for row in ladder.to_dicts():
        base = rates["base-greedy" if row["decoding"] == "greedy" else "base"]
        assert row["accuracy"] == pytest.approx(rates[row["arm"]])
        assert row["gain"] == pytest.approx(rates[row["arm"]] - base)
        controls = [other["accuracy"] for other in ladder.to_dicts() if other["control_of"] == row["arm"]]
        if row["kind"] == "rung":
            assert row["over_control"] == pytest.approx(row["accuracy"] - max(controls))
        else:
            assert not controls


def test_doses_and_transfers_are_of_every_fit(finished):
    doses = read_table(finished / "doses" / "doses.parquet", VECTOR_DOSES)
    assert set(doses["fit"]) == set(FITS)
    assert set(doses["quantity"]) == {"strict", "answer", "incoherent", "kl"}
    transfers = read_table(finished / "transfers" / "transfers.parquet", VECTOR_TRANSFERS)
    assert set(transfers["check"]) == {"removes", "other base"}


def test_the_sampled_arm_of_a_fit_is_what_it_does_at_dose_one(finished):
    doses = read_table(finished / "doses" / "doses.parquet", VECTOR_DOSES)
    ladder = read_table(finished / "tables" / "ladder.parquet", LADDER).filter(pl.col("measure") == "strict")
    gains = dict(ladder.select("arm", "gain").iter_rows())
    plain = dict(ladder.select("arm", "accuracy").iter_rows())["base"]
    for row in doses.filter(pl.col("quantity") == "strict", pl.col("dose") == 1.0).to_dicts():
        assert row["value"] == pytest.approx(plain + gains[row["fit"]])
        assert row["change"] == pytest.approx(gains[row["fit"]])


def test_only_whole_results_are_left_and_the_page_needs_no_network(finished):
    names = list(files(finished))
    assert [name for name in names if "partial" in name or "steps-" in name or "parts" in name or ".work" in name] == []
    page = (finished / "vectors.html").read_text(encoding="utf-8")
    assert page.index("Of the strict gain from") < page.index("At temperature 1</h2>")
    assert "src=" not in page.split("<script>")[0]


def test_a_finished_comparison_run_again_computes_nothing_and_gives_the_same_bytes(finished, comparison):
    before, description = files(finished), []
    compare(comparison, finished, command="lab vectors", watch=lambda *progress: description.append(progress))
    assert description == []
    assert files(finished) == before


@pytest.mark.slow
def test_a_comparison_that_is_stopped_time_and_again_ends_with_the_same_bytes(finished, comparison, tmp_path):
    out, wanted = tmp_path / "runs", files(finished)
    # Inside sampling, inside the policy gradient, and between the pieces of each table.
    for life in (1, 3, 9, 25, 12, 6, 1, 7):
        n_told = 0

        def watch(*_: object, life=life) -> None:
            nonlocal n_told
            n_told += 1
            if n_told >= life:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compare(comparison, out, command="lab vectors", watch=watch)
    compare(comparison, out, command="lab vectors")
    assert files(out) == wanted


def test_the_export_command_takes_the_vectors_and_its_card_tells_the_measured_effect(finished, tmp_path):
    command = ExportCommand(
        vector=finished / "vectors" / "gradient-first-1.safetensors",
        format="safetensors",
        out=tmp_path / "vector.safetensors",
        study=finished,
        arms=("gradient-first-1", "gradient-first-1-greedy"),
    )
    command.run(Terminal([], Console(quiet=True)))
    card = (tmp_path / "vector.safetensors.md").read_text(encoding="utf-8")
    assert "## Measured effect" in card
    assert "gradient on disagreements, block 1, first token, greedy decoding" in card
    assert "random directions, for gradient on disagreements" in card
    ladder = read_table(finished / "tables" / "ladder.parquet", LADDER)
    accuracy = ladder.filter(pl.col("arm") == "gradient-first-1", pl.col("measure") == "strict")["accuracy"][0]
    assert f"{100 * accuracy:.1f} [" in card


def test_another_configuration_is_refused_and_the_first_one_is_left_as_it_was(finished, comparison):
    before = files(finished)
    with pytest.raises(StorageError, match="holds a comparison of another configuration"):
        compare(replace(comparison, study=replace(comparison.study, seed=1)), finished, command="lab vectors")
    assert files(finished) == before


def test_a_pair_of_one_model_gets_reasons_and_refusals_and_a_page(comparison, tmp_path):
    study = replace(comparison.study, base=comparison.study.tuned)
    alike = replace(comparison, study=study, methods=("mean", "gradient-first"), placebo=None, doses=())
    compared = compare(alike, tmp_path / "runs", command="lab vectors")
    reasons = compared.ledger.fits["reason"].drop_nulls().to_list()
    assert any("nothing to learn from" in reason for reason in reasons)
    assert not (compared.vectors / "gradient-first-1.safetensors").exists()
    assert "What could not be fitted" in compared.page.read_text(encoding="utf-8")


def changed(comparison: Comparison, changes: dict) -> Comparison:
    """With `changes` of its own fields or of its study's."""
    shared = {name: value for name, value in changes.items() if name in {part.name for part in fields(Study)}}
    own = {name: value for name, value in changes.items() if name not in shared}
    return replace(comparison, study=replace(comparison.study, **shared), **own)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": "no-such-model"}, ModelError, "no model 'no-such-model'"),
        ({"placebo": "no-such-model"}, ModelError, "no model 'no-such-model'"),
        ({"other_base": "zero-base"}, ModelError, "are not a pair"),
        ({"layers": (7,)}, SiteError, "want 0 to 1"),
        ({"layers": (1, 7)}, SiteError, "want 0 to 1"),
        ({"layers": (1, 1)}, VectorError, "want none twice"),
        ({"methods": ()}, VectorError, "want at least one of mean, mean-first"),
        ({"methods": ("mean", "mean")}, VectorError, "none twice"),
        ({"task": "riddles"}, TaskError, "task 'riddles' is not one of"),
        ({"other_task": "riddles"}, TaskError, "task 'riddles' is not one of"),
        ({"other_skill_base": "zero-base"}, TaskError, "go together"),
        ({"sae": "no-such-sae", "methods": ("sae",)}, ModelError, "no directory at no-such-sae"),
        ({"policy": GrpoRun(n_steps=0)}, VectorError, "policy.n_steps = 0"),
        ({"policy": GrpoRun(n_rollouts=1)}, VectorError, "want at least 2"),
        ({"n_features": 0}, VectorError, "n_features = 0"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(comparison, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        compare(changed(comparison, changes), tmp_path / "runs", command="lab vectors")
    assert isinstance(caught.value, LabError)
    assert not (tmp_path / "runs").exists()


def test_what_a_comparison_does_not_run_of_a_study_is_no_flag_of_its_command(tmp_path, capsys):
    for flag in ("--n-curve-samples", "--temperature", "--reach"):
        with pytest.raises(SystemExit):
            parse(VectorsCommand, ["--pair", "a", "b", "--out", str(tmp_path), flag, "4"], prog="lab vectors")
        assert flag in capsys.readouterr().err


def test_a_comparison_of_nothing_but_decoder_rows_without_an_sae_says_so(comparison, tmp_path):
    with pytest.raises(VectorError, match="--sae"):
        compare(replace(comparison, methods=("sae",)), tmp_path / "runs", command="lab vectors")
    assert not (tmp_path / "runs").exists()


def test_the_command_is_a_configuration_and_its_effects_fit_a_terminal(finished, comparison, tmp_path):
    argv = ["--pair", "a", "b", "--out", str(tmp_path), "--layers", "2", "--policy.n-steps", "7", "--n-samples", "3"]
    asked = parse(VectorsCommand, argv, prog="lab vectors").comparison
    assert (asked.layers, asked.policy.n_steps) == ((2,), 7)
    study = replace(compared(base="", tuned=""), n_samples=3)
    assert asked == Comparison(study=study, layers=(2,), policy=replace(asked.policy, n_steps=7))
    ledger = compare(comparison, finished, command="lab vectors").ledger
    console = Console(width=80, record=True, file=io.StringIO(), markup=False)
    console.print(effects_shown(ledger))
    shown = console.export_text()
    assert "gradient-first-1, greedy" in " ".join(shown.split())
    assert json.loads((finished / "comparison.json").read_text())["study"]["task"] == comparison.study.task
