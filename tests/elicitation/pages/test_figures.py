import json
from typing import get_args

import numpy as np
import polars as pl
import pytest

from elicitation.pages.kit.canvas import NARROW, WIDE, Canvas
from elicitation.pages.kit.palette import ASSISTED, BASE, DARK, PAPER, RANKED, TUNED, VIOLET
from elicitation.pages.study.figures import LOOKS, arm_styles, curve_figure, guess_figure, ladder_figure
from elicitation.pages.study.tables import Family, ReportTables, rungs
from lab.records.errors import EstimateError

CURVES = {"k": "pass_at_k", "tau": "cover", "family": "families"}
CANVASES = pytest.mark.parametrize("canvas", [WIDE, NARROW], ids=["wide", "narrow"])


@CANVASES
def test_the_ladder_draws_one_dot_an_arm_from_base_to_tuned(tables: ReportTables, canvas: Canvas):
    figure = ladder_figure(tables.ladder, canvas)
    assert len(figure.data) == 11
    assert figure.data[0].x == pytest.approx([30.2])
    assert figure.data[-1].x == pytest.approx([94.6])
    heights = [trace.y[0] for trace in figure.data]
    assert heights == sorted(heights)


def test_interval_arms_reach_exactly_to_the_ends_of_the_interval(tables: ReportTables):
    row = rungs(tables.ladder, "strict").row(3, named=True)
    trace = ladder_figure(tables.ladder).data[3]
    assert trace.x[0] + trace.error_x.array[0] == pytest.approx(100 * row["high"])
    assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(100 * row["low"])


def test_controls_stand_right_under_their_rung(tables: ReportTables):
    arms = rungs(tables.ladder, "strict")["arm"].to_list()
    assert arms[3:6] == ["vector.random", "vector.placebo", "vector"]
    assert arms[6:8] == ["routed.schedule", "routed"]
    assert (arms[0], arms[-1]) == ("base", "tuned")


def test_a_refused_share_is_never_drawn_as_a_number(refused: ReportTables):
    notes = [annotation.text for annotation in ladder_figure(refused.ladder).layout.annotations]
    assert notes.count("refused") == 9
    assert not any("[" in note for note in notes)


def test_a_control_without_its_rung_is_an_error_that_names_it(tables: ReportTables):
    orphaned = tables.ladder.filter(pl.col("arm") != "routed")
    with pytest.raises(EstimateError, match=r"routed\.schedule"):
        ladder_figure(orphaned)


def test_a_ladder_without_both_ends_is_an_error(tables: ReportTables):
    with pytest.raises(EstimateError, match="1 strict rows"):
        ladder_figure(tables.ladder.filter(pl.col("arm") != "tuned"))


@CANVASES
@pytest.mark.parametrize("column", CURVES)
def test_curves_have_a_panel_for_each_measure(tables: ReportTables, canvas: Canvas, column: str):
    frame = getattr(tables, CURVES[column])
    figure = curve_figure(column, frame, canvas, arm_styles(tables.ladder))
    lines = [trace for trace in figure.data if trace.hoverinfo != "skip"]
    assert len(lines) == 10
    assert {trace.xaxis for trace in lines} == {"x", "x2"}
    stacked = figure.layout.xaxis.domain == figure.layout.xaxis2.domain
    assert stacked == (canvas is NARROW)


@CANVASES
@pytest.mark.parametrize("column", CURVES)
def test_an_unchecked_process_leaves_one_panel(tables: ReportTables, canvas: Canvas, column: str):
    frame = getattr(tables, CURVES[column])
    figure = curve_figure(column, frame, canvas, arm_styles(tables.ladder), process_checked=False)
    lines = [trace for trace in figure.data if trace.hoverinfo != "skip"]
    assert len(lines) == 5
    assert {trace.xaxis for trace in lines} == {"x"}
    assert [annotation.text for annotation in figure.layout.annotations] == ["Answer"]


def test_pass_at_k_doubles_along_the_axis(tables: ReportTables):
    figure = curve_figure("k", tables.pass_at_k)
    assert list(figure.data[1].x) == [0, 1, 2, 3, 4, 5]
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "4", "8", "16", "32"]


def test_families_keep_the_order_of_the_table(tables: ReportTables):
    figure = curve_figure("family", tables.families)
    assert list(figure.layout.xaxis.ticktext) == [f"{n} steps" for n in range(3, 9)]


def test_the_guess_floor_is_drawn_from_zero(tables: ReportTables):
    figure = guess_figure(tables.guess)
    assert figure.layout.xaxis.range[0] == 0
    assert len(figure.data) == 3


def test_undefined_values_reach_the_browser_as_gaps(tables: ReportTables):
    gapped = tables.pass_at_k.with_columns(value=pl.when(pl.col("k") == 32).then(float("nan")).otherwise("value"))
    drawn = json.loads(str(curve_figure("k", gapped).to_json(engine="json")))
    assert drawn["data"][1]["y"][-1] is None


def test_a_figure_is_a_pure_function_of_its_table(tables: ReportTables):
    assert ladder_figure(tables.ladder).to_json() == ladder_figure(tables.ladder.clone()).to_json()


@pytest.mark.parametrize("draw", [lambda led: ladder_figure(led.ladder), lambda led: curve_figure("k", led.pass_at_k)])
def test_every_colour_of_a_figure_has_a_dark_twin(tables: ReportTables, draw):
    def colours(value: object, key: str = ""):
        if isinstance(value, dict):
            for name, item in value.items():
                yield from colours(item, name)
        elif isinstance(value, list):
            for item in value:
                yield from colours(item, key)
        elif isinstance(value, str) and key.lower().endswith("color"):
            yield value

    assert set(colours(json.loads(draw(tables).to_json(engine="json")))) <= set(DARK)


def test_every_kind_of_help_has_a_look_that_no_other_has():
    assert set(LOOKS) == set(get_args(Family)) - {"end"}
    assert len(set(LOOKS.values())) == len({style.symbol for style in LOOKS.values()}) == len(LOOKS)


def test_an_arm_looks_like_its_kind_of_help_and_a_control_like_its_rung(tables: ReportTables):
    styles = arm_styles(tables.ladder)
    assert styles["gate"] == LOOKS["tuned router"]
    assert styles["vector.random"].ink == styles["vector"].ink == LOOKS["vector"].ink
    assert (styles["vector.random"].symbol, styles["vector.random"].faint) == ("circle-open", True)


# Machado, Oliveira and Fernandes (2009), severity 1.
SIGHTS = {
    "full": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def linear(ink: str) -> np.ndarray:
    values = np.array([int(ink[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


def luminance(ink: str) -> float:
    return float(linear(ink) @ np.array([0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("night", [False, True], ids=["light", "dark"])
def test_inks_stay_apart_for_every_kind_of_sight(sight: str, night: bool):
    inks = [DARK[ink] if night else ink for ink in (BASE, ASSISTED, TUNED, VIOLET, *RANKED)]
    seen = [cielab(np.array(SIGHTS[sight]) @ linear(ink)) for ink in inks]
    gaps = [float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 15


@pytest.mark.parametrize("night", [False, True], ids=["light", "dark"])
def test_inks_stand_out_from_the_paper_threefold(night: bool):
    paper = luminance(DARK[PAPER] if night else PAPER)
    for ink in (BASE, ASSISTED, TUNED, VIOLET, *RANKED):
        low, high = sorted((paper, luminance(DARK[ink] if night else ink)))
        assert (high + 0.05) / (low + 0.05) >= 2.95
