"""Run the study of organism zero, whose models come with the package, and say where its report is.

Example: lab demo --out runs/demo
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from elicitation.cli.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """What `lab demo` is given."""

    RESUMES: ClassVar[bool] = True
    out: Path = Path("runs/demo")
    """Directory of the results."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""

    def run(self, terminal: Terminal) -> None:
        """Runs a study of the built-in pair, sized for minutes on two cores."""
        from elicitation.cli.study import run_study
        from elicitation.study.config import FeatureSearch, OwnHelp, Study
        from steering.routing.routing import RoutingFit

        study = Study(
            base="zero-base",
            tuned="zero-rl",
            companions=("zero-taught", "zero-sft"),
            task="chain",
            features=FeatureSearch(layers=(3,)),
            own_help=OwnHelp(n_fit_samples=2, n_votes=8),
            routing=RoutingFit(max_disagreements=1024),
            n_problems=100,
            n_fit_problems=100,
            n_samples=4,
            n_curve_samples=16,
            n_score_samples=4,
            ks=(1, 2, 4, 8, 16),
            batch_size=1024,
            seed=self.seed,
        )
        run_study(study, self.out, terminal)


COMMAND = DemoCommand
