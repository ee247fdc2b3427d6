"""A page of steering vectors says what its tables say, first in one sentence, and shows any text as text."""

import dataclasses
import math
import re

import polars as pl
import pytest

from elicitation.pages.kit.canvas import NARROW, WIDE
from elicitation.pages.kit.document import Origin, TableFile
from elicitation.pages.study.tables import LADDER
from elicitation.pages.vectors.page import (
    VectorPage,
    dose_figure,
    effect_figure,
    effect_table,
    render_vectors,
    vector_answer,
)
from elicitation.pages.vectors.tables import INCOHERENT, VECTOR_DOSES, VECTOR_FITS, VECTOR_TRANSFERS, VectorTables
from lab.records.errors import EstimateError, StorageError
from lab.records.provenance import Provenance, canonical_json
from tests.elicitation.pages.opened import unlinked

NAN = math.nan
# fit, control, (strict at temperature 1, greedy), share, beyond its best control
ARMS = (
    ("base", None, (0.2, 0.0), NAN, NAN),
    ("tuned", None, (0.9, 1.0), NAN, NAN),
    ("mean-2", None, (0.1, 0.0), -0.14, -0.05),
    ("mean-2", "random-vectors", (0.15, 0.0), -0.07, NAN),
    ("policy", None, (0.62, 0.97), 0.6, 0.4),
    ("policy", "random-vectors", (0.2, 0.08), 0.0, NAN),
    ("policy", "shuffled-labels", (0.22, 0.1), 0.03, NAN),
)
LABELS = {"base": "zero-base", "tuned": "zero-rl", "mean-2": "difference of means", "policy": "policy gradient"}


def ladder(refusal: str | None = None, beyond: float = 0.0) -> pl.DataFrame:
    rows = []
    for index, (fit, control, values, share, over) in enumerate(ARMS):
        for decoding, value in zip(("sampled", "greedy"), values, strict=True):
            suffix, words = ("-greedy", ", greedy decoding") if decoding == "greedy" else ("", "")
            for measure in ("strict", "answer"):
                known = refusal is None and not math.isnan(share)
                is_end = fit in ("base", "tuned")
                rows.append(
                    dict.fromkeys(LADDER.dtypes, 0.0)
                    | {
                        "arm": f"{fit if control is None else f'{fit}.{control}'}{suffix}",
                        "label": f"{LABELS[fit] if control is None else f'{control}, for {LABELS[fit]}'}{words}",
                        "kind": "end" if is_end else "rung" if control is None else "control",
                        "role": fit if is_end else "vector",
                        "decoding": decoding,
                        "control": control,
                        "control_of": None if control is None else f"{fit}{suffix}",
                        "family": "end" if is_end else "vector",
                        "order": index,
                        "measure": measure,
                        "accuracy": value,
                        "low": max(0.0, value - 0.03),
                        "high": min(1.0, value + 0.03),
                        "share": share if known else NAN,
                        "share_low": share - 0.04 if known else NAN,
                        "share_high": share + 0.04 if known else NAN,
                        "refusal": None if is_end else refusal,
                        "over_control": over + beyond,
                        "over_control_low": over + beyond - 0.05,
                        "over_control_high": over + beyond + 0.05,
                        "n_problems": 200,
                        "n_samples": 8 if decoding == "sampled" else 1,
                    }
                )
    return LADDER.frame(rows)


def incoherent() -> pl.DataFrame:
    shares = {"value": 0.07, "low": 0.05, "high": 0.1}
    return INCOHERENT.frame(
        [{"arm": arm, "label": arm} | shares for arm in ladder()["arm"].unique(maintain_order=True)]
    )


def fits() -> pl.DataFrame:
    common = {"fit": "policy", "label": "policy gradient", "tokens": "every token"}
    there = {"norm": 1.5, "residual_norm": 10.0, "relative_dose": 0.15, "description": "by rewards", "reason": None}
    missing = {"site": None, "norm": NAN, "residual_norm": NAN, "relative_dose": NAN, "description": None}
    return VECTOR_FITS.frame(
        [
            common | there | {"control": None, "site": "blocks.0.hook_resid_pre"},
            common | there | {"control": "shuffled-labels", "site": "blocks.0.hook_resid_pre"},
            common | missing | {"control": "placebo-pair", "reason": "no trace of it"},
            {"fit": "sae", "label": "features", "tokens": "first token"}
            | missing
            | {"control": None, "reason": "none"},
        ]
    )


def doses() -> pl.DataFrame:
    return VECTOR_DOSES.frame(
        [
            {
                "fit": "policy",
                "dose": dose,
                "relative_dose": 0.15 * dose,
                "quantity": quantity,
                "value": 0.5,
                "low": 0.4,
                "high": 0.6,
                "change": 0.3,
                "change_low": 0.2,
                "change_high": 0.4,
                "n_problems": 200,
            }
            for dose in (0.5, 2.0)
            for quantity in ("strict", "answer", "incoherent", "kl")
        ]
    )


def transfers() -> pl.DataFrame:
    common = {"plain": 0.9, "steered": 0.6, "control": 0.61, "change": -0.3, "change_low": -0.4, "change_high": -0.2}
    common |= {"beyond": -0.01, "beyond_low": -0.1, "beyond_high": 0.08, "task": "chain:+-:3-8", "model": "zero-rl"}
    return VECTOR_TRANSFERS.frame(
        [
            common | {"fit": "policy", "check": "removes", "dose": -1.0, "quantity": quantity}
            for quantity in ("strict", "answer")
        ]
    )


def made(**changes: pl.DataFrame) -> VectorTables:
    given = {"ladder": ladder(), "incoherent": incoherent(), "fits": fits(), "doses": doses(), "transfers": transfers()}
    return VectorTables(**(given | changes))


def made_page(tables: VectorTables, text: str = "zero") -> VectorPage:
    return VectorPage(
        title=text,
        task=text,
        unrelated=text,
        tables=tables,
        origin=Origin(
            made_by=Provenance(
                stage=text,
                config=canonical_json({text: text}),
                parents={text: text},
                commit=text,
                dirty=True,
                packages={text: text},
                device=text,
                dtype=text,
                seed=0,
            ),
            command=text,
            files=(TableFile(path=text, schema=LADDER, n_rows=1, digest=text),),
        ),
    )


def test_the_sentence_names_the_best_fit_its_shares_its_controls_and_both_decodings():
    sentence = vector_answer(made(), "held-out chain")
    assert sentence == (
        "Of the strict gain from zero-base to zero-rl (20.0\u202f% to 90.0\u202f% at temperature 1, on 200 held-out "
        "chain problems), “policy gradient” recovers 60\u202f% [56,\u00a064] at temperature 1, +40.0 points "
        "[35.0,\u00a045.0] beyond its best control (shuffled labels); recovers 60\u202f% [56,\u00a064] decoded "
        "greedily, +40.0 points [35.0,\u00a045.0] beyond its best control (shuffled labels); it is the best of 2 fits, "
        "and no interval is adjusted for that choice."
    )


@pytest.mark.parametrize(
    ("beyond", "words"),
    [(-0.38, "not clearly beyond its best control"), (-0.6, "below its best control")],
)
def test_a_fit_that_does_not_clear_its_control_is_not_said_to(beyond, words):
    sentence = vector_answer(made(ladder=ladder(beyond=beyond)), "chain")
    assert words in sentence
    assert "] beyond its best control" not in sentence


def test_a_refused_share_is_not_given_and_its_reason_stands_below_the_table():
    tables = made(ladder=ladder(refusal="the gap is noise"))
    assert "no share that can be given" in vector_answer(tables, "chain")
    table = effect_table(tables, "sampled")
    assert "refused<sup>1</sup>" in table
    assert "<li>the gap is noise</li>" in table


def test_without_any_vector_the_sentence_says_why():
    ends = ladder().filter(pl.col("kind") == "end")
    reasons = fits().filter(pl.col("fit") == "sae")
    assert vector_answer(made(ladder=ends, fits=reasons), "chain") == "No vector could be fitted: none."
    assert "no fit was asked for" in vector_answer(made(ladder=ends, fits=VECTOR_FITS.frame([])), "chain")


@pytest.mark.parametrize("canvas", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_figure_has_the_base_below_and_the_tuned_model_above_and_fits_over_their_controls(canvas):
    figure = effect_figure(made(), "sampled", canvas).to_dict()
    values = [trace["x"][0] for trace in figure["data"]]
    assert values == pytest.approx([20, 22, 20, 62, 15, 10, 90])
    dosed = dose_figure(made(), canvas).to_dict()
    lines = [trace for trace in dosed["data"] if trace["mode"] == "lines+markers"]
    assert list(lines[0]["x"]) == [0.0, 0.5, 2.0]
    assert list(lines[0]["y"]) == pytest.approx([20, 50, 50])


def test_the_tables_of_the_page_hold_the_numbers():
    page = unlinked(render_vectors(made_page(made())))
    for part in ("62.0", "+40.0", "[35.0,", "15.0\u202f%", "no trace of it", "−1.0", "[−10.0,", "dose −1"):
        assert part in page, part
    assert page.count("<section") == 6


def test_what_was_not_measured_has_no_section():
    empty = made(doses=VECTOR_DOSES.frame([]), transfers=VECTOR_TRANSFERS.frame([]), fits=VECTOR_FITS.frame([]))
    assert render_vectors(made_page(empty)).count("<section") == 3


def test_hostile_text_comes_out_as_text_everywhere():
    payload = "</script><img src=x onerror=alert(7)><b>\u202e"
    words = {"label", "refusal", "description", "reason", "model", "task", "site", "tokens"}

    def poisoned(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.lit(payload).alias(name) for name in frame.columns if name in words)

    clean = made(ladder=ladder(refusal="x"))
    names = [field.name for field in dataclasses.fields(VectorTables)]
    tables = VectorTables(**{name: poisoned(getattr(clean, name)) for name in names})
    page = render_vectors(made_page(tables, payload))
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in without
    assert "\u202e" not in without
    assert "&lt;img src=x onerror=alert(7)&gt;" in without


def test_a_ledger_without_both_models_or_of_another_schema_is_refused():
    with pytest.raises(EstimateError, match="without tuned"):
        made(ladder=ladder().filter(pl.col("role") != "tuned"))
    with pytest.raises(StorageError, match="not a 'vector fits' table"):
        made(fits=doses())
