"""Controls are as long as what they control for, and are fitted on what cannot teach the same."""

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.controls import (
    NormMatched,
    Placebo,
    ShuffledLabels,
    WrongDomain,
    fit_controls,
    norm_matched,
    shuffled_difference,
    shuffled_targets,
)
from steering.fits.examples import Disagreements
from steering.fits.gradient import GradientFit, fit_gradient
from steering.vector import SteeringVector

SITE = Site(0)
FIT = GradientFit(n_steps=10, batch_size=8, learning_rate=0.3)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", seed=5)


def disagreements(model, prompts, targets) -> Disagreements:
    padded = model.tokenizer(prompts, return_tensors="pt", padding=True)
    return Disagreements(padded.input_ids, padded.attention_mask.bool(), torch.tensor(targets))


def additions(model) -> Disagreements:
    return disagreements(model, [f"{index}+1=" for index in range(9)], [49 + index for index in range(9)])


def test_every_control_has_the_norm_of_the_vector_and_says_what_it_is(model):
    vector = fit_gradient(model, SITE, additions(model), FIT, torch_generator(0), description="sums")
    words = disagreements(model, ["the ", "a "], [65, 66])
    controls = {
        "random": NormMatched(),
        "shuffled": ShuffledLabels(additions(model)),
        "words": WrongDomain(words),
        "placebo": Placebo(disagreements(model, ["2+1="], [70])),
    }
    found = fit_controls(model, vector, controls, FIT, seed=0)
    assert list(found) == list(controls)
    for control in found.values():
        assert control.norms[SITE] == pytest.approx(vector.norms[SITE], rel=1e-5)
        assert control.residual_norms == vector.residual_norms
    assert [control.description for control in found.values()] == [
        "random, norm-matched to (sums)",
        "gradient on shuffled labels, norm-matched to (sums)",
        "gradient on another task, norm-matched to (sums)",
        "gradient on a placebo pair, norm-matched to (sums)",
    ]
    assert fit_controls(model, vector, controls, FIT, seed=0) == found
    assert fit_controls(model, vector, {"random": NormMatched()}, FIT, seed=1)["random"] != found["random"]


def test_a_control_on_other_examples_is_the_fit_on_those_stretched(model):
    vector = fit_gradient(model, SITE, additions(model), FIT, torch_generator(0), description="sums")
    words = disagreements(model, ["the ", "a "], [65, 66])
    control = fit_controls(model, vector, {"words": WrongDomain(words)}, FIT, seed=3)["words"]
    alone = fit_gradient(model, SITE, words, FIT, torch_generator(3, "control", "words"), description="")
    cosine = torch.nn.functional.cosine_similarity(control.directions[SITE], alone.directions[SITE], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_shuffled_targets_are_the_same_targets_in_another_pairing(model):
    before = additions(model)
    after = shuffled_targets(before, torch_generator(0))
    assert torch.equal(after.tokens, before.tokens)
    assert sorted(after.targets.tolist()) == sorted(before.targets.tolist())
    assert after.targets.tolist() != before.targets.tolist()


def test_a_shuffled_difference_of_means_forgets_the_sides():
    positive, negative = torch.ones(400, 2) * torch.tensor([5.0, 0.0]), torch.zeros(200, 2)
    shuffled = shuffled_difference(SITE, positive, negative, torch_generator(0))
    # Of 600 values, 5 in two of three; the difference of two means has a standard error of about 0.2.
    assert float(shuffled.directions[SITE].norm()) < 1.0
    assert shuffled.residual_norms[SITE] == pytest.approx(5 * 400 / 600)


def test_a_control_without_a_direction_or_at_another_site_is_refused():
    vector = SteeringVector({SITE: torch.ones(4)}, {SITE: 2.0}, "v")
    for control in (vector * 0.0, SteeringVector({Site(1): torch.ones(4)}, {Site(1): 2.0}, "w")):
        with pytest.raises(VectorError, match="cannot be stretched to a vector at blocks"):
            norm_matched(control, vector)
