import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from elicitation.calibration.record import AGREEMENT, LEAKS, RECORDS, TRIALS, agreement, records
from elicitation.pages.calibration.figures import (
    FORGETTING,
    KINDS,
    PATH,
    fitted_line,
    forgetting_scatter,
    path_plot,
    share_panels,
)
from elicitation.pages.calibration.page import (
    CalibrationPage,
    alarms_table,
    calibration_answer,
    calibration_summary,
    kinds_table,
    leaks_table,
    published_records,
    refused_list,
    render_calibration,
)
from elicitation.pages.kit.canvas import NARROW, WIDE, Canvas
from elicitation.pages.kit.document import Origin, TableFile
from elicitation.pages.kit.palette import DARK
from elicitation.pages.kit.table import ROOM_FOR_ALL
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, canonical_json
from tests.elicitation.pages.conftest import leak_rows
from tests.elicitation.pages.opened import PAYLOADS, Elements, drawn, obeys_nothing, opened, plain, unlinked
from tests.kinds import one_always

NAN = math.nan
CASES = (
    # name, kind, truth
    ("locked", "LOCKED", 1.0),
    ("mixed-0.25", "MIXED", 0.25),
    ("mixed-0.5", "MIXED", 0.5),
    ("mixed-0.75", "MIXED", 0.75),
    ("taught", "TAUGHT", 0.0),
    ("diluted-0.1", "DILUTED", 1.0),
    ("diluted-0.001", "DILUTED", 1.0),
    ("atoms", "ATOMS", 0.0),
    ("sharpened", "SHARPENED", 1.0),
    ("absent", "ABSENT", NAN),
    ("placebo", "PLACEBO", NAN),
)
SHARES = (
    # estimator, quantity, bias, noise, half width, seconds
    ("E1", "share of the gain on problems that the base solves within reach", 0.02, 0.05, 0.08, 0.0),
    ("E2", "share of the gain within reach of the base", 0.0, 0.025, 0.07, 21.5),
    ("E3", "elicitation efficiency", -0.12, 0.1, 0.06, 21.5),
    ("E5", "share recovered by the best free rung over its control", -0.2, 0.08, 0.07, 340.2),
)


def trial_rows() -> list[dict[str, object]]:
    generator = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for seed in range(3):
        for name, kind, truth in CASES:
            for estimator, quantity, bias, noise, half, seconds in SHARES:
                refusal = None
                if kind in ("PLACEBO", "ABSENT") and not (kind == "ABSENT" and estimator == "E5" and seed == 1):
                    refusal = f"the gap of {0.4 + seed:.1f} points is {0.3 + seed:.1f} standard errors, under five"
                if name == "diluted-0.001" and estimator == "E1":
                    refusal = "the base solved none of 128 samples: nothing to divide by"
                centre = 0.35 if math.isnan(truth) else truth
                value = centre + (bias * (0.3 + centre)) + noise * float(generator.normal())
                rows.append(
                    {
                        "case": f"{name} / {seed}",
                        "kind": kind,
                        "seed": seed,
                        "truth": truth,
                        "truth_low": truth,
                        "truth_high": truth,
                        "estimator": estimator,
                        "quantity": quantity,
                        "value": NAN if refusal else value,
                        "low": NAN if refusal else value - half,
                        "high": NAN if refusal else value + half * 1.2,
                        "refusal": refusal,
                        "replicas_covered": NAN if refusal or math.isnan(truth) else 0.94,
                        "seconds": seconds,
                    }
                )
    return rows


def made(trials: pl.DataFrame) -> CalibrationPage:
    cases = [f"{name} / {seed}" for seed in range(3) for name, *_ in CASES]
    routes = (("base", 0.02), ("one round, 8 samples a problem", 0.31), ("four rounds", 0.52), ("GRPO", 0.83))
    forgetting = [
        {"case": case, "kl": 1.0 + index % 11, "drop": 0.01 * (index % 11) + 0.02 * math.sin(5 * index)}
        for index, case in enumerate(cases)
    ]
    path = [
        {"base": base, "task": "chain:#", "route": route, "value": value * factor, "low": value * factor - 0.02,
         "high": value * factor + 0.03}
        for base, factor in (("world", 1.0), ("diluted-0.01-base", 0.5))
        for route, value in routes
    ]  # fmt: skip
    return CalibrationPage(
        title="How well do the estimators know what they cannot see?",
        trials=trials,
        records=records(trials),
        agreement=agreement(trials),
        forgetting=FORGETTING.frame(forgetting),
        path=PATH.frame(path),
        origin=Origin(
            made_by=Provenance(
                stage="steering.calibrate",
                config=canonical_json({"kind": "Calibration", "seeds": [0, 1, 2]}),
                parents={"organisms": "9d1f5b1f1c2a77de"},
                commit="7df7824c0ffee7df7824c0ffee7df7824c0ffee0",
                dirty=False,
                packages={"torch": "2.13.0", "polars": "2.1.0"},
                device="cpu",
                dtype="float32",
                seed=0,
            ),
            command="lab calibrate --out runs/calibration",
            files=tuple(
                TableFile(path=f"{schema.name}.parquet", schema=schema, n_rows=132, digest="ab12" * 16)
                for schema in (TRIALS, RECORDS, AGREEMENT)
            ),
        ),
        minutes=212.4,
    )


@pytest.fixture(scope="module")
def calibration() -> CalibrationPage:
    return made(TRIALS.frame(trial_rows()))


@pytest.fixture(scope="module")
def uncalibrated() -> CalibrationPage:
    page = made(TRIALS.frame([]))
    return dataclasses.replace(page, forgetting=FORGETTING.frame([]), path=PATH.frame([]))


def spoiled(page: CalibrationPage, payload: str) -> CalibrationPage:
    """The page with `payload` in every place where text can stand, the kind of organism apart."""

    def poisoned(frame: pl.DataFrame) -> pl.DataFrame:
        texts = [name for name, dtype in frame.schema.items() if dtype == pl.String and name != "kind"]
        return frame.with_columns(
            pl.when(pl.col(name).is_not_null()).then(pl.concat_str(pl.lit(payload), name)).alias(name) for name in texts
        )

    odd = poisoned(page.trials.head(1)).with_columns(kind=pl.lit(payload))
    made_by = Provenance(
        stage=payload, config=canonical_json({payload: payload}), parents={payload: payload}, commit=payload,
        dirty=True, packages={payload: payload}, device=payload, dtype=payload, seed=7,
    )  # fmt: skip
    return CalibrationPage(
        title=f"study {payload}", trials=pl.concat([poisoned(page.trials), odd]), records=poisoned(page.records),
        agreement=poisoned(page.agreement), forgetting=poisoned(page.forgetting), path=poisoned(page.path),
        minutes=3.0,
        origin=Origin(
            made_by=made_by, command=payload,
            files=tuple(
                TableFile(path=payload, schema=file.schema, n_rows=1, digest=payload) for file in page.origin.files
            ),
        ),
    )  # fmt: skip


def record(**changes: object) -> dict[str, object]:
    return {
        "estimator": "E2", "quantity": "within reach", "n_trials": 15, "n_refused": 0, "mean_absolute_error": 0.031,
        "worst_error": 0.1, "bias": 0.01, "coverage": 14 / 15, "coverage_replicas": 0.95, "leak": 0.01,
        "n_false_alarms": 0, "n_silent": 6, "seconds": 2.0,
    } | changes  # fmt: skip


def answered(*rows: dict[str, object]) -> str:
    return plain(calibration_answer(RECORDS.frame(list(rows))))


def test_equal_calibrations_give_equal_text(calibration: CalibrationPage):
    assert render_calibration(calibration) == render_calibration(calibration)


def test_sections_of_a_calibration_come_in_reading_order(calibration: CalibrationPage):
    assert re.findall(r"<h2>(.*?)</h2>", render_calibration(calibration)) == [
        "Estimated against true share",
        "The record of each estimator",
        "By kind of organism",
        "Where there is nothing to find",
        "Do the estimators agree?",
        "One round or many",
        "What was forgotten",
        "What it costs",
        "Where these numbers come from",
    ]


def test_a_calibration_without_trials_says_not_calibrated(uncalibrated: CalibrationPage):
    text = render_calibration(uncalibrated)
    assert "Not calibrated: no estimator gave a share" in text
    assert "not calibrated" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["The record of each estimator", "Where these numbers come from"]


def test_a_table_of_another_schema_is_refused(calibration: CalibrationPage):
    with pytest.raises(StorageError, match="path"):
        dataclasses.replace(calibration, path=calibration.forgetting)


def test_the_answer_says_that_the_goal_is_met_only_where_it_is():
    assert answered(record()) == (
        "On 15 trials with a known share, E2 (within reach) errs by 3.1 points on average, its 95 % interval holds the "
        "truth in 93 % of them, and raises no false alarm in 6 trials without a gain to explain: the goal of at most 5 "
        "points and at least 93 % is met."
    )
    assert answered(record(coverage=0.9)).endswith("is met for the error and missed for the coverage.")
    assert answered(record(mean_absolute_error=0.0501)).endswith("is missed for the error and met for the coverage.")
    assert answered(record(mean_absolute_error=0.1, coverage=NAN)).endswith("is missed for both.")
    assert "raises 1 false alarm in 6" in answered(record(n_false_alarms=1))
    assert "93 % of the 12 it answered" in answered(record(n_refused=3))


def test_the_answer_takes_the_estimator_that_meets_the_goal_before_one_that_errs_less():
    sharp = record(estimator="E9", mean_absolute_error=0.01, coverage=0.5)
    assert "E2 (within reach), the best of 2 by these same trials, errs" in answered(sharp, record())


def test_an_estimator_that_mostly_refuses_is_not_the_best():
    timid = record(estimator="E9", mean_absolute_error=0.0, coverage=1.0, n_refused=14)
    assert "E2 (within reach) errs" in answered(timid, record())
    assert "E9 (within reach) errs" in answered(timid)


def test_an_answer_without_any_share_says_not_calibrated():
    assert answered().startswith("Not calibrated")
    assert answered(record(n_refused=15, mean_absolute_error=NAN, coverage=NAN)).startswith("Not calibrated")


@pytest.mark.parametrize("canvas", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_share_has_a_panel_with_the_line_of_no_error(calibration: CalibrationPage, canvas: Canvas):
    figure = share_panels(calibration.trials, canvas)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == len(SHARES)
    assert all(trace.x == trace.y for trace in lines)
    headings = [note.text.replace("<br>", " ") for note in figure.layout.annotations]
    assert headings[1] == "E2: share of the gain within reach of the base"


def test_kinds_outside_the_record_are_drawn_hollow(calibration: CalibrationPage):
    page = calibration.trials.filter(pl.col("estimator") == "E2")
    marks = [trace for trace in share_panels(page).data if trace.mode == "markers"]
    assert [trace.marker.symbol for trace in marks] == [style.symbol for style, _ in KINDS.values()]
    assert [trace.marker.symbol.endswith("-open") for trace in marks] == [False] * 3 + [True] * 3
    assert len({(trace.marker.symbol, trace.marker.color) for trace in marks}) == len(marks) == 6


def test_a_mark_stands_at_its_estimate_near_its_truth(calibration: CalibrationPage):
    chosen = calibration.trials.filter(pl.col("estimator") == "E2", pl.col("kind") == "MIXED")
    trace = share_panels(chosen).data[1]
    assert list(trace.y) == pytest.approx([100 * value for value in chosen.sort("truth", "case")["value"]])
    assert trace.x == pytest.approx([23.4, 25.0, 26.6, 48.4, 50.0, 51.6, 73.4, 75.0, 76.6])


def test_refused_trials_are_listed_with_their_reason_and_not_drawn(calibration: CalibrationPage):
    text = refused_list(calibration.trials)
    assert text.count("<li>") == 3
    assert "<b>diluted-0.001 / 0</b>, E1: the base solved none of 128 samples" in text
    drawn = [hover for trace in share_panels(calibration.trials).data for hover in trace.customdata or ()]
    assert len(drawn) == 9 * 3 * len(SHARES) - 3


def test_a_trial_without_a_true_share_is_named_and_left_out(calibration: CalibrationPage):
    lost = calibration.trials.with_columns(
        truth=pl.when(pl.col("case") == "locked / 1").then(NAN).otherwise(pl.col("truth"))
    )
    assert "brought no gain to have a true share: locked / 1." in refused_list(lost)
    assert share_panels(lost).data[1].customdata is not None
    assert not [hover for trace in share_panels(lost).data for hover in trace.customdata or () if "locked / 1" in hover]
    cells = re.findall(r'data-heading="LOCKED"><div>(.*?)</div>', plain(kinds_table(lost)))
    mine = lost.filter(pl.col("estimator") == "E1", pl.col("kind") == "LOCKED", pl.col("truth") == 1.0)["value"]
    assert cells[:2] == ["100 %", f"{100 * float(mine.to_numpy().mean()):.0f} %"]


def test_the_table_of_kinds_gives_the_mean_share_under_the_true_one(calibration: CalibrationPage):
    text = plain(kinds_table(calibration.trials))
    cells = re.findall(r'data-heading="MIXED"><div>(.*?)</div>', text)
    mine = calibration.trials.filter(pl.col("estimator") == "E1", pl.col("kind") == "MIXED")
    assert cells[:2] == ["50 %", f"{100 * float(mine['value'].to_numpy().mean()):.0f} %"]
    absent = re.findall(r'data-heading="ABSENT"><div>(.*?)</div>', text)
    assert absent[:2] == ["none", 'refused <span class="span">all 3</span>']
    assert '<span class="span">2/3 refused</span>' in absent[-1]


def test_a_false_alarm_is_named_with_its_case_and_refusals_give_their_reasons(calibration: CalibrationPage):
    text = plain(alarms_table(calibration.trials))
    assert text.count("false alarm") == 1
    assert re.search(r'refused 2 of 3<sup>1, 5</sup><br><span class="no">false alarm</span> absent / 1: \d+ %', text)
    assert "<li>placebo / 2: the gap of 2.4 points is 2.3 standard errors, under five</li>" in text


def test_a_negative_share_on_an_absent_skill_is_no_false_alarm(calibration: CalibrationPage):
    row = calibration.trials.filter(pl.col("kind") == "ABSENT", pl.col("refusal").is_null())
    assert "false alarm" not in alarms_table(row.with_columns(value=pl.lit(-0.1)))


def test_the_forgetting_line_is_that_of_hand_arithmetic():
    rows = [{"case": str(kl), "kl": kl, "drop": drop} for kl, drop in ((1.0, 0.1), (2.0, 0.1), (3.0, 0.4))]
    line = fitted_line(FORGETTING.frame([*rows, {"case": "lost", "kl": NAN, "drop": 0.3}]))
    # Means 2 and 0.2; slope (0.1 + 0.2) / 2; residuals 0.05, -0.1, 0.05 against 0.06 in all.
    assert line == pytest.approx((0.15, -0.1, 0.75, 3))


def test_two_cases_or_equal_divergences_give_no_line():
    rows = [{"case": str(drop), "kl": 1.0, "drop": drop} for drop in (0.1, 0.2, 0.3)]
    for frame in (FORGETTING.frame(rows), FORGETTING.frame(rows[:2]), FORGETTING.frame([])):
        assert math.isnan(fitted_line(frame).slope)
    assert len(forgetting_scatter(FORGETTING.frame(rows)).data) == 1


def test_the_path_plot_has_the_first_route_on_top(calibration: CalibrationPage):
    figure = path_plot(calibration.path)
    assert len(figure.data) == 8
    assert figure.data[-1].x == pytest.approx([2.0])


def colours(value: object, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from colours(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from colours(item, key)
    elif isinstance(value, str) and key.lower().endswith("color"):
        yield value


def test_every_colour_of_the_calibration_has_a_dark_twin(calibration: CalibrationPage):
    figures = (
        share_panels(calibration.trials), path_plot(calibration.path), forgetting_scatter(calibration.forgetting)
    )  # fmt: skip
    for figure in figures:
        assert set(colours(json.loads(str(figure.to_json(engine="json"))))) <= set(DARK)


def test_every_calibration_figure_is_named_for_those_who_hear_the_page(calibration: CalibrationPage):
    plots = [at for _, at in Elements(opened(render_calibration(calibration))).found if at.get("role") == "img"]
    assert [at["id"] for at in plots] == ["shares", "path", "forgetting"]
    assert all(at["aria-label"] for at in plots)


def test_the_calibration_page_asks_the_network_for_nothing(calibration: CalibrationPage):
    text = opened(render_calibration(calibration))
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert "@import" not in text
    assert "url(" not in text
    assert not {tag for tag, _ in Elements(text).found} & {"iframe", "object", "embed", "img", "base", "form"}


@pytest.mark.parametrize("payload", one_always(PAYLOADS.values()), ids=PAYLOADS)
def test_hostile_text_makes_no_element_of_a_calibration(calibration: CalibrationPage, payload: str):
    def kinds(text: str) -> set[tuple[str, tuple[str, ...]]]:
        return {(tag, tuple(sorted(attributes))) for tag, attributes in Elements(opened(text)).found}

    assert kinds(render_calibration(spoiled(calibration, payload))) <= kinds(render_calibration(calibration))


def test_hostile_text_runs_nothing_of_a_calibration_in_a_browser(
    calibration: CalibrationPage, dumped_dom: Callable[[str], str]
):
    document = dumped_dom(render_calibration(spoiled(calibration, " ".join(PAYLOADS.values()))))
    assert drawn(document) == ["shares", "path", "forgetting"]
    assert "<title>study &lt;script&gt;" in document
    assert obeys_nothing(document)


def with_published_methods() -> pl.DataFrame:
    """The trials with both published methods on them: far off where little was elicited, one without an interval."""
    rows = trial_rows()
    for row in [row for row in rows if row["estimator"] == "E2" and not math.isnan(float(str(row["truth"])))]:
        value = 0.4 + 0.6 * float(str(row["truth"]))
        for published in ("1", "2"):
            both = row | {"estimator": f"P{published}", "value": value, "seconds": 90.0}
            rows.append(both | {"quantity": f"P{published}, their formula", "low": NAN, "high": NAN})
            rows.append(both | {"quantity": f"P{published}, with interval", "low": value - 0.05, "high": value + 0.05})
    return TRIALS.frame(rows)


def test_published_methods_stand_beside_our_estimators_with_error_coverage_and_leak():
    text = plain(unlinked(render_calibration(made(with_published_methods()))))
    # Off by 0.4 (1 - truth): 0, 30, 20, 10 and 40 points on the five truths.
    assert (
        "<li>P1 (P1, their formula) errs by 20.0 points on average; it gave no interval in 15 trials, and it "
        "finds 40 % where the true share is 0.</li>" in text
    )
    assert text.count('<span class="role">published</span> P1') >= 2
    assert 'data-heading="Interval holds the truth"><div>no interval</div>' in text
    assert "P2: P2, with interval" in text


def test_a_rival_is_never_the_labs_answer():
    exact = record(estimator="P1", quantity="rival P1, with interval", mean_absolute_error=0.0, coverage=1.0)
    assert answered(exact, record()).startswith("On 15 trials with a known share, E2 (within reach) errs")
    assert answered(exact).startswith("Not calibrated")


def test_no_coverage_does_not_meet_the_goal():
    blind = record(estimator="E9", mean_absolute_error=0.0, coverage=NAN)
    assert "E2 (within reach), the best of 2" in answered(blind, record())


def test_published_methods_are_left_out_where_none_was_run():
    assert published_records(RECORDS.frame([record()])) == ""
    assert published_records(RECORDS.frame([record(estimator="P1", n_trials=0)])) == ""


def test_a_rival_that_refused_all_is_said_to_and_stands_alone_without_ours():
    refused = record(estimator="P2", n_refused=15, mean_absolute_error=NAN, coverage=NAN, leak=NAN)
    text = plain(published_records(RECORDS.frame([refused])))
    assert "<li>P2 (within reach) refused all 15 trials.</li>" in text
    assert "the lab's own" not in text
    covered = plain(published_records(RECORDS.frame([record(estimator="P1"), record()])))
    assert "its interval holds the truth in 93 % of 15 trials, and it finds 1 % where" in covered
    assert covered.index("<li>P1") < covered.index("<li>E2")


def shown(table: object, width: int) -> str:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return plain(capture.get())


def test_the_terminal_shows_a_row_for_each_share_and_the_answer(calibration: CalibrationPage):
    wide = shown(calibration_summary(calibration.records), ROOM_FOR_ALL)
    assert all(estimator in wide for estimator, *_ in SHARES)
    assert "replicas" in wide
    assert "the goal of at most 5 points" in " ".join(wide.split())
    narrow = shown(calibration_summary(calibration.records, 80), 80)
    assert "replicas" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_the_terminal_says_not_calibrated_and_obeys_no_markup():
    assert "Not calibrated" in shown(calibration_summary(RECORDS.frame([])), 80)
    odd = RECORDS.frame([record(quantity="[red]x[/red]\x1b[31m", seconds=NAN)])
    assert "[red]x[/red]␛[31m" in shown(calibration_summary(odd), 200)


def test_the_rival_whose_fit_is_a_draw_is_said_to_be_one():
    said = "What P1 reaches depends on how its vectors came out of their fit"
    assert said in published_records(RECORDS.frame([record(estimator="P1"), record()]))
    assert said not in published_records(RECORDS.frame([record(estimator="P2"), record()]))


def test_the_leakiest_help_comes_first_and_is_named():
    text = leaks_table(LEAKS.frame(leak_rows()))
    assert "<p>2 of 6 gain more than 2 points there: takeover, gate.</p>" in text
    assert text.index("takeover</th>") < text.index("gate</th>") < text.index("routed</th>")
    assert text.count("<tr>") == 7


def test_a_calibration_leads_from_leaks_and_forgetting_to_their_tables(calibration: CalibrationPage):
    assert "What each kind of help brings" not in render_calibration(calibration)
    leaks = TableFile(path="leaks.parquet", schema=LEAKS, n_rows=24, digest="ab12" * 16)
    origin = dataclasses.replace(calibration.origin, files=(*calibration.origin.files, leaks))
    text = render_calibration(dataclasses.replace(calibration, leaks=LEAKS.frame(leak_rows()), origin=origin))
    assert "<h2>What each kind of help brings where there is nothing to bring out</h2>" in text
    assert '<a href="#table-leaks">leaks.parquet</a>' in text
    assert '<a href="#table-forgetting">every case</a>' in text
    assert '<details class="numbers" id="table-forgetting">' in text
