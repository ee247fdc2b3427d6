"""Comparison: which fits of steering vectors are compared, on which pair and task, and with how many samples."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from elicitation.study.config import Study
from lab.models.device import DtypeName
from lab.post_training.reinforce import GrpoRun
from lab.records.errors import TaskError, VectorError
from lab.sampling.decoding import Decoding
from steering.fits.gradient import GradientFit

Method: TypeAlias = Literal["mean", "mean-first", "gradient", "gradient-first", "policy", "sae"]
METHODS: tuple[Method, ...] = get_args(Method)
PolicyControl: TypeAlias = Literal["shuffled", "other-task"]
"""A control of the policy gradient that needs a training of its own."""
POLICY_CONTROLS: tuple[PolicyControl, ...] = get_args(PolicyControl)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that determines the results, except the content of the models and files it names; its fields are the
    flags of `lab vectors`, as those of `Study` are.
    """

    base: str = field(metadata={"flag": None})
    """Base model, as a user types it."""
    tuned: str = field(metadata={"flag": None})
    """Model tuned from it."""
    task: str = "chain"
    """As in `lab study`."""
    placebo: str | None = None
    """A model continued from the base without tuning; fits on its traces are a further control."""
    other_task: str | None = None
    """A task of another domain: fits on it are a further control, and the damage of a dose is measured on its texts."""
    other_base: str | None = None
    """A base of the same kind, such as another seed's, on which the vectors are tried too."""
    other_skill_base: str | None = None
    """A model that lacks the skill of --other-skill-task, where no vector may help."""
    other_skill_task: str | None = None
    """That task."""
    sae: str | None = None
    """Directory of an SAE of the base model, in SAELens' format, whose decoder rows are a fit of their own; without it
    there is no fit called sae."""
    methods: tuple[Method, ...] = METHODS
    """mean: difference of means; gradient: on completions, or, first, on decisions at the first token; policy: policy
    gradient at several sites; sae: decoder rows. Those called first act at the first token, sae too, others at all."""
    layers: tuple[int, ...] = ()
    """Blocks at whose outputs vectors of one site act, from 0; the middle one if not given."""
    policy_controls: tuple[PolicyControl, ...] = POLICY_CONTROLS
    """Controls of the policy gradient besides random directions, each as long as the fit itself: misplaced rewards, and
    the other task's rewards."""
    doses: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Strengths of the dose sweep; no sweep where none is named."""
    n_problems: int = 200
    """Held-out problems."""
    n_samples: int = 8
    """Samples of each at temperature 1; greedily it is one."""
    n_fit_problems: int = 200
    """Training problems."""
    n_fit_samples: int = 4
    """Traces of each of them, by either model."""
    n_texts: int = 512
    """Solved traces that the gradient fit at every token learns from, at most."""
    n_features: int = 8
    """Decoder rows of the SAE that make a vector."""
    fit: GradientFit = field(default_factory=GradientFit)
    policy: GrpoRun = field(default_factory=lambda: GrpoRun(n_steps=60, n_prompts=16, learning_rate=0.05))
    max_new_tokens: int = 96
    """Longest completion."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    seed: int = 0
    """Decides problems, samples, fits and intervals."""
    batch_size: int = 512
    """Rows decoded at once."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps."""
    dtype: DtypeName = "auto"
    """Precision of the weights; auto is bfloat16 on cuda, float32 elsewhere."""

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise VectorError(f"methods {list(self.methods)}: want at least one of {', '.join(METHODS)}, none twice")
        if len(set(self.layers)) < len(self.layers):
            raise VectorError(f"layers {list(self.layers)}: want none twice")
        if (self.other_skill_base is None) != (self.other_skill_task is None):
            raise TaskError("--other-skill-base and --other-skill-task go together: name both, or neither")
        counts = {name: getattr(self, name) for name in ("n_texts", "n_features")}
        counts |= {f"policy.{name}": getattr(self.policy, name) for name in ("n_steps", "n_prompts")}
        if low := {name: count for name, count in counts.items() if count < 1}:
            raise VectorError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")
        if self.policy.n_rollouts < 2:
            raise VectorError(f"policy.n_rollouts = {self.policy.n_rollouts}: want at least 2, to compare rewards")

    @property
    def decoding(self) -> Decoding:
        """Of training traces, and of the exam that is not greedy."""
        return Decoding(max_new_tokens=self.max_new_tokens)

    @property
    def study(self) -> Study:
        """What the stages shared with a study need to know."""
        others = (self.placebo, self.other_base, self.other_skill_base)
        return Study(
            base=self.base,
            tuned=self.tuned,
            companions=tuple(dict.fromkeys(name for name in others if name is not None)),
            task=self.task,
            old_task=self.other_task,
            n_problems=self.n_problems,
            n_samples=self.n_samples,
            n_curve_samples=1,
            ks=(1,),
            n_fit_problems=self.n_fit_problems,
            n_fit_samples=self.n_fit_samples,
            layer=self.layers[0] if self.layers else None,
            fit=self.fit,
            decoding=self.decoding,
            n_boot=self.n_boot,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
        )
