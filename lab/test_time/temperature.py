"""Temperature: sampling at the best of several temperatures, chosen on other problems."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.models.load import Model
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.tasks.problem import Problem, Verifier
from lab.test_time.choice import Choice, Fitting, Tried, choose


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """The temperature with the highest strict accuracy on other problems; it costs no more tokens than any other."""

    temperatures: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    """0 is greedy decoding. The first of equals is chosen."""
    fitting: Fitting


def choose_temperature(
    model: Model,
    problems: Sequence[Problem],
    verify: Verifier,
    temperatures: Sequence[float],
    n_samples: int,
    decoding: Decoding,
    *,
    seed: int,
    batch_size: int = 256,
) -> Choice[float]:
    """The temperature at which most samples are strictly right, the first of equals; all draw the same numbers.

    `problems` are for choosing and must not be measured later. At temperature 0 one sample is drawn.
    """
    tried = [
        Tried(
            temperature,
            f"temperature {temperature:g}",
            sample(
                model,
                problems,
                n_samples_at(temperature, n_samples),
                replace(decoding, temperature=temperature),
                seed=seed,
                batch_size=batch_size,
            ),
        )
        for temperature in temperatures
    ]
    return choose(tried, problems, verify, seed=seed)


def n_samples_at(temperature: float, n_samples: int) -> int:
    """`n_samples`, or 1 at temperature 0, where all would be one."""
    return n_samples if temperature else 1
