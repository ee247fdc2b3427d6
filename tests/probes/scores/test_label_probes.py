"""Probes find what is there, on problems they have not seen, and their control finds nothing."""

import numpy as np
import polars as pl
import pytest

from lab.models.tiny import tiny_model
from lab.records.errors import StorageError
from lab.records.seeds import numpy_generator
from probes.scores.label_probes import label_probes
from probes.scores.labels import LABELS
from probes.storage.store import Store


def labels_where(store: Store, chosen: np.ndarray, label: str) -> pl.DataFrame:
    """A label at some of the stored rows."""
    rows = store.index().select("text", "position").collect().filter(pl.Series(chosen))
    return LABELS.checked(rows.with_columns(pl.lit(label).alias("label")))


@pytest.fixture(scope="module")
def large(stores, text_maker) -> Store:
    """Twenty problems, some 600 tokens."""
    return stores(tiny_model("llama", seed=5), text_maker(40, 1))


@pytest.fixture(scope="module")
def relu(saes):
    return saes(None)


@pytest.fixture(scope="module")
def table(large, relu, read_all) -> pl.DataFrame:
    """Probes of a direction of the stream, a feature, and chance."""
    known = read_all(large, relu)
    generator = np.random.default_rng(0)
    direction = known.stream @ generator.normal(size=known.stream.shape[1])
    labels = {
        "along": direction > np.quantile(direction, 0.7),
        "feature": known.features[:, 11] > np.quantile(known.features[:, 11], 0.8),
        "nothing": generator.random(len(direction)) < 0.3,
    }
    return label_probes(
        large, relu, pl.concat([labels_where(large, chosen, name) for name, chosen in labels.items()]), seed=0
    )


def test_every_label_has_a_linear_three_sparse_and_a_shuffled_probe(table, relu):
    assert table["label"].unique(maintain_order=True).to_list() == ["along", "feature", "nothing"]
    for _, rows in table.group_by("label"):
        assert rows["probe"].to_list() == ["linear", "sparse", "sparse", "sparse", "shuffled"]
        assert rows["n_features"].to_list() == [32, 1, 4, 16, 32]
        assert rows["features"].list.len().to_list() == [0, 1, 4, 16, 0]
        assert rows["n_tokens"].n_unique() == rows["n_labelled"].n_unique() == 1


def test_a_linear_probe_reads_a_direction_and_a_sparse_one_finds_the_feature(table):
    linear = table.filter(label="along", probe="linear").row(0, named=True)
    assert linear["auroc"] > 0.95
    assert linear["f1"] > 0.8
    single = table.filter(label="feature", probe="sparse", n_features=1).row(0, named=True)
    assert single["features"] == [11]
    assert single["auroc"] == pytest.approx(1)
    assert single["f1"] > 0.9


def test_chance_and_shuffled_labels_cannot_be_read(table):
    for row in table.filter((pl.col("label") == "nothing") | (pl.col("probe") == "shuffled")).iter_rows(named=True):
        assert 0.35 < row["auroc"] < 0.65
        assert row["low"] < row["auroc"] < row["high"]
        assert row["low"] < 0.55


def test_more_features_contain_the_fewer(table):
    for _, rows in table.filter(probe="sparse").group_by("label"):
        one, four, sixteen = rows["features"].to_list()
        assert sixteen[:4] == four
        assert four[:1] == one


def test_features_are_chosen_and_fitted_on_problems_that_are_not_judged(large, relu, read_all):
    known = read_all(large, relu)
    problems = np.unique(known.index["problem_id"].to_numpy(), return_inverse=True)[1]
    judged = np.isin(problems, numpy_generator(0, "held-out problems").permutation(20)[:10])
    rule, other = (known.features[:, number] > np.quantile(known.features[:, number], 0.8) for number in (11, 5))

    def probed(training: np.ndarray, held_out: np.ndarray) -> pl.DataFrame:
        labels = labels_where(large, np.where(judged, held_out, training), "x")
        return label_probes(large, relu, labels, seed=0, n_boot=100).filter(probe="sparse", n_features=1)

    assert probed(rule, rule)["features"].to_list() == probed(rule, other)["features"].to_list() == [[11]]
    assert probed(other, rule)["features"].to_list() == [[5]]
    assert probed(rule, rule)["auroc"][0] == pytest.approx(1)
    assert probed(rule, other)["auroc"][0] < 0.9


def test_the_same_seed_gives_the_same_table_and_another_one_another_split(large, relu, table, label_maker):
    labels = label_maker(large)
    first, again, other = (label_probes(large, relu, labels, seed=seed, n_boot=100) for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


def test_no_more_tokens_are_read_than_the_cap(large, relu, label_maker):
    capped = label_probes(large, relu, label_maker(large), seed=0, n_boot=100, max_tokens=100)
    assert 20 < capped["n_tokens"][0] < 80


def test_a_small_sae_has_small_probes(large, saes, label_maker):
    table = label_probes(large, saes(None, d_sae=3), label_maker(large), seed=0, n_boot=100)
    assert table.filter(label="but", probe="sparse")["n_features"].to_list() == [1, 3]


def test_a_label_that_all_tokens_have_cannot_be_told(large, relu):
    everywhere = labels_where(large, np.ones(large.n_rows, dtype=bool), "all")
    table = label_probes(large, relu, everywhere, seed=0, n_boot=100)
    assert table.select("auroc", "low", "high", "f1").to_numpy() == pytest.approx(np.nan, nan_ok=True)
    assert (table["n_labelled"] == table["n_tokens"]).all()


def test_one_problem_and_no_labels_are_refused(stores, text_maker, relu, large, label_maker):
    single = stores(tiny_model("llama", seed=5), text_maker(2))
    with pytest.raises(StorageError, match="has tokens of 1 problem: want two or more, to fit on some and judge on"):
        label_probes(single, relu, label_maker(single), seed=0)
    with pytest.raises(StorageError, match="no token of the texts in"):
        label_probes(large, relu, LABELS.frame([]), seed=0)
