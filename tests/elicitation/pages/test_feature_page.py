import dataclasses
import math
import re
from collections.abc import Callable

import polars as pl
import pytest

from elicitation.pages.features.figures import (
    difference_figure,
    effect_figure,
    intervention_figure,
    left_out,
    probe_figure,
    scatter_figure,
)
from elicitation.pages.features.page import FeaturePage, feature_answer, feature_section, render_features
from elicitation.pages.features.sheets import (
    difference_table,
    effect_table,
    feature_cards,
    intervention_table,
    probe_table,
    quality_table,
)
from elicitation.pages.features.tables import (
    METHODS,
    TABLES,
    FeatureNames,
    FeatureTables,
)
from elicitation.pages.kit.canvas import NARROW, WIDE, Canvas
from elicitation.pages.kit.document import Origin, TableFile
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, canonical_json
from tests.elicitation.pages.opened import PAYLOADS, Elements, drawn, kinds, obeys_nothing, opened, plain
from tests.kinds import one_always

NAN = math.nan
N = 24
SILENT = 5
"""A feature that never fires."""
NAMES = FeatureNames(base="zero-base", tuned="zero-rl", towards="T", over="A", behaviour="worked chains")
FIGURES = ["feature-interventions", "feature-effects", "feature-scatter", "feature-differences", "feature-probes"]


def effect_of(feature: int) -> float:
    return 1.5 * math.sin(2.3 * feature + 1)


def intervention(kind: str, features: str, dose: float, rate: float, change: float, half: float = 0.02) -> dict:
    beyond = 0.3 if features in ("frequency_matched", "first_token") else NAN
    return {
        "intervention": kind, "features": features, "n_features": 8, "dose": dose, "active_share": 0.5, "rate": rate,
        "low": rate - half, "high": rate + half, "change": change, "change_low": change - half,
        "change_high": change + half, "beyond": beyond, "beyond_low": beyond - half, "beyond_high": beyond + half,
    }  # fmt: skip


def untouched(row: dict) -> dict:
    """The model that `row` acts on, as it is."""
    return intervention(row["intervention"], "none", 0.0, row["rate"] - row["change"], 0.0) | {"n_features": 0}


INTERVENED = [
    untouched(intervention("ablated in the tuned model", "top", 1.0, 0.124, -0.867)),
    intervention("ablated in the tuned model", "top", 1.0, 0.124, -0.867),
    intervention("ablated in the tuned model", "frequency_matched", 1.0, 0.969, -0.022),
    untouched(intervention("added to the base model", "top", 1.0, 0.783, 0.371)),
    intervention("added to the base model", "top", 1.0, 0.783, 0.371),
    intervention("added to the base model", "frequency_matched", 1.0, 0.419, 0.007),
    intervention("added to the base model", "top", 2.0, 0.951, 0.539),
    intervention("added to the base model", "frequency_matched", 2.0, 0.405, -0.007),
]
PROBES = (("shuffled", 12, 0.51), ("sparse", 12, 0.95), ("sparse", 1, 0.8), ("linear", 64, 0.98))


def rows() -> dict[str, list[dict[str, object]]]:
    alive = [feature for feature in range(N) if feature != SILENT]
    quality = {
        "sae": "saes/2", "site": "resid_post.2", "architecture": "topk", "d_sae": N, "n_rows": 20000,
        "explained_variance": 0.943, "l0": 8.0, "dead_share": 1 / N, "n_texts": 200, "ce_clean": 0.512,
        "ce_spliced": 0.534, "ce_ablated": 1.81, "ce_recovered": 0.983, "ce_recovered_low": 0.979,
        "ce_recovered_high": 0.987, "kl": 0.0213,
    }  # fmt: skip
    firing = [
        {
            "feature": i, "n_tokens": 1000, "n_active": 0 if i == SILENT else 10 + 20 * i,
            "firing_share": 0.0 if i == SILENT else 0.01 + 0.02 * i, "mean_active": NAN if i == SILENT else 1.0 + i,
            "max_active": 0.0 if i == SILENT else 4.0 + i,
        }
        for i in range(N)
    ]  # fmt: skip
    tokens = ("T", " so", "\n", "<|end|>", "", "6")
    return {
        "quality": [quality],
        "interventions": INTERVENED,
        "effects": [
            {
                "feature": i, "method": method, "effect": effect_of(i) * factor, "low": effect_of(i) * factor - 0.05,
                "high": effect_of(i) * factor + 0.06, "n_texts": 30 + i,
            }
            for method, factor in (("gradient", 0.8), ("ablation", 1.0))
            for i in alive
        ],
        "firing": firing,
        "reason_scores": [
            {
                "feature": i, "score": NAN if i == SILENT else 0.001 * i, "inside_share": 0.02, "outside_share": 0.01,
                "entropy": 0.5,
            }
            for i in range(N)
        ],
        "differences": [
            {
                "feature": i, "base_mean": 0.1, "tuned_mean": 0.1 + 0.01 * i, "difference": 0.01 * i,
                "low": 0.01 * i - 0.005, "high": 0.01 * i + 0.005, "effect_size": NAN if i == N - 1 else 0.1 * i,
            }
            for i in range(N)
        ],
        "label_probes": [
            {
                "label": label, "probe": probe, "n_features": n, "features": list(range(n % 64)),
                "auroc": auroc, "low": auroc - 0.01, "high": auroc + 0.01, "f1": 0.7, "n_tokens": 900,
                "n_labelled": 120,
            }
            for label in ("opener", "answer digit")
            for probe, n, auroc in PROBES
        ],
        "label_activations": [
            {
                "feature": i, "label": label, "n_tokens": 50, "mean": mean, "firing_share": 0.4, "auroc": 0.75,
                "auroc_error": 0.0,
            }
            for i in range(N)
            for label, mean in (("opener", 0.8), ("answer digit", 0.2), ("check", NAN))
        ],
        "logit_effects": [
            {"feature": i, "side": side, "rank": rank, "token": rank, "text": text, "effect": sign * (1.5 - 0.2 * rank)}
            for i in range(N)
            for side, sign in (("up", 1), ("down", -1))
            for rank, text in enumerate(tokens)
        ],
        "contexts": [
            {
                "feature": i, "rank": rank, "problem_id": f"chain/{i}", "sample_index": rank, "position": 7,
                "activation": 4.0 + i - rank / 2, "first": 5, "tokens": list(tokens),
                "activations": [0.0, 0.5, 4.0 + i - rank / 2, NAN, 0.0, 1.0],
            }
            for i in alive
            for rank in range(5)
        ],
    }  # fmt: skip


def made(tables: dict[str, list[dict[str, object]]]) -> FeatureTables:
    return FeatureTables(**{name: schema.frame(tables.get(name, [])) for name, schema in TABLES})


def page_of(tables: FeatureTables, names: FeatureNames = NAMES, said: str = "lab") -> FeaturePage:
    made_by = Provenance(
        stage=said, config=canonical_json({said: said}), parents={said: said}, commit=said, dirty=False,
        packages={said: said}, device=said, dtype=said, seed=7,
    )  # fmt: skip
    files = tuple(TableFile(path=said, schema=schema, n_rows=1, digest=said) for _, schema in TABLES)
    origin = Origin(made_by=made_by, command=said, files=files)
    return FeaturePage(title=f"The features of {names.tuned}", names=names, tables=tables, origin=origin)


def without(tables: FeatureTables, *names: str) -> FeatureTables:
    return dataclasses.replace(tables, **{name: getattr(tables, name).clear() for name in names})


def only(*names: str) -> FeatureTables:
    return made({name: table for name, table in rows().items() if name in names})


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def intervals(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]", plain(text))


def intervened(*table: dict) -> str:
    whole = [untouched(table[0]), *table]
    return plain(feature_answer(made({"interventions": whole}), NAMES))


@pytest.fixture(scope="module")
def tables() -> FeatureTables:
    return made(rows())


@pytest.fixture(scope="module")
def text(tables: FeatureTables) -> str:
    return render_features(page_of(tables))


def spoiled(payload: str) -> FeaturePage:
    """The page with `payload` in every place where text of a model or a user can stand."""

    def poisoned(frame: pl.DataFrame) -> pl.DataFrame:
        kinds = {"side", "method", "features", "intervention", "probe"}
        texts = [name for name, dtype in frame.schema.items() if dtype == pl.String and name not in kinds]
        lists = [name for name, dtype in frame.schema.items() if dtype == pl.List(pl.String)]
        told = [pl.concat_str(pl.lit(payload), name).alias(name) for name in texts]
        return frame.with_columns(*told, *(pl.lit([payload] * 6).alias(name) for name in lists))

    clean = made(rows())
    odd = poisoned(clean.label_probes.head(1)).with_columns(probe=pl.lit(payload))
    method = clean.effects.head(3).with_columns(method=pl.lit(payload))
    tables = FeatureTables(**{name: poisoned(getattr(clean, name)) for name, _ in TABLES})
    tables = dataclasses.replace(
        tables,
        label_probes=pl.concat([tables.label_probes, odd]),
        effects=pl.concat([tables.effects, method]),
    )
    names = FeatureNames(base=payload, tuned=payload, towards=payload, over=payload, behaviour=payload)
    return page_of(tables, names, payload)


def test_equal_feature_pages_give_equal_text(tables: FeatureTables, text: str):
    assert render_features(page_of(made(rows()))) == text


def test_sections_of_features_come_in_reading_order(text: str):
    assert headings(text) == [
        "How well the SAE reads the model",
        "Features switched off and on",
        "Which features push where",
        "Rare features and common ones",
        "What tuning changed",
        "Can a few features tell what a token is?",
        "The features one by one",
        "Where these numbers come from",
    ]


@pytest.mark.parametrize(
    ("table", "lost"),
    [
        ("quality", {"How well the SAE reads the model"}),
        ("interventions", {"Features switched off and on"}),
        ("effects", {"Which features push where"}),
        ("firing", {"Rare features and common ones"}),
        ("differences", {"What tuning changed"}),
        ("label_probes", {"Can a few features tell what a token is?"}),
        ("reason_scores logit_effects label_activations contexts", set()),
    ],
)
def test_a_feature_table_without_rows_leaves_its_section_out(
    tables: FeatureTables, text: str, table: str, lost: set[str]
):
    left = headings(render_features(page_of(without(tables, *table.split()))))
    assert set(headings(text)) - set(left) == lost
    assert set(left) <= set(headings(text))


def test_a_page_of_nothing_says_so():
    bare = render_features(page_of(made({})))
    assert "Nothing was measured of the features." in bare
    assert headings(bare) == ["Where these numbers come from"]


def test_a_ledger_refuses_a_feature_table_of_another_schema(tables: FeatureTables):
    with pytest.raises(StorageError, match="feature firing"):
        dataclasses.replace(tables, firing=tables.effects)


def test_the_answer_says_what_acting_on_features_does(tables: FeatureTables):
    assert plain(feature_answer(tables, NAMES)) == (
        "Ablating the 8 features that push most towards T lowers the rate of worked chains in zero-rl from 99.1 % "
        "[97.1, 101.1] to 12.4 % [10.4, 14.4] (with random ones that fire as often it is 96.9 % [94.9, 98.9]); adding "
        "them to zero-base raises it from 41.2 % [39.2, 43.2] to 78.3 % [76.3, 80.3] (with random ones that fire as "
        "often it is 41.9 % [39.9, 43.9])."
    )


def test_numbers_of_the_answer_are_those_of_the_table(tables: FeatureTables):
    table = plain(intervention_table(tables.interventions, NAMES))
    found = re.findall(r"[\d.]+ %|\[[^\]]*\]", plain(feature_answer(tables, NAMES)))
    assert len(found) == 12
    assert all(number in table for number in found)


def test_a_change_is_named_only_where_its_interval_leaves_out_nought():
    def said(change: float) -> str:
        return intervened(intervention("ablated", "top", 1.0, 0.5, change))

    assert " lowers the rate" in said(-0.021)
    assert " raises the rate" in said(0.021)
    assert " does not clearly change the rate" in said(-0.019)
    assert " does not clearly change the rate" in said(0.0)
    assert said(0.0).endswith("(no random ones were tried beside).")


def test_the_dose_of_the_answer_is_fixed_whatever_the_rates():
    weak, strong = intervention("added", "top", 1.5, 0.5, 0.1), intervention("added", "top", 4.0, 0.9, 0.5)
    assert intervened(strong, weak).startswith(
        "Adding the 8 features that push most towards T at dose 1.5 to zero-base raises the rate of worked chains from "
        "40.0 % [38.0, 42.0] to 50.0 %"
    )
    assert "at dose" not in intervened(strong, weak, intervention("added", "top", 1.0, 0.4, 0.0))


def test_one_feature_is_spoken_of_as_one():
    one = intervention("ablated", "top", 1.0, 0.5, -0.1) | {"n_features": 1}
    assert intervened(one).startswith("Ablating the feature that pushes most towards T lowers")


def test_random_features_alone_are_no_finding():
    assert (
        intervened(intervention("ablated", "frequency_matched", 1.0, 0.5, -0.1))
        == "Only random features were acted on."
    )


def test_without_interventions_the_answer_says_what_was_measured(tables: FeatureTables):
    strongest = max((i for i in range(N) if i != SILENT), key=lambda i: abs(effect_of(i)))
    unacted = without(tables, "interventions")
    said = plain(feature_answer(unacted, NAMES))
    assert said.startswith(f"Of 24 features, feature {strongest} pushes hardest, towards A: −1.")
    assert said.endswith("by ablation; no feature was acted on while a model wrote.")
    number, span = re.findall(r"−[\d.]+ nats|\[.*?\]", said)
    table = plain(effect_table(unacted))
    assert number.removesuffix(" nats") in table
    assert span in table
    changed = plain(feature_answer(only("differences"), NAMES))
    assert changed.startswith("Of 24 features, feature 23 changed most from zero-base to zero-rl: its mean activation ")
    assert intervals(changed)[0] in plain(difference_table(only("differences")))
    assert "feature 23 has the highest ReasonScore, 0.023" in feature_answer(only("reason_scores"), NAMES)
    assert "keep 98.3 % [97.9, 98.7] of what" in plain(feature_answer(only("quality"), NAMES))


def test_every_number_of_a_table_that_has_an_interval_shows_it(tables: FeatureTables):
    assert len(intervals(intervention_table(tables.interventions, NAMES))) == sum(
        {"none": 1, "top": 2, "frequency_matched": 3}[row["features"]] for row in INTERVENED
    )
    assert len(intervals(effect_table(tables))) == 2 * 12
    assert len(intervals(difference_table(tables))) == 12
    assert len(intervals(probe_table(tables.label_probes))) == tables.label_probes.height
    assert intervals(quality_table(tables.quality)) == ["[97.9, 98.7]"]


@pytest.mark.parametrize("canvas", [WIDE, NARROW], ids=["wide", "narrow"])
def test_each_intervention_is_drawn_at_its_rate_under_its_model(tables: FeatureTables, canvas: Canvas):
    figure = intervention_figure(tables.interventions, NAMES, canvas)
    drawn = [trace.x[0] for trace in figure.data][::-1]
    assert drawn == pytest.approx([99.1, 12.4, 96.9, 41.2, 78.3, 41.9, 95.1, 40.5])
    lines = {round(line.x0, 1): (line.y0, line.y1) for line in figure.layout.shapes}
    tops = [trace.y[0] for trace in figure.data][::-1]
    assert lines == {99.1: (tops[2], tops[0]), 41.2: (tops[7], tops[3])}


def test_marks_of_effects_and_differences_carry_their_intervals(tables: FeatureTables):
    for figure in (effect_figure(tables, NAMES, WIDE), difference_figure(tables, WIDE)):
        assert len(figure.data) == 12
        assert all(trace.error_x.array[0] > 0 and trace.error_x.arrayminus[0] > 0 for trace in figure.data)
        assert [trace.x[0] for trace in figure.data] == sorted(trace.x[0] for trace in figure.data)


def test_the_probes_drawn_are_the_widest_of_each_kind(tables: FeatureTables):
    hovers = [trace.customdata[0] for trace in probe_figure(tables.label_probes, WIDE).data][::-1]
    assert [plain(hover) for hover in hovers[:3]] == [
        "opener · the whole stream: 0.980 [0.970, 0.990]",
        "opener · 12 features: 0.950 [0.940, 0.960]",
        "opener · shuffled control: 0.510 [0.500, 0.520]",
    ]
    assert len(hovers) == 6


def test_the_scatter_fills_the_marks_of_features_with_a_card(tables: FeatureTables):
    shown = tables.shown(3)
    hollow, filled = scatter_figure(tables, NAMES, shown, WIDE).data
    assert [str(feature) for feature in shown] == list(filled.text)
    assert len(hollow.x) + len(filled.x) == N - 1
    assert list(filled.x) == pytest.approx([100 * (0.01 + 0.02 * feature) for feature in shown])
    assert list(filled.y) == pytest.approx([effect_of(feature) for feature in shown])
    assert "Not drawn: 1 that never fire." in left_out(tables)


def test_without_effects_the_scatter_shows_reason_scores(tables: FeatureTables):
    hollow, _ = scatter_figure(without(tables, "effects"), NAMES, [], WIDE).data
    assert "feature 23: ReasonScore 0.023, fires at 47.00\u202f% of tokens" in hollow.customdata


def test_effects_by_the_exact_methods_come_first(tables: FeatureTables):
    exact = tables.effects.filter(pl.col("method") == "ablation")
    by = {method: exact.with_columns(method=pl.lit(method)) for method in METHODS}
    assert METHODS[:2] == ("ablation", "joint ablation")
    for place in range(len(METHODS)):
        there = dataclasses.replace(tables, effects=pl.concat([by[method] for method in reversed(METHODS[place:])]))
        assert set(there.main_effects["method"]) == {METHODS[place]}
    joint = dataclasses.replace(tables, effects=pl.concat([by["gradient"], by["joint ablation"]]))
    table = effect_table(joint)
    assert 0 < table.index("By joint ablation, nats") < table.index("By gradient, nats")
    strongest = joint.main_effects["feature"][0]
    assert "by joint ablation, active in" in feature_cards(joint, NAMES, [strongest])


def test_a_scatter_of_many_features_stays_small():
    n = 3000
    firing = [
        {"feature": i, "n_tokens": 10, "n_active": 1, "firing_share": 0.1, "mean_active": 1.0, "max_active": 1.0}
        for i in range(n)
    ]
    effects = [
        {"feature": i, "method": "ablation", "effect": float(i), "low": NAN, "high": NAN, "n_texts": 1}
        for i in range(n)
    ]
    many = made({"firing": firing, "effects": effects})
    hollow, _ = scatter_figure(many, NAMES, [], WIDE).data
    assert sorted(hollow.y) == list(range(1000, 3000))
    assert "all but the 2000 strongest" in left_out(many)


def test_undefined_is_a_dash_with_its_reason(tables: FeatureTables):
    assert "–</div>" not in effect_table(tables)
    assert '– <span class="span">does not vary</span>' in difference_table(tables)
    lost = tables.quality.with_columns(pl.lit(NAN).alias(f"ce_recovered{end}") for end in ("", "_low", "_high"))
    assert '– <span class="span">nothing to lose</span>' in quality_table(lost)
    unknown = tables.effects.filter((pl.col("method") == "ablation") | (pl.col("feature") > 11))
    assert '– <span class="span">not measured</span>' in effect_table(dataclasses.replace(tables, effects=unknown))
    few = tables.label_probes.with_columns(auroc=NAN, low=NAN, high=NAN, f1=NAN)
    assert probe_table(few).count("too few tokens") == 2 * few.height
    card = feature_cards(tables, NAMES, [SILENT])
    assert "<b>–</b> undefined" in card
    assert "fires at none of 1" in card


def test_cards_come_by_effect_and_else_by_what_there_is(tables: FeatureTables):
    by_effect = sorted((i for i in range(N) if i != SILENT), key=lambda i: -abs(effect_of(i)))
    assert tables.shown(5) == by_effect[:5]
    assert without(tables, "effects").shown(2) == [23, 22]
    assert only("contexts").shown(2) == [0, 1]
    assert made({}).shown(2) == []


def test_a_card_tells_what_is_known_of_its_feature(tables: FeatureTables):
    card = plain(feature_cards(tables, NAMES, [23]))
    assert "fires at 47.0 % of tokens, mean 24 there, largest 27" in card
    assert "mean in zero-rl minus zero-base <b>+0.230</b> [0.225, 0.235] from 0.100 to 0.330" in card
    assert "ReasonScore <b>0.023</b>" in card
    assert re.findall(r"<code>(.*?)</code>", card)[:6] == ["T", "␣so", "↵", "&lt;|end|&gt;", "∅", "6"]
    assert re.findall(r'<th scope="row">(.*?)</th>', card) == ["opener", "answer digit"]
    assert card.count('<p class="strip">') == 5
    assert card.count("<mark") == 5
    assert "27 at chain/23, sample 0, token 7" in card
    assert "1 more text</summary>" in card


def test_the_first_text_of_a_card_is_shaded_at_full_strength(tables: FeatureTables):
    marks = re.findall(r'<mark class="tok act peak" style="--a:([\d.]+)"', feature_cards(tables, NAMES, [0]))
    assert [float(mark) for mark in marks] == sorted(map(float, marks), reverse=True)
    assert marks[0] == "1.00"


def test_the_section_of_a_study_says_the_same_under_one_heading(tables: FeatureTables, text: str):
    section = feature_section(tables, NAMES, n_cards=2)
    assert headings(section) == ["What single features do"]
    assert re.findall(r"<h3>(.*?)</h3>", section) == [
        "How well the SAE reads the model",
        "Features switched off and on",
        "The features one by one",
    ]
    assert section.count("<article") == 2
    for part in (intervention_table(tables.interventions, NAMES), feature_answer(tables, NAMES)):
        assert part in section
        assert part in text


def test_every_figure_has_words_in_its_place(text: str):
    plots = [at for tag, at in Elements(opened(text)).found if at.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == FIGURES
    assert all(plot["role"] == "img" and len(str(plot["aria-label"])) > 30 for plot in plots)


def test_the_feature_page_asks_the_network_for_nothing(text: str):
    ours = opened(text)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", ours)
    assert "url(" not in ours
    assert len(ours.encode()) < 3_000_000


@pytest.mark.parametrize("payload", one_always(PAYLOADS.values()), ids=PAYLOADS)
def test_hostile_features_make_no_element(text: str, payload: str):
    assert kinds(render_features(spoiled(payload))) <= kinds(text)


@pytest.mark.parametrize("payload", [PAYLOADS["closing"], PAYLOADS["plotly"]], ids=["closing", "plotly"])
def test_hostile_features_run_nothing_in_a_browser(dumped_dom: Callable[[str], str], payload: str):
    document = dumped_dom(render_features(spoiled(payload)))
    assert "<title>The features of " in document
    assert obeys_nothing(document)
    assert drawn(document) == FIGURES
