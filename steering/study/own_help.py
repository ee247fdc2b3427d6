"""OwnHelp: what the base model is helped by without any tuned model, as settings and as arms of the ladder."""

from dataclasses import dataclass, field, replace

from lab.elicitation.choice import Fitting
from lab.elicitation.cot_decoding import CotDecoding
from lab.elicitation.power_sampling import PowerSampling
from lab.elicitation.prompts import TEXT_FORMS, BestPrompt, PromptForm, chain_forms
from lab.elicitation.self_consistency import SelfConsistency
from lab.elicitation.temperature import Temperature
from lab.tasks.source import Task
from steering.study.arms import Arm


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnHelp:
    """How much is spent on answering better by prompts and decoding alone."""

    n_fit_samples: int = 4
    """Completions of each training problem, by every prompt and at every temperature that is tried."""
    temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.0)
    n_votes: int = 16
    """Completions that vote on one answer."""
    n_branches: int = 10
    """First tokens that CoT-decoding tries."""
    power: PowerSampling = field(default_factory=lambda: PowerSampling(n_blocks=4, n_moves=4))


def own_help_arms(settings: OwnHelp, task: Task, fit_task: Task) -> tuple[Arm, ...]:
    """Prompt and decoding rungs; what is chosen among several is chosen on the problems of `fit_task`.

    The control of a rung is the same without its one ingredient; of the prompt and the temperature that is the base.
    """
    fitting = Fitting(problems=fit_task.problems, n_samples=settings.n_fit_samples)
    return (
        Arm(
            name="prompt",
            label="+ best prompt",
            kind="rung",
            way=BestPrompt(forms=prompt_forms(task), fitting=fitting),
        ),
        Arm(
            name="temperature",
            label="+ best temperature",
            kind="rung",
            way=Temperature(temperatures=settings.temperatures, fitting=fitting),
        ),
        Arm(
            name="self-consistency",
            label=f"+ majority of {settings.n_votes}",
            kind="rung",
            way=SelfConsistency(n_votes=settings.n_votes),
        ),
        Arm(
            name="one-vote",
            label="one answer, as the voters draw it",
            kind="control",
            control_of="self-consistency",
            way=SelfConsistency(n_votes=1),
        ),
        Arm(
            name="cot-decoding",
            label="+ CoT-decoding",
            kind="rung",
            way=CotDecoding(n_branches=settings.n_branches),
        ),
        Arm(
            name="one-branch",
            label="its first branch alone",
            kind="control",
            control_of="cot-decoding",
            way=CotDecoding(n_branches=1),
        ),
        Arm(
            name="power",
            label=f"+ power sampling, alpha {settings.power.alpha:g}",
            kind="rung",
            way=settings.power,
        ),
        Arm(
            name="power-unmoved",
            label="temperature 1 / alpha, without moves",
            kind="control",
            control_of="power",
            way=replace(settings.power, n_moves=0),
        ),
    )


def prompt_forms(task: Task) -> tuple[PromptForm, ...]:
    """The listed prompts: worked examples and a forced opening where the task has chains, else instructions."""
    return chain_forms() if task.steps is not None else TEXT_FORMS
