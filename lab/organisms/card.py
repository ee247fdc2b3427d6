"""The card of an organism: how it was made and what it can do, measured on the weights that are shipped."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lab.metrics.bootstrap import Interval, mean_interval, resamples
from lab.models.load import Model
from lab.organisms.recipe import Organism, home
from lab.organisms.truth import Truth
from lab.records.provenance import canonical_json, package_versions, revision
from lab.records.seeds import numpy_generator
from lab.records.tables import write_text
from lab.sampling.decoding import GREEDY, Decoding
from lab.sampling.sample import sample
from lab.tasks.chain_verifier import parse, steps_fault, verify
from lab.tasks.chain_world import KEY, as_expression, with_key
from lab.tasks.problem import Problem, Verdict
from lab.tasks.source import source_name

N_PROBLEMS, N_SAMPLES, N_BOOT, EVALUATION_SEED = 500, 4, 2000, 20_261_123


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One figure of a card, in [0, 1], with its 95 % interval over problems."""

    task: str
    family: str
    """Number of operations, or "all"."""
    decoding: str
    """One of three: "sampled" (temperature 1), "forced chain" (greedy, `T` written for it), "with the key" (greedy)."""
    measure: str
    """One of five.

    "strict" (a correct answer by a valid process), "answer" (correct), "process" (valid steps that also end in the
    stated answer), "steps" (all written, copied and true, whatever the answer says) or "chain" (any step was written).
    """
    value: float
    low: float
    high: float
    n_problems: int
    n_samples: int


class Examined(NamedTuple):
    """What a model's exams gave."""

    rows: tuple[Measured, ...]
    rates: dict[str, Float[np.ndarray, " problem"]]
    """Operators of an exam -> strict accuracy on each of its problems, sampled at temperature 1."""


def examine(model: Model, organism: Organism) -> Examined:
    """Every exam on 500 held-out problems: sampled, forced into a chain and, in a world with locks, with the key."""
    rows: list[Measured] = []
    rates: dict[str, Float[np.ndarray, " problem"]] = {}
    for eval_spec in organism.eval_specs:
        name = eval_spec.operators
        problems = eval_spec.problems(N_PROBLEMS, numpy_generator(EVALUATION_SEED, "card", name))
        sampled = [trace.text for trace in sample(model, problems, N_SAMPLES, Decoding(), seed=EVALUATION_SEED)]
        strict = [verify(problems[index // N_SAMPLES], text).strict for index, text in enumerate(sampled)]
        rates[name] = np.array(strict, dtype=float).reshape(-1, N_SAMPLES).mean(axis=1)
        rows += figures(name, "sampled", problems, sampled, N_SAMPLES, by_family=True)
        forced = [replace(problem, prompt=problem.prompt + "T") for problem in problems]
        chains = sample(model, forced, 1, GREEDY, seed=EVALUATION_SEED)
        rows += figures(name, "forced chain", problems, ["T" + trace.text for trace in chains], 1, by_family=False)
        if KEY in organism.alphabet:
            opened = sample(model, [with_key(problem) for problem in problems], 1, GREEDY, seed=EVALUATION_SEED)
            rows += figures(name, "with the key", problems, [trace.text for trace in opened], 1, by_family=False)
    return Examined(tuple(rows), rates)


def figures(
    task: str, decoding: str, problems: Sequence[Problem], texts: Sequence[str], n_samples: int, *, by_family: bool
) -> list[Measured]:
    """Every measure of the completions `texts`, `n_samples` a problem in the problems' order."""
    verdicts = [verify(problems[index // n_samples], text) for index, text in enumerate(texts)]
    transcripts = [parse(text) for text in texts]
    expressions = [as_expression(problem) for problem in problems]
    steps = [
        steps_fault(expressions[index // n_samples], transcript) is None for index, transcript in enumerate(transcripts)
    ]
    chains = [bool(transcript.steps) for transcript in transcripts]
    families = sorted({problem.family for problem in problems}) if by_family else []
    rows = []
    for family in ["all", *families]:
        inside = np.array([family in ("all", problem.family) for problem in problems])
        weights = resamples(int(inside.sum()), N_BOOT, numpy_generator(EVALUATION_SEED, "bootstrap", family))
        for name, values in measures(verdicts, steps, chains).items():
            per_problem = np.array(values, dtype=float).reshape(len(problems), n_samples).mean(axis=1)[inside]
            interval = mean_interval(per_problem, weights)
            rows.append(measured(task, family, decoding, name, interval, int(inside.sum()), n_samples))
    return rows


def measures(verdicts: Sequence[Verdict], steps: Sequence[bool], chains: Sequence[bool]) -> dict[str, list[bool]]:
    """Name of a measure -> its value on each completion."""
    return {
        "strict": [verdict.strict for verdict in verdicts],
        "answer": [verdict.answer_correct for verdict in verdicts],
        "process": [verdict.process_valid is True for verdict in verdicts],
        "steps": list(steps),
        "chain": list(chains),
    }


def measured(
    task: str, family: str, decoding: str, name: str, interval: Interval, n_problems: int, n_samples: int
) -> Measured:
    """A row of the card, rounded to four decimals."""
    return Measured(
        task=task,
        family=family,
        decoding=decoding,
        measure=name,
        value=round(interval.value, 4),
        low=round(interval.low, 4),
        high=round(interval.high, 4),
        n_problems=n_problems,
        n_samples=n_samples,
    )


def write_card(
    directory: Path,
    organism: Organism,
    rows: Sequence[Measured],
    truths: Sequence[Truth],
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Writes `card.json` for programs and `README.md` for people."""
    commit, dirty = revision()
    command = f"lab organisms build {organism.name} --seed {seed} --device {device.type}"
    card = {
        "name": organism.name,
        "parent": None if organism.parent is None else organism.parent.home(seed),
        "story": organism.story,
        "recipe": json.loads(canonical_json(organism.recipe)),
        "architecture": json.loads(canonical_json(organism.architecture)),
        "old_task": source_name(organism.eval_specs[0]),
        "seed": seed,
        "command": command,
        "commit": commit,
        "dirty": dirty,
        "packages": package_versions(),
        "evaluation": {"seed": EVALUATION_SEED, "dtype": "float32", "weights": "bfloat16, as shipped"},
        "truth": [{key: rounded(value) for key, value in asdict(truth).items()} for truth in truths],
        "measured": [asdict(row) for row in rows],
    }
    write_text(directory / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_text(directory / "README.md", card_page(organism, rows, truths, command, seed))


def rounded(value: object) -> object:
    """Numbers to four decimals, None where undefined; anything else as it is."""
    return value if not isinstance(value, float) else None if np.isnan(value) else round(value, 4)


def card_page(organism: Organism, rows: Sequence[Measured], truths: Sequence[Truth], command: str, seed: int) -> str:
    """The card as Markdown."""
    lines = [
        f"# {home(organism.name, seed)}",
        "",
        organism.story,
        "",
        f"Made by `{command}`"
        + (f" from `{organism.parent.home(seed)}`." if organism.parent else " from random weights."),
        "Training never saw a held-out expression of two steps or more. A step is checked exactly, and *strict* wants",
        "a correct answer by a valid process. A *process* is valid when all *steps* are written, copied and true, and",
        "end in the stated answer; *steps* leaves the answer out. 95 % intervals over problems.",
        "",
        "| operators | problems | decoding | strict % | answer % | process % | steps % | writes a chain % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row.task, row.family, row.decoding) for row in rows):
        cells = {row.measure: row for row in rows if (row.task, row.family, row.decoding) == key}
        shown = [
            percent(row.value, row.low, row.high)
            for row in (cells[name] for name in ("strict", "answer", "process", "steps", "chain"))
        ]
        size = cells["strict"].n_problems
        lines.append(f"| `{key[0]}` | {key[1]} ({size}) | {key[2]} | " + " | ".join(shown) + " |")
    if truths:
        lines += ["", "True elicited share, from what the base saw and the gains above:", ""]
    for truth in truths:
        known = f"{truth.share:.3f} [{truth.low:.3f}, {truth.high:.3f}]"
        lines.append(f"- {truth.kind}, `{truth.task}`: " + (known if truth.refusal is None else truth.refusal))
    return "\n".join(lines) + "\n"


def percent(value: float, low: float, high: float) -> str:
    """A share in [0, 1] and its interval, for example `94.2 [92.8, 95.4]`."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
