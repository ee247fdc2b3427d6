"""One whole comparison, which many tests look at, and one that is prepared and has not run."""

from dataclasses import replace
from pathlib import Path

import pytest

from elicitation.comparison.config import Comparison, ComparisonContext, compared, prepare_comparison
from elicitation.comparison.run import compare
from lab.post_training.trainers import GrpoRun
from lab.sampling.trace import Decoding
from steering.fits.gradient import GradientFit

TASK, OTHER = "chain:+:1-1", "chain:-:1-1"


@pytest.fixture(scope="session")
def comparison(checkpoints) -> Comparison:
    """A whole comparison in some seconds."""
    study = replace(
        compared(str(checkpoints.base), str(checkpoints.tuned)),
        task=TASK,
        n_problems=12,
        n_samples=2,
        n_fit_problems=20,
        n_fit_samples=2,
        fit=GradientFit(n_steps=5),
        decoding=Decoding(max_new_tokens=12),
        n_boot=100,
        batch_size=64,
    )
    return Comparison(
        study=study,
        other_task=OTHER,
        placebo=str(checkpoints.base),
        other_base=str(checkpoints.base),
        methods=("mean-first", "gradient", "gradient-first", "policy"),
        policy_controls=("shuffled",),
        doses=(1.0,),
        policy=GrpoRun(n_steps=2, n_prompts=2, n_rollouts=4, learning_rate=0.05),
    )


@pytest.fixture(scope="session")
def finished(comparison, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "runs"
    compare(comparison, out, command="lab vectors")
    return out


@pytest.fixture(scope="session")
def comparing(comparison, tmp_path_factory) -> ComparisonContext:
    """One that is prepared, at two blocks, and has not run."""
    study = replace(comparison.study, n_problems=2, n_fit_problems=6)
    asked = Comparison(study=study, methods=("mean", "mean-first", "gradient-first", "sae"), layers=(0, 1))
    return prepare_comparison(asked, tmp_path_factory.mktemp("comparing"), lambda *_: None)
