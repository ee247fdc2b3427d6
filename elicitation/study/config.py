"""Study: which pair, on which task, with how many samples, and how the vector is found."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from elicitation.estimators.estimate import Analysis
from lab.models.device import DtypeName
from lab.models.load import Model
from lab.records.errors import DecodingError, EstimateError, TaskError
from lab.sampling.trace import Decoding
from lab.scoring.evidence import ArmKey
from lab.test_time.elicit import PowerSampling
from probes.capture.site import Site, check_site
from probes.sae.architecture import Recipe, TopK, Training
from steering.fits.gradient import GradientFit
from steering.published_hybrids.material import PublishedSettings
from steering.routing.routing import RoutingFit


def low_counts(config: object, names: Sequence[str]) -> str:
    """Which of these fields are below 1; empty where none is."""
    low = [f"{name} = {count}" for name in names if (count := getattr(config, name)) < 1]
    return f"{', '.join(low)}: want at least 1" if low else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSearch:
    """TopK SAEs of the base model's stream, and what their features do to how answers open."""

    layers: tuple[int, ...] = ()
    """Blocks at whose outputs features are sought, from 0, such as 2 3; what is shown is of the one where they do most.
    None are sought where none is named."""
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
        if len(set(self.layers)) < len(self.layers):
            raise EstimateError(f"features at blocks {list(self.layers)}: want none twice")
        if low := low_counts(self, ("expansion", "k", "n_tokens", "n_texts", "n_top", "n_shown")):
            raise EstimateError(low)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnHelp:
    """How much is spent on answering better by prompts and decoding alone."""

    n_fit_samples: int = 4
    """Completions of each training problem, by every prompt and at every temperature that is tried."""
    temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.0)
    """Those that are tried."""
    n_votes: int = 16
    """Completions that vote on one answer."""
    n_branches: int = 10
    """First tokens that CoT-decoding tries."""
    power: PowerSampling = field(default_factory=lambda: PowerSampling(n_blocks=4, n_moves=4))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Everything that determines a study's results, except the content of the models and files it names.

    The flags of `lab study` are these fields: what stands below each is their help, and `metadata` says "flag" where
    one has another name than the field, "" for a part whose own fields have no prefix, or none.

    >>> el.Study(base="zero-base", tuned="zero-rl").task
    'chain'
    """

    base: str = field(metadata={"flag": None})
    """Base model, as a user types it."""
    tuned: str = field(metadata={"flag": None})
    """Model tuned from it."""
    companions: tuple[str, ...] = ()
    """Further models whose pass@k curves stand beside the pair's."""
    task: str = "chain"
    """chain, chain:OPERATORS, chain:OPERATORS:FEWEST-MOST, a mix of these such as 25%chain:#,75%chain:+-, gym:DATASET,
    gym:DATASET:OPTION=VALUE,..., hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]], or a path to .jsonl, .json, .parquet or
    .arrow, as `lab task show` reads it."""
    n_problems: int = 200
    """Held-out problems."""
    n_samples: int = 16
    """Samples of each problem in every arm of the ladder."""
    n_curve_samples: int = 64
    """Samples of each problem by the models themselves, for pass@k."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Points of the pass@k curves."""
    n_score_samples: int = 16
    """Of these, how many a problem, at most, both models read again for the estimators that compare probabilities."""
    old_task: str | None = None
    """A task that the tuning was not about; with it, the report says what was forgotten."""
    n_old_samples: int = 4
    """Samples of each of its problems, of which there are as many as held-out ones."""
    arms: tuple[ArmKey, ...] = field(default=(), metadata={"flag": None})
    """Rungs and controls of the ladder to run; all of them when empty."""
    n_fit_problems: int = 200
    """Training problems on which vectors are fitted; they share no question with the held-out ones."""
    n_fit_samples: int = 4
    """Traces of each of them, by either model."""
    layer: int | None = None
    """Block at whose output vectors act, from 0; the middle one if not given."""
    features: FeatureSearch = field(default_factory=FeatureSearch)
    """Where features are looked for in those traces."""
    fit: GradientFit = field(default_factory=GradientFit)
    own_help: OwnHelp | None = field(default_factory=OwnHelp)
    """Rungs of prompt and decoding alone."""
    routing: RoutingFit | None = field(default_factory=RoutingFit)
    """Routers and category vectors that are fitted."""
    published_hybrids: bool = False
    """Also run two published hybrids, with each of their faults switched."""
    published: PublishedSettings | None = field(default=None, metadata={"flag": None})
    """How those are fitted; as `PublishedSettings` has it when None."""
    published_arms: tuple[ArmKey, ...] = field(default=(), metadata={"flag": None})
    """Which of their arms run; all of them when empty."""
    decoding: Decoding = field(default_factory=Decoding, metadata={"flag": ""})
    reach: int = 1000
    """Samples of one problem that still count as within the base model's reach."""
    top: int = 5
    """First choices of the base model that count as likely: a tuned model's token among them is reranked."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""
    batch_size: int = 256
    """Rows decoded at once; halved where memory runs out."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps."""
    dtype: DtypeName = "auto"
    """Precision of the weights; auto is bfloat16 on cuda, float32 elsewhere."""

    @property
    def sampling(self) -> str:
        """How completions are drawn, in words."""
        return f"at temperature {self.decoding.temperature:g}" if self.decoding.temperature else "decoded greedily"

    def __post_init__(self) -> None:
        beyond = [k for k in self.ks if k > self.n_curve_samples]
        if beyond or not self.ks or min(self.ks) < 1:
            raise DecodingError(
                f"pass@k at k = {list(self.ks)} from {self.n_curve_samples} samples a problem: want 1 <= k <= samples"
            )
        if self.n_problems < 2:
            raise TaskError(f"n_problems = {self.n_problems}: want at least 2, since every interval is over problems")
        of_samples = ("n_samples", "n_fit_samples", "n_score_samples", "n_old_samples")
        if low := low_counts(self, (*of_samples, "n_fit_problems", "batch_size", "reach", "top")):
            raise DecodingError(low)

    @property
    def analysis(self) -> Analysis:
        """The choices of the estimators."""
        return Analysis(reach=self.reach, top=self.top, n_boot=self.n_boot, seed=self.seed)
