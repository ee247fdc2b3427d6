"""Feature answer: what was found of the features, in one plain sentence."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.report.features.captions import FeatureNames, difference_ruler, effect_ruler, method_words
from elicitation.report.features.interventions import ablates
from elicitation.report.features.tables import FeatureTables, main_effects, ranked_differences, ranked_scores
from elicitation.report.kit.canvas import Ruler
from lab.records.numerals import figures, interval, percent

_CONTROLS = {
    "frequency_matched": "with random ones that fire as often it is",
    "first_token": "with random ones that fire as often where the answer begins,",
}


def feature_answer(ledger: FeatureTables, names: FeatureNames) -> str:
    """One sentence on the strongest kind of evidence that there is: interventions, effects, differences, scores."""
    if ledger.interventions.height:
        return _intervened(ledger.interventions, names)
    n = max(table["feature"].n_unique() for table in (ledger.effects, ledger.differences, ledger.reason_scores))
    effects, differences = main_effects(ledger.effects), ranked_differences(ledger.differences)
    if effects.height:
        strongest = _strongest(effects.row(0, named=True), names, effect_ruler(ledger))
        return f"Of {n} features, {strongest}; no feature was acted on while a model wrote."
    if differences.height:
        row = differences.row(0, named=True)
        ruler = difference_ruler(ledger)
        told = f"{ruler.write(row['difference'])} {ruler.span(row['low'], row['high'])}".rstrip()
        return (
            f"Of {n} features, feature {row['feature']} changed most from {names.base} to {names.tuned}: its mean "
            f"activation by {told}; what it does was not measured."
        )
    if scores := ranked_scores(ledger.reason_scores).head(1).to_dicts():
        return (
            f"Of {n} features, feature {scores[0]['feature']} has the highest ReasonScore, "
            f"{figures(scores[0]['score'])}; what it does was not measured."
        )
    return _read(ledger.quality)


def _intervened(interventions: pl.DataFrame, names: FeatureNames) -> str:
    """The intervention whose dose is nearest to 1, of the most features: fixed before any rate is seen."""
    parts = []
    for ablated in (True, False):
        rows = [row for row in interventions.to_dicts() if ablates(row) is ablated]
        top = [row for row in rows if row["features"] == "top"]
        own = next((row for row in rows if row["features"] == "none"), None)
        if not top or own is None:
            continue
        chosen = min(top, key=lambda row: (abs(row["dose"] - 1), -row["n_features"]))
        same = ("n_features", "dose")
        others = {row["features"]: row for row in rows if all(row[key] == chosen[key] for key in same)}
        parts.append(_part(chosen, own, others, names, again=bool(parts)))
    return "; ".join(parts) + "." if parts else "Only random features were acted on."


def _part(
    row: Mapping[str, Any],
    own: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    names: FeatureNames,
    *,
    again: bool,
) -> str:
    n, model = row["n_features"], names.tuned if ablates(row) else names.base
    which = f"the {n} features that push" if n > 1 else "the feature that pushes"
    whom = ("them" if n > 1 else "it") if again else f"{which} most towards {names.towards}"
    verb = "ablating" if ablates(row) else "adding"
    dose = "" if row["dose"] == 1 else f" at dose {figures(row['dose'])}"
    place = "in" if ablates(row) else "to"
    acted = f"{verb if again else verb.capitalize()} {whom}{dose}"
    told = f"from {_rate(own)} to {_rate(row)}"
    does = _does(row)
    controls = [f"{words} {_rate(others[which])}" for which, words in _CONTROLS.items() if which in others]
    control = ", ".join(controls) or "no random ones were tried beside"
    if ablates(row):
        return f"{acted} {does} the rate of {names.behaviour} in {model} {told} ({control})"
    return f"{acted} {place} {model} {does} {'it' if again else f'the rate of {names.behaviour}'} {told} ({control})"


def _does(row: Mapping[str, Any]) -> str:
    """A change is named only where its interval leaves out 0."""
    if row["change_high"] < 0:
        return "lowers"
    return "raises" if row["change_low"] > 0 else "does not clearly change"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{percent(row['rate'])} {interval(row['low'], row['high'])}".rstrip()


def _strongest(row: Mapping[str, Any], names: FeatureNames, ruler: Ruler) -> str:
    side = names.towards if row["effect"] > 0 else names.over
    told = f"{ruler.write(row['effect'])} nats {ruler.span(row['low'], row['high'])}".rstrip()
    return f"feature {row['feature']} pushes hardest, towards {side}: {told} by {method_words(row['method'])}"


def _read(quality: pl.DataFrame) -> str:
    if quality.is_empty():
        return "Nothing was measured of the features."
    row = quality.row(0, named=True)
    told = f"{percent(row['ce_recovered'])} {interval(row['ce_recovered_low'], row['ce_recovered_high'])}".rstrip()
    return (
        f"The {row['d_sae']} features of {row['sae']} keep {told} of what the model's predictions need of "
        f"{row['site']}; what single features do was not measured."
    )
