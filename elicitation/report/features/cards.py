"""Feature cards: all that is known of single features, one card each, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.report.features.captions import CARDS, FeatureNames, difference_ruler, effect_ruler, method_words
from elicitation.report.features.tables import FeatureTables, main_effects
from elicitation.report.kit.canvas import Ruler, changes
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.tokens import ActivationStrip, activation_legend, activation_strip, token_word
from lab.records.numerals import figures, fixed, percent

_OPEN, _TOKENS, _LABELS = 4, 8, 5


def feature_cards(ledger: FeatureTables, names: FeatureNames, shown: list[int], level: int) -> str:
    """A card for each of `shown`, in this order; empty where there are none."""
    if not shown:
        return ""
    legend = "" if ledger.contexts.is_empty() else activation_legend()
    return f"{CARDS.head(level)}{legend}{''.join(_card(feature, ledger, names) for feature in shown)}"


def _card(feature: int, ledger: FeatureTables, names: FeatureNames) -> str:
    mine = pl.col("feature") == feature
    firing = ledger.firing.filter(mine).to_dicts()
    contexts = ledger.contexts.filter(mine).sort("rank").to_dicts()
    return (
        f'<article class="trace feature" id="feature-{feature}"><header><b>Feature {feature}</b>'
        f'<span class="count">{_fires(firing[0]) if firing else ""}</span></header>'
        f'<ul class="stats">{_statistics(feature, ledger, names)}</ul>'
        f"{_tokens(ledger.logit_effects.filter(mine))}"
        f"{_profile(ledger.label_activations.filter(mine))}"
        f"{_contexts(contexts, firing[0]['max_active'] if firing else 0.0)}</article>"
    )


def _fires(row: Mapping[str, Any]) -> str:
    if row["n_active"] == 0:
        return f"fires at none of {row['n_tokens']:,} tokens".replace(",", "\u202f")
    return (
        f"fires at {percent(row['firing_share'])} of tokens, mean {figures(row['mean_active'])} there, "
        f"largest {figures(row['max_active'])}"
    )


def _statistics(feature: int, ledger: FeatureTables, names: FeatureNames) -> str:
    mine = pl.col("feature") == feature
    nats, means = effect_ruler(ledger), difference_ruler(ledger)
    parts = [
        _stat(
            f"effect on {names.towards} over {names.over}",
            f"{nats.write(row['effect'])} nats",
            f"{nats.span(row['low'], row['high'])} by {method_words(row['method'])}, active in {row['n_texts']} texts",
        )
        for row in main_effects(ledger.effects).filter(mine).iter_rows(named=True)
    ]
    parts += [
        _stat(
            f"mean in {names.tuned} minus {names.base}",
            means.write(row["difference"]),
            f"{means.span(row['low'], row['high'])} from {_mean(row['base_mean'], means)} to "
            f"{_mean(row['tuned_mean'], means)}",
        )
        for row in ledger.differences.filter(mine).iter_rows(named=True)
    ]
    parts += [
        _stat("ReasonScore", figures(row["score"]), "undefined" if math.isnan(row["score"]) else "")
        for row in ledger.reason_scores.filter(mine).iter_rows(named=True)
    ]
    return "".join(parts)


def _mean(value: float, ruler: Ruler) -> str:
    return ruler.write(value).removeprefix("+")


def _stat(name: str, value: str, remark: str) -> str:
    return f"<li>{escaped(name)} <b>{escaped(value)}</b> {escaped(remark.strip())}</li>"


def _tokens(effects: pl.DataFrame) -> str:
    """What the feature raises and lowers by the direct path to the logits."""
    if effects.is_empty():
        return ""
    rows, ruler = [], changes(effects["effect"])
    for side, words in (("up", "raises"), ("down", "lowers")):
        best = effects.filter(pl.col("side") == side).sort("rank").head(_TOKENS)
        rows.append(
            f"<p><span>{words}</span> {' '.join(_chip(row, ruler) for row in best.to_dicts())}</p>"
            if best.height
            else ""
        )
    return f'<div class="raised">{"".join(rows)}</div>'


def _chip(row: Mapping[str, Any], ruler: Ruler) -> str:
    title = f"“{row['text']}” – token {row['token']}: {ruler.write(row['effect'])} on its logit per unit of activation"
    return (
        f'<span class="chip" title="{escaped(title)}"><code>{escaped(token_word(row["text"]))}</code> '
        f"{ruler.write(row['effect'])}</span>"
    )


def _profile(labels: pl.DataFrame) -> str:
    """Mean activation at the kinds of token at which it is most active; kinds without a token have no mean."""
    known = labels.filter(pl.col("mean").is_not_nan()).sort("mean", "label", descending=[True, False]).head(_LABELS)
    if known.is_empty():
        return ""
    highest = max(known["mean"]) or 1.0
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Kind of token", "Mean activation", "Fires", "AUROC"))
    rows = "".join(_label(row, highest) for row in known.iter_rows(named=True))
    return f'<table class="profile"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _label(row: Mapping[str, Any], highest: float) -> str:
    share = max(0.0, row["mean"] / highest)
    return (
        f'<tr><th scope="row">{escaped(row["label"])}</th>'
        f'<td><i style="--w:{share:.2f}" aria-hidden="true"></i>{figures(row["mean"])}</td>'
        f"<td>{percent(row['firing_share'], 0)}</td><td>{fixed(row['auroc'], 2)}</td></tr>"
    )


def _contexts(contexts: list[dict[str, Any]], largest: float) -> str:
    scale = max([largest, *(row["activation"] for row in contexts)])
    blocks = [_context(row, scale) for row in contexts]
    rest = len(blocks) - _OPEN
    more = f"{rest} more text{'' if rest == 1 else 's'}"
    folded = f"<details><summary>{more}</summary>{''.join(blocks[_OPEN:])}</details>" if rest > 0 else ""
    return "".join(blocks[:_OPEN]) + folded


def _context(row: Mapping[str, Any], scale: float) -> str:
    strip = ActivationStrip(tokens=tuple(row["tokens"]), activations=tuple(row["activations"]), scale=scale)
    place = f"{row['problem_id']}, sample {row['sample_index']}, token {row['position']}"
    return (
        f'<div class="context">{activation_strip(strip)}<p class="place">{figures(row["activation"])} at '
        f"{escaped(place)}</p></div>"
    )
