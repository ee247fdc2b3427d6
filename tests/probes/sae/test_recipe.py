"""What a recipe allows, and what it is called."""

import pytest

from lab.records.errors import ModelError
from probes.capture.site import Site
from probes.sae.architecture import BatchTopK, JumpReLU, Matryoshka, Recipe, TopK, Training

from .conftest import recipe


def test_a_directory_is_named_for_its_recipe():
    assert recipe(TopK(16)).name == "blocks.1.hook_resid_post/topk-16-48"
    assert recipe(Matryoshka(4, (8, 16)), site=Site(0, "resid_pre")).name == (
        "blocks.0.hook_resid_pre/matryoshka-4-8-16-48"
    )


@pytest.mark.parametrize(
    ("architecture", "d_sae", "least"),
    [
        (TopK(9), 8, 9),
        (BatchTopK(9), 8, 9),
        (Matryoshka(2, (4, 8)), 8, 9),
        (Matryoshka(9), 8, 9),
        (JumpReLU(1.0), 0, 1),
    ],
)
def test_too_few_features_are_refused(architecture, d_sae, least):
    with pytest.raises(ModelError, match=f"with {d_sae} features: want at least {least}"):
        recipe(architecture, d_sae=d_sae)
    assert recipe(architecture, d_sae=least).d_sae == least


@pytest.mark.parametrize("changes", [{"n_tokens": 10, "batch_size": 11}, {"batch_size": 0}, {"dead_after": 0}])
def test_training_of_no_batch_is_refused(changes):
    with pytest.raises(ModelError, match="want at least one whole batch"):
        Training(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.0}, {"held_out_share": 1.0}, {"warm_up_share": -0.1}, {"warm_up_share": 0.6, "decay_share": 0.6}],
)
def test_rates_and_shares_out_of_range_are_refused(changes):
    with pytest.raises(ModelError, match="want a rate above"):
        Training(**changes)


def test_the_learning_rate_falls_with_the_root_of_the_width_unless_it_is_given():
    narrow, wide = (recipe(TopK(4), d_sae=d_sae, training=Training()) for d_sae in (2**10, 2**14))
    assert wide.lr == 5e-4
    assert narrow.lr == pytest.approx(4 * wide.lr)
    assert Recipe(site=Site(0), architecture=TopK(4), d_sae=64, training=Training(lr=1e-3)).lr == 1e-3
