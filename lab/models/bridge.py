"""A model as a TransformerBridge, for notebooks and attribution: the door to transformer_lens, and slow to import."""

import copy

from transformer_lens.model_bridge import TransformerBridge

from lab.models.load import Model


def to_bridge(model: Model) -> TransformerBridge:
    """A TransformerLens view of a copy of `model`; the residual after block N is `blocks.N.hook_out`.

    It is a copy because a bridge replaces the network's own blocks in place. It computes attention eagerly, so in float32
    it differs from sdpa in the last digits. Unknown hook names are ignored silently by transformer_lens 3.9: check them
    against `bridge.hook_dict`. Tokenise with `model.tokenizer`, since the bridge's own methods may add or drop a
    beginning-of-sequence token, and give `attention_mask` with every padded batch.
    """
    network = copy.deepcopy(model.network)
    # The bridge's attention is eager; saying so keeps transformers from building sdpa's masks for it.
    network.set_attn_implementation("eager")
    bridge = TransformerBridge.boot_transformers(
        model.name,
        hf_model=network,
        # Without a tokenizer it would look the name up on the hub; it changes the one it gets.
        tokenizer=copy.deepcopy(model.tokenizer),
        device=str(model.device),
        dtype=model.dtype,
    )
    return bridge.eval()
