import numpy as np
import pytest
import torch

from elicitation.study.interventions import first_token_rates
from lab.models.tiny import tiny_model
from lab.records.errors import ModelError

TOWARD = [65, 84]


def alone(model, prompt, change=None):
    """The probability by a pass of one prompt, without padding; `change` edits the last block's output."""
    stream = model.network(input_ids=torch.tensor([prompt]), output_hidden_states=False)
    if change is not None:
        block = model.anatomy.blocks[-1]
        handle = block.register_forward_hook(lambda module, args, output: change(output))
        stream = model.network(input_ids=torch.tensor([prompt]))
        handle.remove()
    return float(stream.logits[0, -1].softmax(dim=-1)[TOWARD].sum())


def test_rates_are_those_of_each_prompt_read_alone(model, prompts):
    wanted = [alone(model, prompt) for prompt in prompts]
    assert first_token_rates(model, prompts, TOWARD) == pytest.approx(wanted, abs=1e-6)


def test_features_left_as_they_are_leave_the_rates(model, signed_sae, prompts):
    untouched = first_token_rates(model, prompts, TOWARD)
    same = first_token_rates(model, prompts, TOWARD, signed_sae, lambda features, rows: features)
    assert np.array_equal(untouched, same)


def test_every_prompt_is_altered_by_its_own_number(model, signed_sae, prompts):
    """Prompts of like length share a pass in another order; feature 3 grows by the number of the prompt."""
    d_model = model.anatomy.d_model

    def alter(features, rows):
        grown = features.clone()
        grown[..., 3] += torch.tensor(rows, dtype=features.dtype)[:, None]
        return grown

    def along(row):
        step = torch.zeros(d_model)
        step[3] = row
        return lambda output: output + step

    wanted = [alone(model, prompt, along(row)) for row, prompt in enumerate(prompts)]
    assert first_token_rates(model, prompts, TOWARD, signed_sae, alter) == pytest.approx(wanted, abs=1e-5)


def test_an_sae_of_another_width_is_refused(signed_sae, prompts):
    with pytest.raises(ModelError, match="reads streams of width 32"):
        first_token_rates(tiny_model(d_model=16), prompts, TOWARD, signed_sae, lambda features, rows: features)
