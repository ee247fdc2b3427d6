"""ModelFacts: what a file of a vector says of the model it was fitted on, and whether another model can take it."""

from dataclasses import dataclass

from lab.errors import SiteError, VectorError
from lab.models.load import Model
from lab.provenance import digest
from steering.vector import SteeringVector


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model without its weights."""

    name: str
    digest: str
    """Of the files, or the tensors, that it was made from."""
    tokenizer_digest: str
    """Of its vocabulary, special tokens and chat template."""
    family: str
    """`config.model_type`."""
    d_model: int
    n_layers: int


def facts_of(model: Model) -> ModelFacts:
    """The facts of a loaded model."""
    tokenizer = model.tokenizer
    told = {
        "vocabulary": tokenizer.get_vocab(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": str(tokenizer.chat_template),
    }
    return ModelFacts(
        name=model.name,
        digest=model.digest,
        tokenizer_digest=digest(told),
        family=model.anatomy.family,
        d_model=model.anatomy.d_model,
        n_layers=model.anatomy.n_layers,
    )


def check_fits(vector: SteeringVector, facts: ModelFacts) -> None:
    """VectorError unless `vector` is as wide as the model, SiteError unless the model has each of its layers."""
    if vector.d_model != facts.d_model:
        raise VectorError(
            f"a vector of width {vector.d_model} does not fit {facts.name}, whose d_model is {facts.d_model}: "
            "use the model it was fitted on"
        )
    if beyond := [site for site in vector.sites if site.layer >= facts.n_layers]:
        raise SiteError(
            f"{beyond[0]} is out of range: {facts.name} has {facts.n_layers} layers, want 0 to {facts.n_layers - 1}"
        )
