"""A bound on entropy opens as often as is asked, and entropies are those of single texts read without padding."""

import copy

import numpy as np
import pytest
import torch

from lab.models.load import of_network
from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from steering.routing.routing import entropies, fit_entropy


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_entropies_are_those_of_each_prefix_alone(family, written):
    model, few = tiny_model(family, seed=2), written.traces.head(5)
    slow = []
    for problem_id, tokens in few.select("problem_id", "tokens").iter_rows():
        prompt = model.tokenizer(written.problems[problem_id].prompt).input_ids
        for position in range(len(tokens)):
            logits = model.network(input_ids=torch.tensor([prompt + tokens[:position]])).logits[0, -1].double()
            chances = logits.softmax(dim=0)
            slow.append(float(-(chances * chances.log()).sum()))
    assert entropies(model, few, written.problems) == pytest.approx(np.array(slow), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_router_opens_at_the_share_that_was_asked_for(model, written, share):
    found = entropies(model, written.traces, written.problems)
    router = fit_entropy(model, written.traces, written.problems, share)
    # Equal texts have equal entropies up to rounding, which cannot be parted evenly.
    assert (found > router.nats).mean() == pytest.approx(share, abs=0.02)


def test_a_model_that_is_always_as_unsure_opens_everywhere_or_nowhere(model, written):
    network = copy.deepcopy(model.network)
    network.lm_head.weight.zero_()
    even = of_network(model, network, name="even")
    routers = [fit_entropy(even, written.traces, written.problems, share) for share in (0.2, 0.8)]
    assert routers[0].nats > np.log(258) > routers[1].nats


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(model, written, share):
    with pytest.raises(VectorError, match="want a number from 0 to 1"):
        fit_entropy(model, written.traces, written.problems, share)
