"""Judging tells planted clusters from noise and from chance, on held-out problems and without a language model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lab.metrics.bootstrap import resamples
from probes.tables import CATEGORIES, TAXONOMIES
from probes.taxonomy.judge import Basis, judge
from probes.taxonomy.segments import SegmentMeans, parts
from probes.taxonomy.survey import categories, noise
from probes.taxonomy.taxonomy import ClusteringSae, fit, normalised

from .conftest import planted

NAMED = {"site": "blocks.0.hook_resid_post", "method": "sae-k1", "n_categories": 5, "n_dead": 0}


def basis_of(spans: SegmentMeans, **readings: SegmentMeans) -> Basis:
    of = parts(spans.segments["problem_id"].to_list(), 0)
    n_problems = spans.segments["problem_id"].filter(of.judged).n_unique()
    return Basis(
        spans=spans,
        noise=noise(spans, seed=0),
        readings=readings,
        parts=of,
        weights=resamples(n_problems, 300, np.random.default_rng(0)),
        seed=0,
    )


def fitted(read: SegmentMeans, basis: Basis, n_fits: int = 2):
    method = ClusteringSae(k=1, n_epochs=20)
    return [fit(read, basis.parts, 5, method, seed=seed).taxonomy for seed in range(n_fits)]


@pytest.fixture(scope="module")
def spans() -> SegmentMeans:
    return planted(5)[0]


@pytest.fixture(scope="module")
def blurred(spans) -> SegmentMeans:
    """The same segments, of which a third are read as any other."""
    generator = torch.Generator().manual_seed(0)
    others = torch.randperm(len(spans.means), generator=generator)
    swapped = torch.rand(len(spans.means), generator=generator) < 1 / 3
    return replace(spans, means=torch.where(swapped[:, None], spans.means[others], spans.means))


@pytest.fixture(scope="module")
def basis(spans, blurred) -> Basis:
    return basis_of(spans, blurred=blurred)


@pytest.fixture(scope="module")
def fits(spans, basis):
    return fitted(spans, basis)


@pytest.fixture(scope="module")
def table(basis, fits) -> pl.DataFrame:
    rows = judge(basis, fits, fitted(basis.noise, basis))
    return TAXONOMIES.frame([NAMED | row for row in rows])


def row(table: pl.DataFrame, measure: str, reading: str = "span mean") -> dict:
    return table.row(by_predicate=(pl.col("measure") == measure) & (pl.col("reading") == reading), named=True)


def test_each_measure_comes_once_for_each_reading(table):
    assert table.select("measure", "reading").is_unique().all()
    assert len(table) == 2 + 2 * 3 + 1


@pytest.mark.parametrize("measure", ["mutual information", "purity", "macro F1"])
def test_planted_clusters_agree_with_their_labels_and_shuffled_ones_do_not(table, measure):
    found = row(table, measure)
    assert found["value"] > 0.95
    assert found["shuffled"] < 0.4
    assert found["null"] < found["value"]
    assert found["low"] <= found["value"] <= found["high"] <= 1


def test_planted_clusters_are_explained_and_found_again_better_than_noise(table):
    for measure in ("explained variance", "stability"):
        found = row(table, measure)
        assert found["low"] <= found["value"] <= found["high"]
        assert found["null"] < found["value"] - 0.05
        assert np.isnan(found["shuffled"])


def test_explained_variance_is_that_of_the_held_out_segments(table, basis, fits):
    held_out = torch.from_numpy(basis.parts.judged)
    units = normalised(basis.spans.means[held_out], fits[0].mean)
    errors = (units - fits[0].reconstruction(basis.spans.means[held_out])).square().sum()
    wanted = 1 - errors / (units - units.mean(dim=0)).square().sum()
    assert row(table, "explained variance")["value"] == pytest.approx(float(wanted), abs=1e-5)


def test_another_reading_is_held_to_the_same_labels_and_categories(table):
    same, agreed = row(table, "sameness", "blurred"), row(table, "purity", "blurred")
    # A third are read as another segment, of which a fifth is of the same cluster.
    assert same["value"] == pytest.approx(1 - 4 / 15, abs=0.08)
    assert same["shuffled"] == pytest.approx(1 / 5, abs=0.05)
    assert agreed["value"] == pytest.approx(same["value"], abs=0.03)


def test_held_out_segments_and_problems_are_counted(table, basis):
    assert table["n_segments"].unique().to_list() == [int(basis.parts.judged.sum())]
    assert table["n_problems"].unique().to_list() == [basis.weights.shape[1]]


def test_what_is_learned_from_held_out_labels_does_not_count(basis, fits, spans):
    # Names are turned round in the held-out part: the key is from the fit, so nearly all are wrong.
    turned = pl.col("label").str.replace_many({"l0": "l1", "l1": "l2", "l2": "l3", "l3": "l4", "l4": "l0"})
    label = pl.when(pl.Series(basis.parts.judged)).then(turned).otherwise(pl.col("label"))
    data = replace(spans, segments=spans.segments.with_columns(label))
    table = TAXONOMIES.frame([NAMED | found for found in judge(replace(basis, spans=data, readings={}), fits, fits)])
    assert row(table, "mutual information")["value"] > 0.95
    assert row(table, "purity")["value"] < 0.05
    assert row(table, "macro F1")["value"] < 0.05


def test_without_labels_agreement_is_undefined_and_says_why(spans, fits):
    unlabelled = replace(spans, segments=spans.segments.with_columns(pl.lit(None, dtype=pl.String).alias("label")))
    rows = judge(basis_of(unlabelled), fits, fits)
    table = TAXONOMIES.frame([NAMED | found for found in rows])
    for measure in ("mutual information", "purity", "macro F1"):
        found = row(table, measure)
        assert all(np.isnan(found[name]) for name in ("value", "low", "high", "shuffled", "null"))
        assert found["note"] == "no exact labels: the rule of the segments gives none"
        assert found["n_segments"] == 0
    assert row(table, "explained variance")["value"] > 0.5
    contents = CATEGORIES.frame([named(found) for found in categories(fits[0], unlabelled, basis_of(spans).parts)])
    assert contents["label"].null_count() == 5
    assert contents["label_share"].is_nan().all()


def test_segments_without_a_label_among_others_are_left_out(spans, fits):
    some = pl.when(pl.col("text") % 2 == 0).then(pl.col("label"))
    data = replace(spans, segments=spans.segments.with_columns(some.alias("label")))
    basis = basis_of(data)
    table = TAXONOMIES.frame([NAMED | found for found in judge(basis, fits, fits)])
    n_labelled = data.segments.filter(basis.parts.judged)["label"].count()
    assert row(table, "purity")["n_segments"] == n_labelled < int(basis.parts.judged.sum())
    assert row(table, "purity")["value"] > 0.95


def test_the_stability_of_a_single_fit_is_undefined(basis, fits):
    found = [found for found in judge(basis, fits[:1], fits[:1]) if found["measure"] == "stability"]
    assert np.isnan(found[0]["value"])
    assert found[0]["note"] == "a single fit: stability wants two"


def named(found: dict) -> dict:
    return {name: NAMED[name] for name in ("site", "method", "n_categories")} | found


def test_contents_say_what_each_category_holds(basis, fits, spans):
    contents = CATEGORIES.frame([named(found) for found in categories(fits[0], spans, basis.parts)])
    assert contents["category"].to_list() == [0, 1, 2, 3, 4]
    assert contents["share"].sum() == pytest.approx(1)
    assert contents["name"].to_list() == list(fits[0].names)
    assert contents["label"].to_list() == contents["name"].to_list()
    assert contents["label_share"].min() > 0.9
    # A planted segment of label `l3` reads `wl3 x`.
    assert contents["examples"].list.first().to_list() == [f"w{name} x" for name in fits[0].names]
    assert all(len(found) == len(set(found)) <= 5 for found in contents["examples"].to_list())
