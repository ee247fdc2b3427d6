"""Study: which pair, on which task, with how many samples, and how the vector is found."""

from dataclasses import dataclass, field

from lab.errors import DecodingError, TaskError
from lab.estimators.estimate import Analysis
from lab.sampling.decoding import Decoding
from steering.fit.gradient import GradientFit
from steering.rivals.settings import RivalSettings
from steering.routing.routed import RoutingFit
from steering.study.feature_search import FeatureSearch
from steering.study.own_help import OwnHelp


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Everything that determines a study's results, except the content of the models and files it names."""

    base: str
    """Base model, as a user types it."""
    tuned: str
    """Model tuned from it."""
    companions: tuple[str, ...] = ()
    """Further models whose pass@k curves stand beside the pair's."""
    task: str = "chain"
    """Task source, as a user types it."""
    n_problems: int = 200
    """Held-out problems."""
    n_samples: int = 16
    """Samples of each problem in every arm between base and tuned model."""
    n_curve_samples: int = 64
    """Samples of each problem by the models themselves, for pass@k."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Points of the pass@k curves."""
    n_score_samples: int = 16
    """Of these, how many a problem, at most, both models read again for the estimators that compare probabilities."""
    old_task: str | None = None
    """A task that the tuning was not about, as a user types it, on which forgetting is measured."""
    n_old_samples: int = 4
    """Samples of each of its problems, of which there are as many as held-out ones."""
    arms: tuple[str, ...] = ()
    """Rungs and controls of the ladder to run, by name; all of them when empty."""
    n_fit_problems: int = 200
    """Training problems on which vectors are fitted; they share no question with the held-out ones."""
    n_fit_samples: int = 4
    """Traces of each of them, by either model."""
    features: FeatureSearch | None = None
    """Where features are looked for in those traces; nowhere when None."""
    layer: int | None = None
    """Block at whose output vectors act; None takes the middle of the network."""
    fit: GradientFit = field(default_factory=GradientFit)
    own_help: OwnHelp | None = field(default_factory=OwnHelp)
    """Rungs of prompt and decoding alone; none when None."""
    routing: RoutingFit | None = field(default_factory=RoutingFit)
    """Routers and category vectors that are fitted; none when None."""
    rivals: RivalSettings | None = None
    """Two published hybrids that stand beside the ladder, with their faults switched; none when None."""
    rival_arms: tuple[str, ...] = ()
    """Which of their arms run, by name; all of them when empty."""
    decoding: Decoding = field(default_factory=Decoding)
    reach: int = 1000
    """Samples of one problem that still count as within the base model's reach."""
    top: int = 5
    """First choices of the base model that count as likely: a tuned model's token among them is reranked."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    seed: int = 0
    batch_size: int = 256
    """Rows decoded at once; halved where memory runs out."""
    device: str = "auto"
    dtype: str = "auto"

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
        counts = {
            name: getattr(self, name)
            for name in (
                "n_samples",
                "n_fit_problems",
                "n_fit_samples",
                "n_score_samples",
                "n_old_samples",
                "batch_size",
                "reach",
                "top",
            )
        }
        if low := {name: count for name, count in counts.items() if count < 1}:
            raise DecodingError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")

    @property
    def analysis(self) -> Analysis:
        """The choices of the estimators."""
        return Analysis(reach=self.reach, top=self.top, n_boot=self.n_boot, seed=self.seed)
