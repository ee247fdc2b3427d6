"""Every switch of a recipe changes the part of the hybrid that it names, and nothing else."""

from dataclasses import fields, replace

import pytest
import torch

from probes.capture.site import Site
from probes.taxonomy.taxonomy import require_fit
from steering.hybrid.interventions import (
    Drawn,
    FirstChooser,
    PerCategory,
    RandomCategory,
    RandomChooser,
    Sweep,
    TunedChooser,
)
from steering.hybrid.routers import AtRandom, Disagreement
from steering.published_hybrids.arms import (
    DOSES,
    LISTED,
    MENDED,
    N_RANDOM,
    P1,
    P2,
    WINDOWS,
    Place,
    Reading,
    Vectors,
    hybrid_of,
    published_arms,
    raw_taxonomy,
)
from steering.published_hybrids.published_hybrids import FittedOn

INPUT, OUTPUT = Site(1, "resid_pre"), Site(1)


def made(published, recipe=None, seed=0):
    return hybrid_of(published, recipe or P1(), seed=seed)


def directions(table):
    """What the edits add, whatever the site."""
    return [edit.vector.directions[site] for edit in table.edits for site in edit.vector.sites]


def assert_same(one, other):
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_p1_is_fifty_candidates_among_which_the_tuned_model_chooses(published):
    hybrid = made(published)
    assert hybrid.router == Disagreement()
    assert isinstance(hybrid.intervention, Sweep)
    assert len(hybrid.intervention.doses) * len(hybrid.intervention.windows) == 50
    assert max(hybrid.intervention.doses) == hybrid.intervention.doses[0] == 1.0
    assert hybrid.intervention.windows[0] is None
    assert hybrid.intervention.chooser == TunedChooser()
    table, fit = hybrid.intervention.table, published.on_all_tokens
    assert isinstance(table, PerCategory)
    assert table.reader == "tuned"
    assert_same(directions(table), [fit.bias.directions[INPUT] + one.directions[INPUT] for one in fit.categories])


@pytest.mark.parametrize("chooser", [FirstChooser(), RandomChooser()])
def test_a_chooser_changes_who_chooses_and_nothing_else(published, chooser):
    theirs, ours = made(published).intervention, made(published, P1(chooser=chooser)).intervention
    assert ours.chooser == chooser
    # Of candidates that nobody reads none is written.
    n = 1 if chooser == FirstChooser() else 10
    assert (ours.doses, ours.windows) == (theirs.doses[:n], theirs.windows[:n])
    assert_same(directions(ours.table), directions(theirs.table))


def test_the_targets_of_the_fit_change_the_vectors_and_not_their_site(published):
    theirs, ours = (
        made(published, P1(fitted_on=on)).intervention.table for on in (FittedOn.ALL_TOKENS, FittedOn.DISAGREEMENTS)
    )
    fit = published.on_disagreements
    assert_same(directions(ours), [fit.bias.directions[INPUT] + one.directions[INPUT] for one in fit.categories])
    assert not any(torch.equal(one, two) for one, two in zip(directions(ours), directions(theirs), strict=True))
    assert {site for edit in ours.edits for site in edit.vector.sites} == {OUTPUT}


@pytest.mark.parametrize("vectors", [kind for kind in Vectors if kind != Vectors.LEARNED])
def test_the_place_moves_vectors_by_one_block_and_leaves_them_as_they_are(published, vectors):
    for recipe in (P1(), P1(vectors=vectors)):
        theirs, ours = (
            made(published, one).intervention.table for one in (recipe, replace(recipe, place=Place.FITTED))
        )
        assert {edit.vector.sites for edit in theirs.edits} == {(OUTPUT,)}
        assert {edit.vector.sites for edit in ours.edits} == {(INPUT,)}
        assert_same(directions(theirs), directions(ours))


def test_doses_and_windows_are_the_recipes(published):
    intervention = made(published, P1(doses=(0.5,), windows=(3, None))).intervention
    assert (intervention.doses, intervention.windows) == ((0.5,), (3, None))
    assert (P1().doses, P1().windows) == (DOSES, WINDOWS)


def test_raw_reading_skips_centring_and_norms_and_orders_categories_as_raw_scores_do(published, context):
    taxonomy = made(published).intervention.table.taxonomy
    assert made(published, P1(reading=Reading.NORMALISED)).intervention.table.taxonomy is published.taxonomy
    assert made(published, P2()).intervention.table.taxonomy is published.taxonomy
    assert torch.equal(made(published, P2(reading=Reading.RAW)).intervention.table.taxonomy.mean, taxonomy.mean)
    require_fit(taxonomy, context.pair.tuned)
    streams = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    streams *= published.stream_norm / streams.norm(dim=1, keepdim=True)
    raw = streams @ published.taxonomy.W_enc + published.taxonomy.b_enc
    assert torch.equal(taxonomy.category(streams), raw.argmax(dim=1))
    torch.testing.assert_close(taxonomy.scores(streams) * published.stream_norm, raw, atol=1e-3, rtol=1e-4)
    assert not torch.equal(taxonomy.category(streams), published.taxonomy.category(streams))
    # Exact for one norm only: a bias as large as the scores makes the others depend on it.
    biased = replace(published.taxonomy, b_enc=torch.tensor([50.0, 0.0, 0.0]))
    assert torch.equal(
        raw_taxonomy(biased, published.stream_norm).category(streams),
        (streams @ biased.W_enc + biased.b_enc).argmax(dim=1),
    )


def test_controls_of_p1_replace_its_vectors_as_they_say(published):
    fit = published.on_all_tokens
    bias = fit.bias.directions[INPUT]
    norms = [one.norms[INPUT] for one in fit.categories]

    def table(vectors, seed=0):
        return made(published, P1(vectors=vectors), seed).intervention.table

    assert isinstance(table(Vectors.BIAS_ONLY), Drawn)
    assert_same(directions(table(Vectors.BIAS_ONLY)), [bias])
    assert isinstance(table(Vectors.RANDOM_FIRING), RandomCategory)
    assert_same(directions(table(Vectors.RANDOM_FIRING)), directions(made(published).intervention.table))
    ones, frequency_matched, whole = (
        directions(table(kind)) for kind in (Vectors.NORM_ONE, Vectors.NORM_MATCHED, Vectors.ALL_RANDOM)
    )
    assert len(ones) == len(frequency_matched) == len(whole) == N_RANDOM
    for draw in range(N_RANDOM):
        assert float((ones[draw] - bias).norm()) == pytest.approx(1.0, rel=1e-4)
        assert float((frequency_matched[draw] - bias).norm()) == pytest.approx(norms[draw % 3], rel=1e-4)
        learned = bias + fit.categories[draw % 3].directions[INPUT]
        assert float(whole[draw].norm()) == pytest.approx(float(learned.norm()), rel=1e-4)
    assert_same(frequency_matched, directions(table(Vectors.NORM_MATCHED)))
    assert not torch.equal(frequency_matched[0], directions(table(Vectors.NORM_MATCHED, seed=1))[0])


def test_controls_of_p2_replace_its_vectors_as_they_say(published):
    tables = [
        made(published, P2(vectors=kind)).intervention.table for kind in (Vectors.NORM_MATCHED, Vectors.RANDOM_FIRING)
    ]
    learned = made(published, P2()).intervention.table
    assert isinstance(learned, PerCategory)
    assert learned.reader == "tuned"
    assert_same(directions(learned), [one.directions[OUTPUT] for one in published.scaled.categories])
    assert isinstance(tables[0], PerCategory)
    assert isinstance(tables[1], RandomCategory)
    assert_same(directions(tables[1]), directions(learned))
    for ours, theirs in zip(directions(tables[0]), directions(learned), strict=True):
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=1e-4)
        assert not torch.allclose(ours, theirs)
    for table in (learned, *tables):
        assert tuple(edit.coefficient for edit in table.edits) == published.scaled.coefficients


def test_mended_p1_has_every_switch_the_other_way():
    kept = {"router", "vectors"}
    for field in fields(P1):
        assert (getattr(MENDED, field.name) == getattr(P1(), field.name)) == (field.name in kept)


def test_arms_are_the_listed_recipes_each_control_behind_its_arm_and_one_change_apart(published):
    arms = list(published_arms(published, seed=0))
    names = [arm.listed.name for arm in arms]
    assert len(set(names)) == len(names) == len({arm.listed.label for arm in arms})
    recipes = {listed.name: listed.recipe for listed in LISTED}
    for place, (arm, name) in enumerate(zip(arms, names, strict=True)):
        assert arm.control_of is None or arm.control_of in names[:place]
        recipe = recipes[name]
        plain = recipes[arm.control_of or name.split("-")[0]]
        changed = [field.name for field in fields(recipe) if getattr(recipe, field.name) != getattr(plain, field.name)]
        assert len(changed) == (0 if name in ("p1", "p2") else 6 if name == "p1-mended" else 1)
    scattered = hybrid_of(published, P2(router=AtRandom(0.25)), seed=0)
    assert scattered.router == AtRandom(0.25)
    assert_same(directions(scattered.intervention.table), directions(made(published, P2()).intervention.table))
