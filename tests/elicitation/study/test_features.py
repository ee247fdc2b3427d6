"""The feature stages of a study: their tables, their page, and the same bytes however often they are stopped."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from elicitation.pages.features.tables import TABLES
from elicitation.study.config import FeatureSearch
from elicitation.study.run import run
from lab.records.errors import EstimateError, ModelError, SiteError
from lab.records.tables import read_table
from probes.capture import capture as sink
from probes.tables import INTERVENTIONS, SAE_QUALITY

SEARCH = FeatureSearch(layers=(0, 1), expansion=2, k=4, n_tokens=4000, n_texts=8, n_top=2, n_shown=3)
SECTION = "<h2>What single features do</h2>"
STAGES = ("store-base", "store-tuned", "saes", "features")
PAGES = ("report.html", "features.html")
DRAWN = (*PAGES, "README.txt")
"""What is written again by every run, from what is there."""


def files(out: Path) -> dict[str, bytes]:
    """Every file under `out`, hidden ones too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(small_study, tmp_path_factory) -> Path:
    """The directory of a small study that looked for features."""
    out = tmp_path_factory.mktemp("features") / "runs"
    run(replace(small_study, features=SEARCH), out, command="lab study --features.layers 0 1")
    return out


def test_a_study_of_features_has_the_tables_of_a_ledger(finished):
    for name, schema in TABLES:
        table = read_table(finished / "features" / f"{name}.parquet", schema)
        assert not table.is_empty(), name


def test_the_ledger_begins_with_the_sae_that_is_shown_and_has_all_blocks(finished):
    quality = read_table(finished / "features" / "quality.parquet", SAE_QUALITY)
    assert sorted(quality["site"]) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert quality["d_sae"].to_list() == [64, 64]
    trained = read_table(finished / "saes" / "quality.parquet", SAE_QUALITY)
    assert quality.sort("site").equals(trained.sort("site"))
    assert f"<b>{quality['sae'][0]}</b>" in (finished / "features.html").read_text(encoding="utf-8")


def test_interventions_take_features_from_the_one_model_and_give_them_to_the_other(finished):
    found = read_table(finished / "features" / "interventions.parquet", INTERVENTIONS)
    assert found["intervention"].n_unique() == 2
    for _, rows in found.group_by("intervention"):
        assert {"none", "top"} < set(rows["features"])
        assert set(rows.filter(pl.col("features") == "top")["n_features"]) <= set(range(1, SEARCH.n_top + 1))


def test_the_report_has_a_section_of_features_and_the_page_all_of_them(finished):
    report, page = ((finished / name).read_text(encoding="utf-8") for name in PAGES)
    assert SECTION in report
    assert "features/interventions.parquet" in report
    for name, _ in TABLES:
        assert f"features/{name}.parquet" in page
    assert "lab study --features.layers 0 1" in page


@pytest.mark.slow
def test_a_study_that_looks_for_no_features_has_no_page_of_them(small_study, finished, tmp_path):
    run(small_study, tmp_path / "runs", command="lab study")
    assert not {*STAGES, "features.html"} & {path.name for path in (tmp_path / "runs").iterdir()}
    report = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert SECTION not in report
    assert "features/" not in report
    of_features, without = (
        {
            name: data
            for name, data in files(out).items()
            if name.split("/")[0] not in {*STAGES, *DRAWN, "pair", "study.json"}
        }
        for out in (finished, tmp_path / "runs")
    )
    assert of_features == without


def test_a_finished_study_of_features_run_again_is_left_alone(small_study, finished):
    before, told = files(finished), []
    command = "lab study --features.layers 0 1"
    run(replace(small_study, features=SEARCH), finished, command=command, watch=lambda *progress: told.append(progress))
    assert told == []
    assert files(finished) == before


@pytest.mark.slow
def test_a_pair_that_never_differs_has_no_interventions_and_still_a_page(small_study, tmp_path):
    out = tmp_path / "runs"
    run(replace(small_study, tuned=small_study.base, features=SEARCH), out, command="lab study")
    tables = {name: read_table(out / "features" / f"{name}.parquet", schema) for name, schema in TABLES}
    assert {name for name, table in tables.items() if table.is_empty()} == {"interventions", "effects"}
    assert tables["differences"]["difference"].abs().max() == 0
    assert tables["quality"].height == 2
    page = (out / "features.html").read_text(encoding="utf-8")
    assert "<h1>" in page
    assert SECTION in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (1, 1)}, "want none twice"),
        ({"k": 0, "n_top": 0}, r"k = 0, n_top = 0: want at least 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(changes, message):
    with pytest.raises(EstimateError, match=message):
        replace(SEARCH, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0, 2)}, "want 0 to 1"),
        ({"k": 65}, "with 64 features: want at least 65"),
        ({"n_tokens": 9}, "want at least one whole batch"),
    ],
)
def test_a_search_that_the_model_has_no_room_for_is_refused_before_anything_is_written(
    small_study, tmp_path, changes, message
):
    study = replace(small_study, features=replace(SEARCH, **changes))
    with pytest.raises((ModelError, SiteError), match=message):
        run(study, tmp_path / "runs", command="lab study")
    assert not (tmp_path / "runs").exists()


def test_a_search_where_the_first_token_drowns_the_others_is_refused_before_anything_is_written(
    small_study, tmp_path, monkeypatch
):
    monkeypatch.setattr(sink, "MOST", 0.0)
    with pytest.raises(SiteError, match="at every block the stream of a text's first token is more than 0 times"):
        run(replace(small_study, features=SEARCH), tmp_path / "runs", command="lab study")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_feature_stages_killed_before_one_change_on_disk_after_another_end_with_the_same_bytes(
    nursery, study_argv, tmp_path
):
    argv, whole, out = [*study_argv, "--features.layers", "1"], tmp_path / "whole", tmp_path / "killed" / "runs"
    assert nursery.lab(whole, argv) == 0, (whole / "stderr.txt").read_text()
    wanted = files(whole / "runs")
    # All that comes before the feature stages is there, so that the lives are short.
    shutil.copytree(whole / "runs", out, ignore=shutil.ignore_patterns(*STAGES, *DRAWN))
    # Each life goes on from the last one, and the kills fall before every kind of change.
    lives = (2, 5, 7, 10, 4, 12, 8, 15, 11, 20, 26)
    ends = [nursery.lab(out.parent, argv, die_at=n_changes) for n_changes in lives]
    assert ends.count(-signal.SIGKILL) >= 6, (out.parent / "stderr.txt").read_text()
    assert set(ends) <= {-signal.SIGKILL, 0}, (out.parent / "stderr.txt").read_text()
    assert nursery.lab(out.parent, argv) == 0, (out.parent / "stderr.txt").read_text()
    assert files(out) == wanted
