"""Study: which pair, on which task, with how many samples, and how the vector is found."""

from dataclasses import dataclass, field

from lab.errors import DecodingError, TaskError
from lab.sampling.decoding import Decoding
from steering.fit.gradient import GradientFit


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
    n_fit_problems: int = 200
    """Training problems on which vectors are fitted; they share no question with the held-out ones."""
    n_fit_samples: int = 4
    """Traces of each of them, by either model."""
    layer: int | None = None
    """Block at whose output vectors act; None takes the middle of the network."""
    fit: GradientFit = field(default_factory=GradientFit)
    decoding: Decoding = field(default_factory=Decoding)
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
        counts = (self.n_samples, self.n_fit_problems, self.n_fit_samples, self.batch_size)
        if min(counts) < 1:
            raise DecodingError(
                f"n_samples, n_fit_problems, n_fit_samples, batch_size = {counts}: want at least 1 of each"
            )
