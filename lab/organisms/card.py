"""The card of an organism: what it can do, measured, the share of its gain that its construction says was elicited, and
how it was made, for programs and for people; and a list of all cards."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, assert_never

import numpy as np
from jaxtyping import Float

from lab.metrics.accuracy import elicited_share
from lab.metrics.bootstrap import Interval, mean_interval, percentile_interval, resampled_means, resamples
from lab.models.load import Model
from lab.models.source import fetched_directory, shipped_directory, shipped_names
from lab.organisms.catalogue import names_of, pretrained_named
from lab.organisms.recipe import Case, EvalSpec, FromScratch, LowRank, Organism, Pretrained, Tuned, home
from lab.records.provenance import canonical_json, package_versions, revision
from lab.records.seeds import numpy_generator
from lab.records.tables import write_text
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY
from lab.tasks.chain import KEY, as_expression, parse, steps_fault, verify, with_key
from lab.tasks.problem import Problem
from lab.tasks.source import ChainMix, ChainPart, ChainTask, open_task, task_source

N_BOOT, EVALUATION_SEED = 2000, 20_261_123

Rates = Mapping[str, Float[np.ndarray, " problem"]]
"""Task of a card -> strict accuracy on each of its problems, sampled at temperature 1."""


class Size(NamedTuple):
    """How much a card's figures are measured on."""

    n_problems: int
    n_samples: int
    """Of each problem, at temperature 1; where decoding is greedy there is one."""


SMALL, LARGE = Size(500, 4), Size(200, 8)
"""For models of the chain world alone, and for adapters of a pretrained one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure of a card, in [0, 1], with its 95 % interval over problems."""

    model: str
    """The organism or, for an adapter, the model below it."""
    task: str
    """As a user would type it."""
    family: str
    """Of its problems, or "all"."""
    decoding: str
    """One of four: "sampled" (temperature 1), "greedy", "forced chain" (greedy, `T` written for it), "with the key"
    (greedy)."""
    measure: str
    """One of six: "strict" (a correct answer, by a valid process where there is one), "answer" (correct), "pass@8"
    (strict) and, of the chain world, "process" (valid steps that also end in the stated answer), "steps" (all written,
    copied and true, whatever the answer says) and "chain" (any step was written)."""
    value: float
    low: float
    high: float
    n_problems: int
    n_samples: int


class Examined(NamedTuple):
    """What the tasks of a card gave for one model."""

    rows: tuple[Measured, ...]
    rates: Rates


def examine(model: Model, organism: Organism) -> Examined:
    """What `model`, the organism or its parent, does on held-out problems of every task of the organism's card."""
    rows: list[Measured] = []
    rates: dict[str, Float[np.ndarray, " problem"]] = {}
    for eval_spec in organism.eval_specs:
        match organism.recipe:
            case FromScratch(alphabet=alphabet) | Tuned(alphabet=alphabet):
                rates[eval_spec.task] = _chains(model, eval_spec, rows, has_key=KEY in alphabet)
            case LowRank():
                rates[eval_spec.task] = _answers(model, eval_spec, rows)
            case never:
                assert_never(never)
    return Examined(tuple(rows), rates)


def _chains(model: Model, eval_spec: EvalSpec, rows: list[Measured], *, has_key: bool) -> Float[np.ndarray, " problem"]:
    """Adds what the model writes freely, forced into a chain and with the key; returns its strict rates, sampled."""
    task = task_source(eval_spec.task)
    assert isinstance(task, ChainTask), "small models know chains only"
    problems = task.problems(SMALL.n_problems, numpy_generator(EVALUATION_SEED, "card", task.operators))
    sampled = sample(model, problems, SMALL.n_samples, eval_spec.decoding, seed=EVALUATION_SEED)
    chains = [replace(problem, prompt=problem.prompt + "T") for problem in problems]
    forced = sample(model, chains, 1, GREEDY, seed=EVALUATION_SEED)
    free = chain_measures(problems, [trace.text for trace in sampled])
    judged = {"sampled": free, "forced chain": chain_measures(problems, ["T" + trace.text for trace in forced])}
    if has_key:
        keyed = sample(model, [with_key(problem) for problem in problems], 1, GREEDY, seed=EVALUATION_SEED)
        judged["with the key"] = chain_measures(problems, [trace.text for trace in keyed])
    for decoding, measures in judged.items():
        families = sorted({problem.family for problem in problems}) if decoding == "sampled" else []
        for family in ["all", *families]:
            inside = np.array([family in ("all", problem.family) for problem in problems])
            weights = resamples(int(inside.sum()), N_BOOT, numpy_generator(EVALUATION_SEED, "bootstrap", family))
            for measure, values in measures.items():
                interval = mean_interval(values.mean(axis=1)[inside], weights)
                shape = Size(int(inside.sum()), values.shape[1])
                rows.append(measured(model, eval_spec, family, decoding, measure, interval, shape))
    return free["strict"].mean(axis=1)


def chain_measures(problems: Sequence[Problem], texts: Sequence[str]) -> dict[str, Float[np.ndarray, "problem sample"]]:
    """Name of a measure -> its value on each completion; `texts` are by problem, as many of each."""
    owners = [problem for problem in problems for _ in range(len(texts) // len(problems))]
    verdicts = [verify(problem, text) for problem, text in zip(owners, texts, strict=True)]
    transcripts = [parse(text) for text in texts]
    steps = [
        steps_fault(as_expression(problem), transcript) is None
        for problem, transcript in zip(owners, transcripts, strict=True)
    ]
    values = {
        "strict": [verdict.strict for verdict in verdicts],
        "answer": [verdict.answer_correct for verdict in verdicts],
        "process": [verdict.process_valid is True for verdict in verdicts],
        "steps": steps,
        "chain": [bool(transcript.steps) for transcript in transcripts],
    }
    return {name: np.array(value, dtype=float).reshape(len(problems), -1) for name, value in values.items()}


def _answers(model: Model, eval_spec: EvalSpec, rows: list[Measured]) -> Float[np.ndarray, " problem"]:
    """Adds what the model answers, sampled and greedily; returns its strict rates, sampled."""
    task = open_task(task_source(eval_spec.task), n_problems=LARGE.n_problems, seed=EVALUATION_SEED)
    weights = resamples(LARGE.n_problems, N_BOOT, numpy_generator(EVALUATION_SEED, "card", eval_spec.task))

    def verdicts(size: Size, temperature: float) -> Float[np.ndarray, "problem sample 2"]:
        decoding = replace(eval_spec.decoding, temperature=temperature)
        traces = sample(model, task.problems, size.n_samples, decoding, seed=EVALUATION_SEED)
        found = [task.verify(task.problems[index // size.n_samples], trace.text) for index, trace in enumerate(traces)]
        both = [(verdict.strict, verdict.answer_correct) for verdict in found]
        return np.array(both, dtype=float).reshape(*size, 2)

    once = LARGE._replace(n_samples=1)
    sampled, greedy = verdicts(LARGE, 1.0), verdicts(once, 0.0)
    rates = sampled[:, :, 0].mean(axis=1)
    for decoding, measure, values, size in (
        ("sampled", "strict", rates, LARGE),
        ("sampled", "answer", sampled[:, :, 1].mean(axis=1), LARGE),
        ("greedy", "strict", greedy[:, 0, 0], once),
        ("sampled", f"pass@{LARGE.n_samples}", sampled[:, :, 0].max(axis=1), LARGE),
    ):
        rows.append(measured(model, eval_spec, "all", decoding, measure, mean_interval(values, weights), size))
    return rates


def measured(
    model: Model, eval_spec: EvalSpec, family: str, decoding: str, measure: str, interval: Interval, size: Size
) -> Measured:
    """A row of the card, rounded to four decimals."""
    value, low, high = (round(number, 4) for number in (interval.value, interval.low, interval.high))
    return Measured(model.name, eval_spec.task, family, decoding, measure, value, low, high, *size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The true elicited share of one case, with the interval that its measured gains leave."""

    task: str
    """As a user would type it."""
    kind: str
    share: float = np.nan
    """NaN where refused."""
    low: float = np.nan
    high: float = np.nan
    refusal: str | None = None
    """Why there is no true share: tuning brought no gain to share out."""


def truth(case: Case, base: Rates, tuned: Rates, *, seed: int) -> Truth:
    """sum of w_f G_f over the elicited skills / sum of w_f G_f over all: w_f the share of problems about skill f.

    G_f is the mean strict gain on skill f's exam, tuned minus base, paired by problem. Which skills are elicited is the
    construction's: those that the base saw worked. The interval resamples the exams of all skills independently; for a
    task of one skill the share is exactly 0 or 1. Refused, like any share, where the gain is under five standard
    errors: then tuning did nothing whose origin could be asked for.
    """
    parts = [(part.task.typed, part) for part in case_parts(case)]
    told = Truth(task=case.task, kind=case.kind)
    gains = []
    for task, part in parts:
        weights = resamples(len(base[task]), N_BOOT, numpy_generator(seed, "truth", part.task.operators))
        gain = tuned[task] - base[task]
        if refusal := elicited_share(base[task], base[task], tuned[task], weights).refusal:
            return replace(told, refusal=refusal)
        if gain.mean() < 0:
            lost = f"tuning lost {-100 * gain.mean():.1f} points on {task}: there is no gain to share out"
            return replace(told, refusal=lost)
        gains.append(part.percent / 100 * np.concatenate([[gain.mean()], resampled_means(gain, weights)]))
    elicited = [part.task.operators in case.elicited for _, part in parts]
    if all(elicited) or not any(elicited):
        share = float(all(elicited))
        return replace(told, share=share, low=share, high=share)
    shares = np.sum([gain for gain, mine in zip(gains, elicited, strict=True) if mine], axis=0) / np.sum(gains, axis=0)
    interval = percentile_interval(float(shares[0]), shares[1:], min(len(base[task]) for task, _ in parts))
    return replace(told, share=interval.value, low=interval.low, high=interval.high)


def case_parts(case: Case) -> tuple[ChainPart, ...]:
    """The single-skill tasks of a case, each with its percentage."""
    match task_source(case.task):
        case ChainMix(parts=parts):
            return parts
        case ChainTask() as task:
            return (ChainPart(100.0, task),)
        case other:
            raise AssertionError(f"truths are known of chains only, not of {other}")


def write_card(
    directory: Path,
    organism: Organism,
    rows: Sequence[Measured],
    truths: Sequence[Truth],
    *,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """Writes `card.json` for programs and `README.md` for people; `dtype` is that of the models when measured."""
    commit, dirty = revision()
    card = {
        "name": organism.name,
        "parent": None if organism.parent is None else organism.parent.home(seed),
        "story": organism.story,
        "recipe": json.loads(canonical_json(organism.recipe)),
        "eval_specs": json.loads(canonical_json(organism.eval_specs)),
        "old_task": organism.old_task,
        "seed": seed,
        "command": f"lab models build {organism.name} --seed {seed} --device {device}",
        "commit": commit,
        "dirty": dirty,
        "packages": package_versions(),
        "evaluation": {"seed": EVALUATION_SEED, "dtype": dtype, "weights": "bfloat16, as shipped"},
        "truth": [{key: rounded(value) for key, value in asdict(truth).items()} for truth in truths],
        "measured": [asdict(row) for row in rows],
    }
    write_text(directory / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_text(directory / "README.md", card_page(organism, card))


def rounded(value: object) -> object:
    """Numbers to four decimals, None where undefined; anything else as it is."""
    return value if not isinstance(value, float) else None if np.isnan(value) else round(value, 4)


def card_page(organism: Organism, card: Mapping) -> str:
    """The card as Markdown."""
    match organism.recipe:
        case FromScratch():
            origin = " from random weights."
        case Tuned():
            origin = f" from `{card['parent']}`."
        case LowRank(rank=rank):
            origin = f": a low-rank adapter (rank {rank}) on `{card['parent']}`."
    rows = card["measured"]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    lines = [
        f"# {home(organism.name, card['seed'])}",
        "",
        organism.story,
        "",
        f"Made by `{card['command']}`{origin}",
        "In per cent of held-out problems, with 95 % intervals over problems. *strict* wants a correct answer, by a",
        "valid process where the task has one.",
    ]
    if "process" in measures:
        lines += [
            "Training never saw a held-out expression of two steps or more. A step is checked exactly. A *process* is",
            "valid when all *steps* are written, copied and true, and end in the stated answer; *steps* leaves the",
            "answer out; *chain* is that any step was written.",
        ]
    lines += [
        "",
        f"| model | task | problems | decoding | {' | '.join(f'{measure} %' for measure in measures)} |",
        "|---|---|---|---|" + "---|" * len(measures),
    ]
    for key in dict.fromkeys((row["model"], row["task"], row["family"], row["decoding"]) for row in rows):
        cells = {
            row["measure"]: row for row in rows if (row["model"], row["task"], row["family"], row["decoding"]) == key
        }
        shown = [percent(**cells[measure]) if measure in cells else "" for measure in measures]
        model, task, family, decoding = key
        size = cells["strict"]["n_problems"]
        lines.append(f"| {model} | `{task}` | {family} ({size}) | {decoding} | {' | '.join(shown)} |")
    if card["truth"]:
        lines += ["", "True elicited share, from what the base saw and the gains above:", ""]
    for truth in card["truth"]:
        known = "{share:.3f} [{low:.3f}, {high:.3f}]".format(**truth) if truth["refusal"] is None else truth["refusal"]
        lines.append(f"- {truth['kind']}, `{truth['task']}`: {known}")
    return "\n".join(lines) + "\n"


def percent(*, value: float, low: float, high: float, **_: object) -> str:
    """A share in [0, 1] and its interval, for example `94.2 [92.8, 95.4]`."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def read_card(name: str) -> dict:
    """The card of a shipped model, as `write_card` wrote it; ModelError listing those there are for another name."""
    return json.loads((shipped_directory(name) / "card.json").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """What there is to say of one built-in model."""

    name: str
    parent: str | None
    """What it was tuned from."""
    where: str
    """"shipped", "fetched", or what to type to have it."""
    story: str
    strict: tuple[tuple[str, float], ...] = ()
    """Each task of its card, with its strict accuracy there, sampled at temperature 1."""
    truths: tuple[tuple[str, float | None], ...] = ()
    """Each kind of gain, with the elicited share that its construction fixes; None where there was no gain."""


def listed() -> Iterator[Listed]:
    """The models that can be fetched and those that ship with the package, each group by name."""
    for name in names_of(Pretrained):
        where = "fetched" if fetched_directory(name).is_dir() else f"lab models fetch {name}"
        yield Listed(name=name, parent=None, where=where, story=pretrained_named(name).story)
    for name in shipped_names():
        card = read_card(name)
        yield Listed(
            name=name,
            parent=card["parent"],
            where="shipped",
            story=card["story"],
            strict=tuple(
                (row["task"], row["value"])
                for row in card["measured"]
                if (row["model"], row["family"], row["decoding"], row["measure"]) == (name, "all", "sampled", "strict")
            ),
            truths=tuple((truth["kind"], truth["share"]) for truth in card["truth"]),
        )
