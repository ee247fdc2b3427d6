"""The tables of a page of features, and a card for each of the strongest, as HTML."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.features import figures as drawn
from elicitation.pages.features.tables import (
    METHODS,
    FeatureNames,
    FeatureTables,
    method_words,
)
from elicitation.pages.kit.markup import filled, grouped, joined, markup
from elicitation.pages.kit.numerals import ABSENT, PERCENT, POINTS, changes, figures, fixed, percent, remarked, signed
from elicitation.pages.kit.table import sheet, titled
from elicitation.pages.kit.tokens import ActivationStrip, activation_strip, token_word

_TOKENS, _LABELS, _LISTED = 8, 5, 8


def quality_table(quality: pl.DataFrame) -> Markup:
    """One row of `SAE_QUALITY` a row."""
    headings = (
        "", "Features", "Dead", "L0", "Explained variance", "Cross-entropy recovered", "Cross-entropy, clean",
        "With the SAE", "With the mean", "KL",
    )  # fmt: skip
    rows = []
    for row in quality.iter_rows(named=True):
        read = f"{row['architecture']} at {row['site']}, {grouped(row['n_rows'])} activations, "
        lost = math.isnan(row["ce_recovered"])
        rows.append(
            (
                titled(row["sae"], f"{read}{grouped(row['n_texts'])} texts"),
                grouped(row["d_sae"]),
                percent(row["dead_share"]),
                figures(row["l0"]),
                percent(row["explained_variance"]),
                remarked(ABSENT, "nothing to lose") if lost else PERCENT.cell(row, "ce_recovered"),
                *(fixed(row[name], 3) for name in ("ce_clean", "ce_spliced", "ce_ablated", "kl")),
            )
        )
    return sheet(headings, rows)


def intervention_table(interventions: pl.DataFrame, names: FeatureNames) -> Markup:
    """Every row of `INTERVENTIONS`."""
    headings = ("", "Active where the answer begins", f"Rate of {names.behaviour}", "Change, points")
    rows = [row for group in drawn.intervention_groups(interventions) for row in group]
    return sheet((*headings, "Chosen minus random, points"), [_intervention(row, names) for row in rows])


def _intervention(row: Mapping[str, Any], names: FeatureNames) -> tuple[str, ...]:
    name, rate = drawn.intervention_name(row, names), PERCENT.cell(row, "rate")
    if row["features"] == "none":
        return markup("<b>{}</b>", name), ABSENT, rate, remarked(ABSENT, "as it is"), ABSENT
    beyond = ABSENT if row["features"] == "top" else POINTS.cell(row, "beyond")
    return name, percent(row["active_share"], 0), rate, POINTS.cell(row, "change"), beyond


def effect_table(tables: FeatureTables) -> Markup:
    """The strongest features by every method there is."""
    main, ruler = tables.main_effects.head(drawn.SHOWN), tables.effect_ruler
    present = set(tables.effects["method"])
    methods = [*(method for method in METHODS if method in present), *sorted(present - set(METHODS))]
    found = {(row["feature"], row["method"]): row for row in tables.effects.iter_rows(named=True)}
    rows = [
        (
            tables.named(row["feature"]),
            *(
                ruler.cell(found[row["feature"], method], "effect")
                if (row["feature"], method) in found
                else remarked(ABSENT, "not measured")
                for method in methods
            ),
            str(row["n_texts"]),
        )
        for row in main.sort("effect", descending=True, maintain_order=True).iter_rows(named=True)
    ]
    return sheet(("", *(f"By {method_words(method)}, nats" for method in methods), "Texts in which active"), rows)


def difference_table(tables: FeatureTables) -> Markup:
    """The features that changed most, with both means."""
    ruler = tables.difference_ruler
    rows = [
        (
            tables.named(row["feature"]),
            ruler.write(row["base_mean"]).removeprefix("+"),
            ruler.write(row["tuned_mean"]).removeprefix("+"),
            ruler.cell(row, "difference"),
            remarked(ABSENT, "does not vary") if math.isnan(row["effect_size"]) else signed(row["effect_size"], 2),
        )
        for row in drawn.largest_differences(tables)
    ]
    headings = ("", "Mean in the base", "Mean in the tuned", "Difference", "In standard deviations")
    return sheet(headings, rows)


def probe_table(label_probes: pl.DataFrame) -> Markup:
    """Every row of `LABEL_PROBES`."""
    headings = ("", "AUROC", "F1", "Tokens of the kind", "Features")
    return sheet(headings, [_probe(row) for row in drawn.ordered_probes(label_probes)], {"Features"})


def _probe(row: Mapping[str, Any]) -> tuple[str, ...]:
    few, listed = remarked(ABSENT, "too few tokens"), list(row["features"])
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (
        titled(row["label"], drawn.probe_name(row)),
        few if math.isnan(row["auroc"]) else drawn.AUROC.cell(row, "auroc"),
        few if math.isnan(row["f1"]) else drawn.AUROC.write(row["f1"]),
        f"{grouped(row['n_labelled'])} of {grouped(row['n_tokens'])}",
        ", ".join(map(str, listed[:_LISTED])) + more if listed else f"all {row['n_features']} of the stream",
    )


def feature_cards(tables: FeatureTables, names: FeatureNames, shown: list[int]) -> Markup:
    """A card for each of `shown`, in this order."""
    return joined(_card(feature, tables, names) for feature in shown)


def _card(feature: int, tables: FeatureTables, names: FeatureNames) -> Markup:
    mine = pl.col("feature") == feature
    fires = next(tables.firing.filter(mine).iter_rows(named=True), None)
    contexts = tables.contexts.filter(mine).sort("rank").to_dicts()
    scale = max((row["activation"] for row in contexts), default=0.0)
    return filled(
        "features/card.html",
        feature=feature,
        fires="" if fires is None else _fires(fires),
        statistics=_statistics(mine, tables, names),
        sides=_tokens(tables.logit_effects.filter(mine)),
        labels=_labels(tables.label_activations.filter(mine)),
        contexts=[_context(row, max(scale, fires["max_active"] if fires else 0.0)) for row in contexts],
    )


def _fires(row: Mapping[str, Any]) -> str:
    if row["n_active"] == 0:
        return f"fires at none of {grouped(row['n_tokens'])} tokens"
    return (
        f"fires at {percent(row['firing_share'])} of tokens, mean {figures(row['mean_active'])} there, "
        f"largest {figures(row['max_active'])}"
    )


def _statistics(mine: pl.Expr, tables: FeatureTables, names: FeatureNames) -> Iterator[tuple[str, str, str]]:
    """(what, value, remark) of each number that is known."""
    nats, means = tables.effect_ruler, tables.difference_ruler
    for row in tables.main_effects.filter(mine).iter_rows(named=True):
        by = f"{nats.span(row['low'], row['high'])} by {method_words(row['method'])}, active in {row['n_texts']} texts"
        yield f"effect on {names.towards} over {names.over}", f"{nats.write(row['effect'])} nats", by.strip()
    for row in tables.differences.filter(mine).iter_rows(named=True):
        base, tuned = (means.write(row[name]).removeprefix("+") for name in ("base_mean", "tuned_mean"))
        moved = f"{means.span(row['low'], row['high'])} from {base} to {tuned}".strip()
        yield f"mean in {names.tuned} minus {names.base}", means.write(row["difference"]), moved
    for row in tables.reason_scores.filter(mine).iter_rows(named=True):
        yield "ReasonScore", figures(row["score"]), "undefined" if math.isnan(row["score"]) else ""


def _tokens(effects: pl.DataFrame) -> dict[str, list[tuple[str, str, str]]]:
    """Side -> (token, effect, title) of what the feature raises and lowers by the direct path to the logits."""
    ruler = changes(effects["effect"])
    return {
        words: [
            (
                token_word(row["text"]),
                ruler.write(row["effect"]),
                f"“{row['text']}” – token {row['token']}: {ruler.write(row['effect'])} on its logit per unit of "
                "activation",
            )
            for row in effects.filter(pl.col("side") == side).sort("rank").head(_TOKENS).iter_rows(named=True)
        ]
        for side, words in (("up", "raises"), ("down", "lowers"))
    }


def _labels(labels: pl.DataFrame) -> list[tuple[str, str, str, str, str]]:
    """(label, bar, mean, firing, AUROC) of the kinds of token at which it is most active; the bar is a fraction.

    Kinds without a token have no mean.
    """
    known = labels.filter(pl.col("mean").is_not_nan()).sort("mean", "label", descending=[True, False]).head(_LABELS)
    highest = max(known["mean"], default=1.0) or 1.0
    return [
        (
            row["label"],
            f"{max(0.0, row['mean'] / highest):.2f}",
            figures(row["mean"]),
            percent(row["firing_share"], 0),
            fixed(row["auroc"], 2),
        )
        for row in known.iter_rows(named=True)
    ]


def _context(row: Mapping[str, Any], scale: float) -> tuple[Markup, str]:
    """(strip, where its peak is)."""
    strip = ActivationStrip(tokens=tuple(row["tokens"]), activations=tuple(row["activations"]), scale=scale)
    place = f"{row['problem_id']}, sample {row['sample_index']}, token {row['position']}"
    return activation_strip(strip), f"{figures(row['activation'])} at {place}"
