"""A fit of the user's own: one class with one method, fed as those that are listed."""

from dataclasses import dataclass, is_dataclass

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.sampling.decoder import left_padded
from probes.capture.capture import capture
from probes.capture.site import Site
from steering.fits.fit import Completions, Disagreements, Fit, Taught
from steering.fits.fits import FITS, MeanDifference, mean_difference
from steering.fits.gradient import FirstTokenGradient, GradientFit, TextGradient, fit_gradient
from steering.vector import SteeringVector

SITE = Site(1)
GOOD, BAD = ([5, 6, 7, 8], [5, 9, 7, 4]), ([5, 1, 2], [5, 3, 3])
"""Texts whose first token is the prompt."""
FEW = GradientFit(n_steps=3)


@dataclass(frozen=True, slots=True)
class ByHand:
    """Two sides of token ids."""

    description: str = "by hand"

    def sides(self, model, site):
        def streams(texts):
            read = left_padded(model, [text[:2] for text in texts])
            return capture(model, read.tokens, read.mask, [site])[site][:, -1]

        return streams(GOOD), streams(BAD)

    def texts(self, model, most, generator):
        read = left_padded(model, GOOD[:most])
        return Completions(read.tokens, read.mask, torch.tensor([len(text) - 1 for text in GOOD[:most]]))

    def first_tokens(self, model, generator):
        read = left_padded(model, [text[:1] for text in GOOD])
        return Disagreements(read.tokens, read.mask, torch.tensor([text[1] for text in GOOD]))


@dataclass(frozen=True, slots=True)
class Drawn(Fit[Taught]):
    """A random direction as long as the first side's mean stream."""

    def fit(self, model, sites, taught, *, seed):
        (site,) = sites
        norm = taught.sides(model, site)[0].mean(dim=0).norm()
        noise = torch.randn(model.anatomy.d_model, generator=torch.Generator().manual_seed(seed))
        return SteeringVector({site: norm * noise / noise.norm()}, {site: float(norm)}, taught.description)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_fit_from_outside_is_given_what_it_asks_for(model):
    assert isinstance(ByHand(), Taught)
    vector = Drawn().fit(model, (SITE,), ByHand(), seed=1)
    positive = ByHand().sides(model, SITE)[0].mean(dim=0)
    assert vector.norms[SITE] == pytest.approx(float(positive.norm()), rel=1e-5)
    assert vector != Drawn().fit(model, (SITE,), ByHand(), seed=2)
    assert Drawn().learns_from == "sides"


def test_the_listed_fits_of_texts_are_the_functions_on_the_same_texts(model):
    taught, generator = ByHand(), torch.Generator
    mean = MeanDifference().fit(model, (SITE,), taught, seed=3)
    assert mean == mean_difference(SITE, *taught.sides(model, SITE), description="")
    assert mean.description == "difference of means after the first token: 2 and 2, by hand"
    texts = TextGradient(FEW, n_texts=1).fit(model, (SITE,), taught, seed=3)
    # One text is drawn whatever the generator.
    assert texts == fit_gradient(model, SITE, taught.texts(model, 1, None), FEW, generator(), description="")
    opening = FirstTokenGradient(FEW).fit(model, (SITE,), taught, seed=3)
    assert opening.description == "gradient on 2 disagreements at the first token, by hand"
    assert opening == FirstTokenGradient(FEW).fit(model, (SITE,), taught, seed=3)
    assert [kind.learns_from for kind in (MeanDifference(), TextGradient(), FirstTokenGradient())] == [
        "sides",
        "tokens",
        "tokens",
    ]


@pytest.mark.parametrize("name", FITS)
def test_every_listed_fit_is_a_frozen_value(name):
    kind = FITS[name]
    assert Fit in kind.mro()
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
