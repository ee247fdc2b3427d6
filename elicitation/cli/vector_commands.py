"""Vector commands: what the command line can be asked about steering vectors, as values; docstrings are its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from elicitation.cli.feature_commands import Blocks, DeviceName, OptionalPath, OptionalText


@dataclass(frozen=True, kw_only=True)
class VectorsCommand:
    """Fit steering vectors in several ways, and judge each beside its controls on held-out problems.

    Example: lab vectors --pair zero-base zero-rl --task chain --out runs/vectors

    Vectors, tables and vectors.html land in --out; a run that was stopped goes on when the same command is given again.
    """

    pair: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BASE TUNED")]
    """The base model and the model tuned from it, or one organism, whose parent is then the base, as in `lab study`."""
    task: str = "chain"
    """As in `lab study`."""
    placebo: OptionalText = None
    """A model continued from the base without tuning; what is fitted on its traces is a further control."""
    other_task: OptionalText = None
    """A task of another domain; fits on it are a further control, and the damage of a dose is measured on its texts."""
    out: Path
    """Directory of the results."""
    methods: tuple[Literal["mean", "mean-first", "gradient", "gradient-first", "policy", "sae"], ...] = (
        "mean",
        "mean-first",
        "gradient",
        "gradient-first",
        "policy",
        "sae",
    )
    """mean: difference of means; gradient: on completions, or, first, on decisions at the first token; policy: policy
    gradient at several sites; sae: decoder rows. Those called first act at the first token, sae too, others at all."""
    layers: Blocks = ()
    """Blocks at whose outputs the vectors of one site act, from 0; the middle one if not given."""
    sae: OptionalPath = None
    """Directory of an SAE of the base model, in SAELens' format; without it there is no fit called sae."""
    policy_steps: int = 60
    """Steps of the policy gradient. Twice as many, and more prompts, give more; 60 take minutes on one core."""
    policy_prompts: int = 16
    """Problems of a step, eight rollouts each."""
    policy_controls: tuple[Literal["shuffled", "other-task"], ...] = ("shuffled", "other-task")
    """Controls of the policy gradient besides random directions, each as long as the fit itself: misplaced rewards, and
    the other task's rewards."""
    doses: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Strengths of the dose sweep."""
    other_base: OptionalText = None
    """A base of the same kind, such as another seed's, on which the vectors are tried too."""
    other_skill_base: OptionalText = None
    """A model that lacks the skill of --other-skill-task; no vector may help it."""
    other_skill_task: OptionalText = None
    """That task."""
    n_problems: int = 200
    """Held-out problems."""
    n_samples: int = 8
    """Samples of each at temperature 1; greedily it is one."""
    n_fit_problems: int = 200
    """Training problems."""
    n_fit_samples: int = 4
    """Traces of each, by every model."""
    fit_steps: int = 100
    """Steps of the gradient fits."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    max_new_tokens: int = 96
    """Longest completion."""
    seed: int = 0
    """Decides problems, samples, fits and intervals."""
    batch_size: int = 512
    """Rows decoded at once."""
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights."""
