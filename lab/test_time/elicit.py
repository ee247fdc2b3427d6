"""elicit: answers of a model by one method, with no tuned model and no weight changed."""

from collections.abc import Callable, Sequence

from lab.models.load import Model
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import CotDecoding, Fitting, SelfConsistency, Temperature
from lab.test_time.method import Asked, Elicitation, Elicited
from lab.test_time.power_sampling import PowerSampling
from lab.test_time.prompts import BestPrompt, prompt_forms

METHODS: dict[str, Callable[[Task], Elicitation]] = {
    "prompt": lambda fit: BestPrompt(forms=prompt_forms(fit), fitting=Fitting(problems=fit.problems)),
    "temperature": lambda fit: Temperature(fitting=Fitting(problems=fit.problems)),
    "self-consistency": lambda _: SelfConsistency(),
    "cot-decoding": lambda _: CotDecoding(),
    "power": lambda _: PowerSampling(),
}
"""Name -> the method as published; what is chosen among several is chosen on the problems of the task given to it."""


def elicit(
    model: Model,
    task: Task,
    problems: Sequence[Problem],
    method: Elicitation,
    decoding: Decoding,
    *,
    n_samples: int = 1,
    seed: int,
    batch_size: int = 256,
) -> Elicited:
    """`n_samples` answers of each problem; one, whatever `n_samples`, where nothing is random.

    Nothing is random in CoT-decoding and at temperature 0. `decoding` gives the limits, and for `BestPrompt` the
    temperature and top-p too; `Temperature` and `SelfConsistency` put their own temperature in its place, and the
    others say what they use of it. What else holds is said by `Elicitation.answer`.
    """
    asked = Asked(
        model=model,
        task=task,
        problems=problems,
        decoding=decoding,
        n_samples=n_samples,
        seed=seed,
        batch_size=batch_size,
    )
    return method.answer(asked)
