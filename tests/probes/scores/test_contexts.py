"""Contexts of features, against sorting all activations of a store in memory."""

import numpy as np
import polars as pl
import pytest

from lab.models.tiny import byte_tokenizer, tiny_model
from lab.records.errors import SiteError
from probes.capture.site import TokenSet
from probes.scores import labels as shard_features
from probes.scores.contexts import contexts
from probes.tables import CONTEXTS

TOKENIZER = byte_tokenizer()
FEATURES = (7, 0, 3, 23)


def slow_contexts(store, sae, read_all, feature: int, n: int, before: int, after: int) -> list[dict]:
    """The best token of every text, sorted."""
    known = read_all(store, sae)
    texts = pl.read_parquet(store.path / "texts.parquet")
    rows = known.index.select("text", "problem_id", "sample_index", "position").with_columns(
        pl.Series("activation", known.features[:, feature])
    )
    best = (
        rows.filter(pl.col("activation") > 0)
        .sort("activation", "text", "position", descending=[True, False, False])
        .unique("text", keep="first", maintain_order=True)
        .head(n)
    )
    found = []
    for rank, row in enumerate(best.iter_rows(named=True)):
        tokens = [*texts["prompt"][row["text"]], *texts["completion"][row["text"]]]
        first = max(0, row["position"] - before)
        places = range(first, min(len(tokens), row["position"] + after + 1))
        stored = {
            at: value
            for text, at, value in rows.select("text", "position", "activation").iter_rows()
            if text == row["text"]
        }
        found.append(
            {key: row[key] for key in ("problem_id", "sample_index", "position", "activation")}
            | {"feature": feature, "rank": rank, "first": first, "tokens": [chr(tokens[at]) for at in places]}
            | {"activations": [stored.get(at, np.nan) for at in places]}
        )
    return found


@pytest.mark.parametrize(("n_contexts", "before", "after"), [(3, 4, 2), (1, 0, 0), (50, 100, 100)])
@pytest.mark.parametrize("n_together", [5, 10_000])
def test_contexts_are_what_sorting_everything_finds(
    store, sae, read_all, monkeypatch, n_contexts, before, after, n_together
):
    monkeypatch.setattr(shard_features, "MOST_VALUES", n_together * sae.d_sae)
    table = contexts(store, sae, TOKENIZER, FEATURES, n_contexts=n_contexts, before=before, after=after)
    CONTEXTS.checked(table)
    wanted = [
        row for feature in FEATURES for row in slow_contexts(store, sae, read_all, feature, n_contexts, before, after)
    ]
    assert len(table) == len(wanted) > 0
    for row, other in zip(table.iter_rows(named=True), wanted, strict=True):
        for name in ("feature", "rank", "problem_id", "sample_index", "position", "first", "tokens"):
            assert row[name] == other[name], name
        assert row["activation"] == pytest.approx(other["activation"])
        assert row["activations"] == pytest.approx(other["activations"], nan_ok=True)


def test_a_feature_that_never_fires_has_no_context(store, sae):
    assert contexts(store, sae, TOKENIZER, [0]).is_empty()


def test_of_equal_activations_the_earlier_text_and_the_earlier_token_come_first(stores, saes, text_maker):
    # The first stream of equal tokens in equal texts is equal.
    texts = text_maker(1)
    same = pl.concat([texts.with_columns(pl.lit(index, pl.Int32).alias("sample_index")) for index in range(5)])
    sae = saes(None)
    found = contexts(stores(tiny_model("llama", seed=5), same), sae, TOKENIZER, range(sae.d_sae), n_contexts=3)
    tied = found.group_by("feature", maintain_order=True).agg("sample_index", pl.col("activation").n_unique())
    assert len(tied) > 5
    assert all(
        order == [0, 1, 2] for order, n_values in tied.select("sample_index", "activation").iter_rows() if n_values == 1
    )
    assert (tied["activation"] == 1).sum() > 5, "else there were no ties"


def test_tokens_that_are_not_stored_are_shown_without_an_activation(stores, sae):
    sparse = stores(tiny_model("llama", seed=5), rule=TokenSet(frozenset(range(97, 103))))
    table = contexts(sparse, sae, TOKENIZER, range(sae.d_sae), before=3, after=3)
    shown = table.explode("tokens", "activations")
    assert shown.filter(pl.col("tokens") > "f")["activations"].is_nan().all()
    assert shown["activations"].is_nan().any()
    assert all(row["activations"][row["position"] - row["first"]] > 0 for row in table.iter_rows(named=True))


@pytest.mark.parametrize("features", [[24], [-1], []])
def test_features_that_are_not_there_are_refused(store, sae, features):
    with pytest.raises(SiteError, match="want at least one of those that SAE tiny-sae has, 0 to 23"):
        contexts(store, sae, TOKENIZER, features)


@pytest.mark.parametrize("options", [{"n_contexts": 0}, {"before": -1}, {"after": -1}])
def test_windows_of_nothing_are_refused(store, sae, options):
    with pytest.raises(SiteError, match="want 1 context or more, and no window below 0"):
        contexts(store, sae, TOKENIZER, [1], **options)
