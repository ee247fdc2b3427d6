"""A base model and the model tuned from it, checked to speak the same tokens and have the same shape."""

from dataclasses import dataclass

from lab.models.load import Model
from lab.records.errors import ModelError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelPair:
    """Two models that can run in step on the same tokens, and whose activations can be compared layer by layer.

    Raises ModelError naming the first thing in which they differ: width, depth, rows of the unembedding, or a token.
    """

    base: Model
    tuned: Model

    def __post_init__(self) -> None:
        base, tuned = self.base.anatomy, self.tuned.anatomy
        names = f"{self.base.name} and {self.tuned.name} are not a pair"
        for part, of_base, of_tuned in (
            ("d_model", base.d_model, tuned.d_model),
            ("n_layers", base.n_layers, tuned.n_layers),
            ("d_vocab", base.d_vocab, tuned.d_vocab),
        ):
            if of_base != of_tuned:
                raise ModelError(f"{names}: {part} is {of_base} in the base and {of_tuned} in the tuned model")
        of_base, of_tuned = self.base.tokenizer.get_vocab(), self.tuned.tokenizer.get_vocab()
        if of_base != of_tuned:
            differing = [token for token in {*of_base, *of_tuned} if of_base.get(token) != of_tuned.get(token)]
            # The lowest id, so that the message is the same on every run.
            token = min(differing, key=lambda token: (of_base.get(token, of_tuned.get(token, 0)), token))
            raise ModelError(
                f"{names}: {len(differing)} tokens differ; {token!r} is {of_base.get(token, 'absent')} in the base "
                f"and {of_tuned.get(token, 'absent')} in the tuned model"
            )
