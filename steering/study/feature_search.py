"""FeatureSearch: where a study looks for features, and how long."""

from dataclasses import dataclass

from lab.errors import EstimateError
from lab.models.load import Model
from probes.sae.architecture import TopK
from probes.sae.recipe import Recipe, Training
from probes.site import Site, check_site


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSearch:
    """TopK SAEs of the base model's stream, and what their features do to how answers open."""

    layers: tuple[int, ...]
    """Blocks at whose output features are sought, from 0; what is shown is of the one where they do most."""
    expansion: int = 4
    """Features for each dimension of the stream."""
    k: int = 16
    """Features a token is written with."""
    n_tokens: int = 400_000
    """Activations that each SAE learns from, those of repeated epochs counted again."""
    n_texts: int = 100
    """Training prompts on which every feature is ablated."""
    n_top: int = 8
    """Features that are acted on, at most."""
    n_shown: int = 12
    """Features that the report shows with their contexts."""

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise EstimateError(f"features at blocks {list(self.layers)}: want at least one block, and none twice")
        counts = {name: getattr(self, name) for name in ("expansion", "k", "n_tokens", "n_texts", "n_top", "n_shown")}
        if low := {name: count for name, count in counts.items() if count < 1}:
            raise EstimateError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")


def require_room(search: FeatureSearch, model: Model) -> None:
    """SiteError for a block that `model` does not have; ModelError for an SAE that cannot be trained as asked."""
    for layer in search.layers:
        check_site(model, Site(layer))
        Recipe(
            site=Site(layer),
            architecture=TopK(search.k),
            d_sae=search.expansion * model.anatomy.d_model,
            training=Training(n_tokens=search.n_tokens),
        )
