"""A model as a TransformerBridge, for notebooks and attribution: the door to transformer_lens, and slow to import."""

import copy

from transformer_lens.model_bridge import TransformerBridge

from lab.models.load import Model
from lab.records.errors import ModelError, condensed


def to_bridge(model: Model) -> TransformerBridge:
    """A TransformerLens view of a copy of `model`; the residual after block N is `blocks.N.hook_out`.

    It is a copy because a bridge replaces the network's own blocks in place. It computes attention eagerly, so in
    float32 it differs from sdpa in the last digits. Three traps of transformer_lens 3.9: unknown hook names are ignored
    silently (check them against `bridge.hook_dict`); its own tokenising may add or drop a beginning-of-sequence token
    (tokenise with `model.tokenizer`); and a padded batch without `attention_mask` gives wrong numbers.
    Raises ModelError when transformer_lens does not know the family.
    """
    network = copy.deepcopy(model.network)
    # The bridge's attention is eager; saying so keeps transformers from building sdpa's masks for it.
    network.set_attn_implementation("eager")
    # The bridge knows families by class name, which a network built from a configuration does not carry.
    network.config.architectures = [type(network).__name__]
    try:
        bridge = TransformerBridge.boot_transformers(
            model.name,
            hf_model=network,
            # Without a tokenizer it would look the name up on the hub; it changes the one it gets.
            tokenizer=copy.deepcopy(model.tokenizer),
            device=str(model.device),
            dtype=model.dtype,
        )
    except ValueError as error:
        raise ModelError(
            f"{model.name} ({type(network).__name__}) has no bridge in transformer_lens: {condensed(error)}"
        ) from error
    # Booting thaws the parameters.
    return bridge.eval().requires_grad_(False)
