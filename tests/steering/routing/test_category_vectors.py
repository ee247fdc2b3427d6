"""Category vectors are single fits on each category's disagreements, and controls leave out one thing each."""

from dataclasses import replace

import pytest
import torch

from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from lab.sampling.decoder import left_padded
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add
from steering.fits.fit import Disagreements, chosen
from steering.fits.gradient import GradientFit, fit_gradient
from steering.hybrid.interventions import PerCategory
from steering.routing.category_vectors import (
    CategoryVectors,
    any_category,
    exchanged,
    fit_category_vectors,
    random_vectors,
)
from steering.vector import SteeringVector

SITE = Site(0)
FIT = GradientFit(n_steps=6, batch_size=4, learning_rate=0.3)
NAMES = ("first", "second", "third", "none")
CATEGORIES = [0, 1, 0, 1, 0, 2, 0, 1]


def axes(n_categories=4, names=NAMES) -> Taxonomy:
    """Category i is where dimension i is the largest of the first few."""
    columns = torch.eye(32)[:, :n_categories]
    return Taxonomy(
        site=SITE,
        mean=torch.zeros(32),
        W_enc=columns,
        b_enc=torch.zeros(n_categories),
        W_dec=columns.T.contiguous(),
        b_dec=torch.zeros(32),
        k=1,
        names=names,
        model="tiny",
        model_digest="digest",
    )


@pytest.fixture(scope="module")
def disagreements(model) -> Disagreements:
    padded = left_padded(model, [list(b"what is it" + bytes([65 + row]) * (1 + row % 3)) for row in range(8)])
    return Disagreements(padded.tokens, padded.mask, torch.arange(65, 73))


@pytest.fixture(scope="module")
def streams() -> torch.Tensor:
    return 3 * torch.eye(32)[CATEGORIES]


@pytest.fixture(scope="module")
def found(model, streams, disagreements) -> CategoryVectors:
    return fit_category_vectors(model, SITE, axes(), "base", streams, disagreements, FIT, min_disagreements=3, seed=2)


def test_each_vector_is_the_fit_on_the_decisions_of_its_category_alone(model, disagreements, found):
    for category in (0, 1):
        rows = torch.tensor([row for row, other in enumerate(CATEGORIES) if other == category])
        generator = torch_generator(2, "base", "category", category)
        alone = fit_gradient(model, SITE, chosen(disagreements, rows), FIT, generator, description="alone")
        torch.testing.assert_close(
            found.vectors[category].directions[SITE], alone.directions[SITE], rtol=1e-3, atol=1e-4
        )
    assert not torch.equal(found.vectors[0].directions[SITE], found.vectors[1].directions[SITE])


def test_a_category_with_too_few_decisions_is_not_steered_and_says_so(found):
    assert found.n_disagreements == (4, 3, 1, 0)
    assert found.fitted == (0, 1)
    assert [vector.norms[SITE] for vector in found.vectors[2:]] == [0.0, 0.0]
    assert found.vectors[2].description == "none: 1 disagreements in category 'third', too few"
    assert found.vectors[0].description == "gradient on 4 tokens where the base model's stream is in category 'first'"


def test_a_table_without_any_fitted_vector_is_no_error(model, streams, disagreements):
    none = fit_category_vectors(model, SITE, axes(), "tuned", streams, disagreements, FIT, min_disagreements=9, seed=2)
    assert none.fitted == ()
    assert none.n_disagreements == (4, 3, 1, 0)
    assert none.table.reader == "tuned"


def test_the_table_holds_the_vectors_in_the_order_of_categories(found):
    assert found.table == PerCategory(found.taxonomy, "base", tuple(Add(vector) for vector in found.vectors))


def test_streams_of_other_decisions_are_refused(model, streams, disagreements):
    with pytest.raises(VectorError, match="7 streams of 8 disagreements: want one each"):
        fit_category_vectors(model, SITE, axes(), "base", streams[:7], disagreements, FIT, min_disagreements=1, seed=0)


def test_a_vector_too_few_is_refused(found):
    with pytest.raises(VectorError, match="3 vectors and 4 counts of disagreements for a taxonomy of 4 categories"):
        replace(found, vectors=found.vectors[:3])


def made(*norms: float) -> CategoryVectors:
    """A table of vectors of these norms, with as many disagreements as ten times the category's number."""
    n = len(norms)
    return CategoryVectors(
        taxonomy=axes(n, tuple(map(str, range(n)))),
        reader="base",
        vectors=tuple(
            SteeringVector({SITE: norm * torch.eye(32)[index]}, {SITE: 1.0}, "") for index, norm in enumerate(norms)
        ),
        n_disagreements=tuple(10 * index for index in range(n)),
    )


@pytest.mark.parametrize("seed", range(5))
def test_exchanged_vectors_are_all_there_and_none_at_home(seed):
    table = made(0.0, 1.0, 2.0, 0.0, 3.0)
    edits = exchanged(table, torch_generator(seed, "test")).edits
    own = table.table.edits
    assert [edits[index] == own[index] for index in range(5)] == [True, False, False, True, False]
    assert sorted(edit.vector.norms[SITE] for edit in edits) == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_two_vectors_are_swapped():
    edits = exchanged(made(0.0, 1.0, 2.0), torch_generator(0, "test")).edits
    assert [edit.vector.norms[SITE] for edit in edits] == [0.0, 2.0, 1.0]


@pytest.mark.parametrize("norms", [(0.0, 1.0), (0.0, 0.0)])
def test_a_single_vector_cannot_be_exchanged(norms):
    with pytest.raises(VectorError, match="of 2 categories have a vector, which leaves nothing to exchange: want two"):
        exchanged(made(*norms), torch_generator(0, "test"))


def test_any_category_leaves_out_those_without_a_vector():
    assert [edit.vector.norms[SITE] for edit in any_category(made(0.0, 1.0, 0.0, 2.0)).edits] == [1.0, 2.0]


def test_random_vectors_are_as_long_as_those_of_the_categories_as_often_as_these_have_decisions():
    drawn = random_vectors(made(0.0, 1.0, 0.0, 4.0), 400, seed=0).edits
    norms = torch.tensor([edit.vector.norms[SITE] for edit in drawn])
    short = (norms - 1).abs() < 1e-5
    assert ((norms - 4).abs() < 1e-4)[~short].all()
    # 10 disagreements of one and 30 of the other; the standard error of the share is 0.022.
    assert float(short.float().mean()) == pytest.approx(0.25, abs=0.07)
    assert len({tuple(edit.vector.directions[SITE].tolist()) for edit in drawn}) == 400


def test_where_no_category_has_a_vector_there_is_nothing_to_be_as_long_as():
    with pytest.raises(VectorError, match="no category has a vector"):
        random_vectors(made(0.0, 0.0), 4, seed=0)
