"""The card of an adapted model: how it was made, and what it and the model below it can do."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lab.metrics.bootstrap import Interval, mean_interval, resamples
from lab.models.load import Model
from lab.organisms.adapters import AdaptedModel, EvalSpec
from lab.organisms.card import EVALUATION_SEED, N_BOOT, percent
from lab.records.provenance import canonical_json, package_versions, revision
from lab.records.seeds import numpy_generator
from lab.records.tables import write_text
from lab.sampling.sample import sample
from lab.tasks.source import open_task, task_source

N_PROBLEMS, N_SAMPLES = 200, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One figure of a card, in [0, 1], with its 95 % interval over problems."""

    model: str
    task: str
    measure: str
    """One of "strict, sampled" and "answer, sampled" (temperature 1), "strict, greedy" and "pass@8" (strict)."""
    value: float
    low: float
    high: float


def examine(model: Model, eval_spec: EvalSpec) -> list[Measured]:
    """What `model` does on 200 held-out problems of an exam: sampled eight times each, and greedily."""
    task = open_task(task_source(eval_spec.task), n_problems=N_PROBLEMS, seed=EVALUATION_SEED)
    weights = resamples(N_PROBLEMS, N_BOOT, numpy_generator(EVALUATION_SEED, "card", eval_spec.task))

    def verdicts(n_samples: int, temperature: float) -> Float[np.ndarray, "problem sample 2"]:
        decoding = replace(eval_spec.decoding, temperature=temperature)
        traces = sample(model, task.problems, n_samples, decoding, seed=EVALUATION_SEED)
        found = [task.verify(task.problems[index // n_samples], trace.text) for index, trace in enumerate(traces)]
        both = [(verdict.strict, verdict.answer_correct) for verdict in found]
        return np.array(both, dtype=float).reshape(N_PROBLEMS, n_samples, 2)

    sampled, greedy = verdicts(N_SAMPLES, 1.0), verdicts(1, 0.0)
    figures = {
        "strict, sampled": mean_interval(sampled[:, :, 0].mean(axis=1), weights),
        "answer, sampled": mean_interval(sampled[:, :, 1].mean(axis=1), weights),
        "strict, greedy": mean_interval(greedy[:, 0, 0], weights),
        f"pass@{N_SAMPLES}": mean_interval(sampled[:, :, 0].max(axis=1), weights),
    }
    return [measured(model.name, eval_spec.task, name, interval) for name, interval in figures.items()]


def measured(model: str, task: str, measure: str, interval: Interval) -> Measured:
    """A row of the card, rounded to four decimals."""
    value, low, high = (round(number, 4) for number in (interval.value, interval.low, interval.high))
    return Measured(model=model, task=task, measure=measure, value=value, low=low, high=high)


def write_card(
    directory: Path, adapted: AdaptedModel, rows: Sequence[Measured], *, seed: int, dtype: str, device: str
) -> None:
    """Writes `card.json` for programs and `README.md` for people."""
    commit, dirty = revision()
    command = f"lab pairs build {adapted.name} --seed {seed} --device {device}"
    card = {
        **json.loads(canonical_json(adapted)),
        "seed": seed,
        "command": command,
        "commit": commit,
        "dirty": dirty,
        "packages": package_versions(),
        "evaluation": {"seed": EVALUATION_SEED, "n_problems": N_PROBLEMS, "n_samples": N_SAMPLES, "dtype": dtype},
        "measured": [asdict(row) for row in rows],
    }
    write_text(directory / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_text(directory / "README.md", card_page(adapted, rows, command))


def card_page(adapted: AdaptedModel, rows: Sequence[Measured], command: str) -> str:
    """The card as Markdown."""
    measures = list(dict.fromkeys(row.measure for row in rows))
    lines = [
        f"# {adapted.name}",
        "",
        adapted.story,
        "",
        f"A low-rank adapter (rank {adapted.rank}) on `{adapted.parent}`, made by `{command}`.",
        f"Measured on {N_PROBLEMS} held-out problems, {N_SAMPLES} samples each at temperature 1 and one greedy, in per",
        "cent with 95 % intervals over problems. *strict*: a right answer, by a valid process where the task has one.",
        "",
        f"| task | model | {' | '.join(measures)} |",
        "|---|---|" + "---|" * len(measures),
    ]
    for task, model in dict.fromkeys((row.task, row.model) for row in rows):
        cells = {row.measure: row for row in rows if (row.task, row.model) == (task, model)}
        figures = (percent(row.value, row.low, row.high) for row in (cells[name] for name in measures))
        lines.append(f"| `{task}` | {model} | {' | '.join(figures)} |")
    if adapted.truth is not None:
        share = f"the elicited share of its gain over `{adapted.parent}` is {adapted.truth:g}"
        lines += ["", f"{adapted.kind}: by construction, {share}."]
    return "\n".join(lines) + "\n"
