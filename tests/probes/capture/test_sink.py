"""Where the first token drowns the others, no feature is sought, and the blocks are named where it does not."""

import pytest
import torch

from lab.models.load import Model, assemble
from lab.models.tiny import byte_tokenizer, tiny_network
from lab.records.errors import SiteError
from probes.capture.capture import MOST, require_no_sink, sink_ratios
from probes.capture.site import Site

SINK = 7
"""A token that the second block of `model` makes long."""


@pytest.fixture
def model() -> Model:
    """Its second block writes 1,000 times what it wrote, but only where the token is `SINK`."""
    network = tiny_network("llama", seed=0)

    def lengthen(module, inputs, output):
        return torch.where((tokens["ids"] == SINK)[..., None], output * 1000, output)

    tokens: dict[str, torch.Tensor] = {}
    network.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: tokens.update(ids=inputs[0]))
    network.model.layers[1].register_forward_hook(lengthen)
    return assemble(network, byte_tokenizer(), name="tiny")


def test_a_ratio_is_of_the_first_token_to_the_others_whatever_the_padding(model):
    texts = [[SINK, 30, 31, 32], [SINK, 40], [SINK, 50, 51]]
    before, after = sink_ratios(model, [Site(0), Site(1)], texts).values()
    assert 0.1 < before < MOST
    one = [sink_ratios(model, [Site(1)], [text])[Site(1)] for text in texts]
    assert min(one) * 0.9 < after < max(one) * 1.1
    assert after > 100


def test_a_block_with_a_sink_is_refused_with_the_blocks_before_it(model):
    texts = [[SINK, 30, 31, 32]]
    require_no_sink(model, [0], texts)
    with pytest.raises(SiteError, match=r"tiny at block 1 \(\d{3,} times\): .* try blocks 0$"):
        require_no_sink(model, [0, 1], texts)


def test_a_long_token_elsewhere_is_no_sink(model):
    require_no_sink(model, [0, 1], [[30, SINK, 31, 32]])


def test_texts_of_one_token_cannot_tell(model):
    with pytest.raises(SiteError, match="2 texts of at most one token"):
        sink_ratios(model, [Site(0)], [[30], [31]])
