"""One pass over a store gives every score that slow code finds with all of it in memory."""

import functools
import itertools
import operator

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score

from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, SiteError, StorageError
from probes.capture.site import AllTokens, Site
from probes.scores import labels as shard_features
from probes.scores.label_probes import auroc, label_activations
from probes.scores.labels import LABELS, label_names
from probes.scores.sums import N_BINS, Sums, firing, reason_scores, shard_sums, sums

NAMES = ("but", "hmm", "wait")


@pytest.fixture(scope="module", params=["topk", "relu"])
def case(request, saes, store, labels, read_all):
    """(SAE, its sums, all its features, labels of the stored rows)."""
    sae = saes(5) if request.param == "topk" else saes(None)
    known = read_all(store, sae)
    wanted = set(labels.iter_rows())
    marked = np.array(
        [
            [(text, position, name) in wanted for name in NAMES]
            for text, position in known.index.select("text", "position").iter_rows()
        ]
    )
    return sae, sums(store, sae, labels), known.features, marked


def test_rows_are_encoded_in_batches_whose_size_does_not_matter(store, labels, case, monkeypatch):
    sae, added, _, _ = case
    assert len(store.portions) > 3
    monkeypatch.setattr(shard_features, "MOST_VALUES", 7 * sae.d_sae)
    batches = [(rows, len(features)) for rows, features in shard_features.shard_features(store, sae, 0)]
    assert len(batches) > 2
    assert [rows.stop - rows.start for rows, _ in batches] == [n_rows for _, n_rows in batches]
    assert sum(n_rows for _, n_rows in batches) == store.portions[0].n_rows
    same(sums(store, sae, labels), added)


def same(one: Sums, other: Sums) -> None:
    """Counts are equal, and sums are to the last digits."""
    assert (one.labels, one.n_tokens, one.n_inside) == (other.labels, other.n_tokens, other.n_inside)
    for name in ("n_labelled", "counts", "labelled_counts"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("inside", "outside", "labelled", "largest"):
        assert np.allclose(getattr(one, name), getattr(other, name), rtol=1e-6), name


def test_firing_is_what_a_loop_over_features_counts(case):
    sae, added, features, _ = case
    table = firing(added)
    for feature, row in enumerate(table.iter_rows(named=True)):
        active = features[:, feature][features[:, feature] > 0]
        assert row["feature"] == feature
        assert row["n_tokens"] == len(features)
        assert row["n_active"] == len(active)
        assert row["firing_share"] == len(active) / len(features)
        assert row["mean_active"] == pytest.approx(active.mean() if len(active) else np.nan, nan_ok=True)
        assert row["max_active"] == features[:, feature].max()
    assert len(table) == sae.d_sae
    assert table["n_active"][0] == 0
    assert np.isnan(table["mean_active"][0])


def test_label_activations_are_what_a_loop_finds_and_their_auroc_is_sklearns_within_its_error(case):
    sae, added, features, marked = case
    table = label_activations(added)
    assert len(table) == len(NAMES) * sae.d_sae
    errors = []
    for row in table.iter_rows(named=True):
        with_label = marked[:, NAMES.index(row["label"])]
        activation = features[:, row["feature"]]
        assert row["n_tokens"] == with_label.sum()
        assert row["mean"] == pytest.approx(activation[with_label].mean())
        assert row["firing_share"] == pytest.approx((activation[with_label] > 0).mean())
        exact = roc_auc_score(with_label, activation)
        assert abs(row["auroc"] - exact) <= row["auroc_error"] + 1e-12
        errors.append(abs(row["auroc"] - exact))
    assert max(errors) < 0.01
    assert max(errors) > 0, "else the bound was not tried"


def slow_scores(features: np.ndarray, marked: np.ndarray, alpha: float) -> list[float]:
    """ReasonScore, one feature at a time, as section 3 of the paper has it."""
    inside = marked.any(axis=1)
    plus, minus = features[inside].mean(axis=0), features[~inside].mean(axis=0)
    found = []
    for feature in range(features.shape[1]):
        means = [features[marked[:, label], feature].mean() for label in range(marked.shape[1])]
        if plus[feature] == 0:
            found.append(-minus[feature] / minus.sum() if minus[feature] else np.nan)
            continue
        shares = [mean / sum(means) for mean in means]
        entropy = -sum(share * np.log(share) for share in shares if share) / np.log(len(means))
        found.append(plus[feature] / plus.sum() * entropy**alpha - minus[feature] / minus.sum())
    return found


@pytest.mark.parametrize("alpha", [0.7, 0.0, 2.0])
def test_reason_scores_are_those_of_the_plain_formula(case, alpha):
    _, added, features, marked = case
    table = reason_scores(added, alpha)
    assert table["score"].to_list() == pytest.approx(slow_scores(features, marked, alpha), nan_ok=True)
    assert table["inside_share"].sum() == pytest.approx(1)
    assert table["outside_share"].sum() == pytest.approx(1)
    assert np.isnan(table["score"][0]), "it never fires"
    assert table["entropy"].drop_nans().is_between(0, 1).all()


def by_hand(labelled: list[list[float]], outside: list[float], n_outside: int = 2) -> Sums:
    """Sums of two tokens of each label, and of `n_outside` without one."""
    means = np.array(labelled, dtype=np.float64)
    counts = np.zeros((means.shape[1], N_BINS), dtype=np.int64)
    return Sums(
        labels=tuple("abcdef"[: len(means)]),
        n_tokens=2 * len(means) + n_outside,
        n_inside=2 * len(means),
        n_labelled=np.full(len(means), 2),
        inside=2 * means.sum(axis=0),
        outside=n_outside * np.array(outside, dtype=np.float64),
        labelled=2 * means,
        largest=means.max(axis=0),
        counts=counts,
        labelled_counts=np.zeros((len(means), *counts.shape), dtype=np.int64),
    )


def test_reason_scores_by_hand():
    # Feature 0 is active at both labels alike, 1 at the first alone, 2 only outside, 3 nowhere.
    table = reason_scores(by_hand([[2, 4, 0, 0], [2, 0, 0, 0]], [1, 0, 3, 0]))
    assert table["inside_share"].to_list() == [0.5, 0.5, 0, 0]
    assert table["outside_share"].to_list() == [0.25, 0, 0.75, 0]
    assert table["entropy"].to_list() == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)
    assert table["score"].to_list() == pytest.approx([0.25, 0, -0.75, np.nan], nan_ok=True)


def test_evenness_counts_less_with_a_lower_alpha_by_hand():
    # Shares 3/4 and 1/4 have an entropy of 0.811 bits.
    table = reason_scores(by_hand([[3, 1], [1, 3]], [1, 1]), alpha=0.5)
    assert table["entropy"].to_list() == pytest.approx([0.8112781] * 2)
    assert table["score"].to_list() == pytest.approx([0.5 * 0.8112781**0.5 - 0.5] * 2)


def test_with_one_label_or_nothing_outside_a_score_is_undefined():
    one = reason_scores(by_hand([[1, 2]], [1, 1]))
    assert one["entropy"].is_nan().all()
    assert one["score"].is_nan().all()
    assert one["inside_share"].to_list() == pytest.approx([1 / 3, 2 / 3])
    assert reason_scores(by_hand([[1, 2], [2, 1]], [0, 0], n_outside=0))["score"].is_nan().all()


def test_where_all_features_are_silent_on_one_side_every_score_is_undefined():
    silent_inside = reason_scores(by_hand([[0, 0], [0, 0]], [1, 3]))
    assert silent_inside["inside_share"].is_nan().all()
    assert silent_inside["outside_share"].to_list() == [0.25, 0.75]
    assert silent_inside["score"].is_nan().all()
    silent_outside = reason_scores(by_hand([[1, 2], [2, 1]], [0, 0]))
    assert silent_outside["inside_share"].to_list() == [0.5, 0.5]
    assert silent_outside["outside_share"].is_nan().all()
    assert silent_outside["score"].is_nan().all()


def test_a_label_of_no_stored_token_changes_nothing(store, sae, labels, case):
    # The first place of a text is in its prompt, which is not stored.
    more = pl.concat([labels, LABELS.frame([{"text": 0, "position": 0, "label": "zzz"}])])
    added = sums(store, sae, more)
    assert added.n_labelled.tolist()[-1] == 0
    assert reason_scores(added).equals(reason_scores(sums(store, sae, labels)))
    assert label_activations(added).equals(label_activations(sums(store, sae, labels)))


def test_shards_add_up_in_any_order_and_in_their_own_give_the_same_bytes(store, sae, labels):
    names = label_names(store, labels)
    parts = [shard_sums(store, sae, labels, names, number) for number in range(len(store.portions))]
    whole = sums(store, sae, labels)
    together = functools.reduce(operator.add, parts)
    for name in ("inside", "outside", "labelled", "counts", "labelled_counts", "largest"):
        assert getattr(together, name).tobytes() == getattr(whole, name).tobytes(), name
    for order in itertools.islice(itertools.permutations(parts), 1, 200, 37):
        same(functools.reduce(operator.add, order), whole)


def test_every_shard_is_read_once_and_its_rows_encoded_once(store, sae, labels, monkeypatch):
    read, n_encoded = [], []

    def watched_read(store, site, number, read_rows=shard_features.read_rows):
        read.append(number)
        return read_rows(store, site, number)

    def watched_encode(sae, rows, encoded=shard_features.encoded):
        n_encoded.append(len(rows))
        return encoded(sae, rows)

    monkeypatch.setattr(shard_features, "read_rows", watched_read)
    monkeypatch.setattr(shard_features, "encoded", watched_encode)
    sums(store, sae, labels)
    assert read == list(range(len(store.portions)))
    assert sum(n_encoded) == store.n_rows


counts = arrays.arrays(np.int64, (3, 4), elements=st.integers(0, 9))


@given(counts, counts, st.integers(0, 5), st.integers(0, 5))
def test_an_auroc_from_histograms_is_that_of_the_bins_as_values(positives, negatives, n_zero, n_other_zero):
    n_positive, n_negative = int(positives.sum(axis=1).max()) + n_zero, int(negatives.sum(axis=1).max()) + n_other_zero
    area = auroc(positives, n_positive, negatives, n_negative)
    flipped = auroc(negatives, n_negative, positives, n_positive)
    if not n_positive or not n_negative:
        assert np.isnan(area.value).all()
        return
    assert np.allclose(area.value + flipped.value, 1)
    for feature in range(3):
        values = [
            np.repeat(np.arange(5), [total - by_bin[feature].sum(), *by_bin[feature]])
            for by_bin, total in ((positives, n_positive), (negatives, n_negative))
        ]
        truth = np.repeat([1, 0], [n_positive, n_negative])
        assert area.value[feature] == pytest.approx(roc_auc_score(truth, np.concatenate(values)))
        equal = sum(positives[feature] * negatives[feature]) / (n_positive * n_negative)
        assert area.error[feature] == pytest.approx(equal / 2)


def test_a_store_of_another_width_or_without_the_site_is_refused(store, saes, labels):
    with pytest.raises(
        ModelError, match=r"SAE tiny-sae reads streams of width 16, and .* of tiny-llama-5, of width 32"
    ):
        sums(store, saes(5, d_model=16), labels)
    with pytest.raises(SiteError, match=r"has no blocks.1.hook_resid_pre: there is blocks.1.hook_resid_post, blocks.0"):
        sums(store, saes(5, site=Site(1, "resid_pre")), labels)


def test_without_labels_every_token_is_outside(store, sae, labels):
    bare, labelled = sums(store, sae, labels.clear()), sums(store, sae, labels)
    assert (bare.labels, bare.n_inside) == ((), 0)
    assert bare.outside == pytest.approx(labelled.total)
    assert firing(bare).equals(firing(labelled), null_equal=True)


def test_labels_of_nothing_or_of_other_texts_are_refused(store, sae, labels):
    with pytest.raises(StorageError, match=r"no token of the texts in .* has a label: want labels of these texts"):
        label_names(store, labels.clear())
    for text, position in ((99, 0), (0, 99), (0, -1)):
        stray = LABELS.frame([{"text": text, "position": position, "label": "wait"}])
        with pytest.raises(StorageError, match=f"labels are of other texts .* token {position} of text {text}, and 1 "):
            sums(store, sae, pl.concat([labels, stray]))
    unstored = LABELS.frame([{"text": 0, "position": 0, "label": label} for label in ("a", "b")])
    with pytest.raises(StorageError, match=r"none of the .* stored tokens has one of the labels a, b: capture more"):
        reason_scores(sums(store, sae, unstored))


def test_an_sae_of_one_model_reads_the_stream_of_another_of_its_width(tuned_store, sae, labels):
    assert reason_scores(sums(tuned_store, sae, labels))["score"].is_not_nan().any()


def test_positions_decide_which_tokens_there_are(stores, sae, labels):
    everywhere = stores(tiny_model("llama", seed=5), rule=AllTokens())
    added = sums(everywhere, sae, labels)
    assert added.n_tokens == everywhere.n_rows
    assert added.n_labelled.sum() == len(labels)
