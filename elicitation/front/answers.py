"""Answers: what models write, how often it is right, and how much of a gain was already in the base."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, overload

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int

from elicitation.estimators.estimate import Analysis
from elicitation.estimators.panel import panel
from elicitation.front.opening import Edits, Models, Prompts, edits_of, models_of, problems_of, prompted
from lab.metrics import accuracy as accuracies
from lab.metrics.bootstrap import interval_columns, mean_interval, resamples
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import EstimateError, ModelError, StorageError, TaskError
from lab.records.provenance import MARKER, manifest, require_intact
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema, reading_table
from lab.sampling import sample as sampling
from lab.sampling.decoder import OpenDecoder
from lab.sampling.trace import GREEDY, TRACES, VERDICTS, Decoding, trace_table, verdict_table
from lab.scoring.evidence import PROCESS, TWO_MODELS, Evidence
from lab.scoring.scores import Readings, Row, by_text, foresee, logits_of, pieces, scores
from lab.tasks.source import Task
from probes.capture.site import single_token
from steering.edit import apply
from steering.hybrid.hybrid import Hybrid, open_hybrid

PROMPTED = Schema("prompted traces", (*TRACES.columns, Column("prompt", pl.String, "the text that was continued")))
"""`TRACES` that need no list of problems beside them."""
Measure: TypeAlias = Literal["strict", "answer"]
MEASURES: Mapping[Measure, str] = {"strict": "strict", "answer": "answer_correct"}
"""Measure -> column of a `VERDICTS` table."""
N_BOOT = 1000
"""Resamples of the problems behind every interval."""


def sample(
    models: Models,
    prompts: Prompts,
    n: int = 1,
    *,
    decoding: Decoding = Decoding(),  # noqa: B008 -- a frozen value
    edits: Edits = (),
    hybrids: Mapping[str, Hybrid] = MappingProxyType({}),
    seed: int = 0,
    batch_size: int = 1024,
) -> pl.DataFrame:
    """`n` completions of each prompt by each model: a table of traces, whose `arm` is the model's name.

    All draw the same random numbers, so arms are paired. With a pair, `hybrids` are further arms, in which its models
    write together. `edits` act in every model. Raises as `lab.sampling.sample` does.

    >>> el.sample(el.load("zero-base"), "<8-1+9?", n=3)["text"].to_list()
    ['T8-1=7;7+8=5;V5;5-9=6;A6', 'A5', 'T8-1=7;7+9=6;A6']
    """
    problems, alone = problems_of(prompts), models_of(models)
    ways: dict[str, tuple[Model, OpenDecoder | None]] = {model.name: (model, None) for model in alone}
    if isinstance(models, ModelPair):
        ways |= {name: (models.base, open_hybrid(models, hybrid)) for name, hybrid in hybrids.items()}
    elif hybrids:
        raise ModelError(f"hybrids {', '.join(hybrids)} of {len(alone)} models: want a pair, el.pair(base, tuned)")
    ends = frozenset[int]().union(*(model.ends for model in alone))
    tables = []
    for name, (model, rows) in ways.items():
        with apply(model, *edits_of(edits)):
            ended = replace(model, ends=ends)
            written = sampling.sample(ended, problems, n, decoding, seed=seed, batch_size=batch_size, open_rows=rows)
        tables.append(trace_table(name, written))
    texts = pl.DataFrame({"problem_id": [one.id for one in problems], "prompt": [one.prompt for one in problems]})
    return PROMPTED.checked(pl.concat(tables).join(texts, on="problem_id", how="left", maintain_order="left"))


@overload
def generate(model: Model, prompts: str, *, edits: Edits = ..., decoding: Decoding = ..., seed: int = ...) -> str: ...
@overload
def generate(
    model: Model, prompts: Task | list[str], *, edits: Edits = ..., decoding: Decoding = ..., seed: int = ...
) -> list[str]: ...
def generate(
    model: Model, prompts: str | Task | list[str], *, edits: Edits = (), decoding: Decoding = GREEDY, seed: int = 0
) -> str | list[str]:
    """What the model writes behind a prompt, or behind each of several; greedily, unless `decoding` says otherwise.

    >>> el.generate(el.load("zero-base"), "<8-1+9?T")
    '8-1=7;7+9=6;V6;A6'
    """
    traces = sample(model, prompts, edits=edits, decoding=decoding, seed=seed)
    return traces["text"][0] if isinstance(prompts, str) else traces["text"].to_list()


def judge(traces: pl.DataFrame, task: Task) -> pl.DataFrame:
    """A verdict for each trace, in their order: `answer_correct`, `process_valid`, both as `strict`, and the reason.

    Raises TaskError for a trace that answers no problem of the task.

    >>> task = el.task("chain", n=20)
    >>> el.judge(el.sample(el.load("zero-rl"), task), task)["strict"].sum()
    19
    """
    known = {problem.id for problem in task.problems}
    if strangers := [name for name in traces["problem_id"].unique(maintain_order=True) if name not in known]:
        raise TaskError(f"{strangers[0]!r} is no problem of {task.name}: want the task that the traces were sampled on")
    return verdict_table(traces, task.problems, task.verify)


def accuracy(verdicts: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """The share of samples that are right, of each arm under both measures, with 95 % intervals over problems.

    `strict` wants a right answer by a valid process, `answer` the answer alone.

    >>> task = el.task("chain", n=20)
    >>> table = el.accuracy(el.judge(el.sample(el.load("zero-rl"), task, n=4), task))
    >>> table.select("arm", "measure", "value").row(0)
    ('zero-rl', 'strict', 0.95)
    """
    rows = [
        {
            "arm": arm,
            "measure": measure,
            **interval_columns(accuracies.accuracy(accepted, _weights(len(accepted), seed))),
        }
        for measure in MEASURES
        for arm, accepted in _arms(verdicts, measure)
    ]
    return pl.DataFrame(rows)


def pass_at_k(verdicts: pl.DataFrame, ks: Sequence[int], *, measure: Measure = "strict", seed: int = 0) -> pl.DataFrame:
    """The chance that at least one of k samples is right, unbiased (Chen et al. 2021), by arm and k, with intervals.

    >>> task = el.task("chain", n=20)
    >>> el.pass_at_k(el.judge(el.sample(el.load("zero-base"), task, n=8), task), ks=[1, 8])["value"].round(2).to_list()
    [0.26, 0.9]
    """
    return pl.DataFrame(
        {"arm": arm, "k": k, **interval_columns(interval)}
        for arm, accepted in _arms(verdicts, measure)
        for k, interval in accuracies.pass_at_k_curve(accepted, ks, _weights(len(accepted), seed)).items()
    )


def cover(verdicts: pl.DataFrame, taus: Sequence[float], *, measure: Measure = "strict", seed: int = 0) -> pl.DataFrame:
    """The share of problems solved in at least a fraction tau of their samples, by arm and tau, with intervals.

    >>> task = el.task("chain", n=20)
    >>> el.cover(el.judge(el.sample(el.load("zero-rl"), task, n=8), task), taus=[0.5, 1.0])["value"].to_list()
    [1.0, 0.7]
    """
    rows = [
        {"arm": arm, "tau": tau, **interval_columns(interval)}
        for arm, accepted in _arms(verdicts, measure)
        for tau, interval in accuracies.cover_curve(
            accuracies.problem_accuracies(accepted), taus, _weights(len(accepted), seed)
        ).items()
    ]
    return pl.DataFrame(rows)


def elicited_share(
    verdicts: pl.DataFrame, *, base: str, tuned: str, measure: Measure = "strict", seed: int = 0
) -> pl.DataFrame:
    """What share of the gain from the arm `base` to the arm `tuned` every other arm recovers, or why none is given.

    >>> pair, task = el.pair("zero-base", "zero-rl"), el.task("chain", n=20)
    >>> half = el.Hybrid(el.routers.AtRandom(0.5), el.interventions.Takeover())
    >>> verdicts = el.judge(el.sample(pair, task, n=4, hybrids={"half": half}), task)
    >>> el.elicited_share(verdicts, base="zero-base", tuned="zero-rl")["value"].round(2).to_list()
    [0.4]
    """
    rates = {arm: accuracies.problem_accuracies(accepted) for arm, accepted in _arms(verdicts, measure)}
    if absent := [arm for arm in (base, tuned) if arm not in rates]:
        raise EstimateError(f"no verdicts of the arm {absent[0]!r}: there are {', '.join(rates)}")
    weights = _weights(len(rates[base]), seed)
    shares = {arm: accuracies.elicited_share(mine, rates[base], rates[tuned], weights) for arm, mine in rates.items()}
    columns = {"arm": pl.String} | dict.fromkeys(("value", "low", "high"), pl.Float64) | {"refusal": pl.String}
    rows = [(arm, one.value, one.low, one.high, one.refusal) for arm, one in shares.items() if arm not in (base, tuned)]
    return pl.DataFrame(rows, schema=columns, orient="row")


@torch.inference_mode()
def next_token(
    models: Models,
    prompts: Prompts,
    tokens: Sequence[str] | None = None,
    *,
    edits: Edits = (),
    seed: int = 0,
) -> pl.DataFrame:
    """The probability of each of `tokens` behind a prompt, mean over prompts with its interval, by model.

    Without `tokens`, of the five that are most likely on average. It is the expected share of samples that go on so,
    free of sampling noise. Raises SiteError for a string that is not exactly one token of the model.

    >>> el.next_token(el.load("zero-base"), ["<8-1+9?", "<5-3-1?"], ["T", "A"])["value"].round(2).to_list()
    [0.38, 0.61]
    """
    problems = problems_of(prompts)
    rows: list[dict[str, object]] = []
    for model in models_of(models):
        read = [Row(model.prompt_ids(problem.prompt), [0]) for problem in problems]
        foreseen = {}
        for chosen, piece in pieces(model, read):
            n_prompt = torch.tensor([len(row.context) for row in piece.rows])
            with apply(model, *edits_of(edits), n_prompt=n_prompt):
                foreseen[tuple(chosen)] = foresee(model, piece)
        if tokens is None:
            few = (logits.softmax(dim=-1).sum(dim=0) for one in foreseen.values() for (logits,) in logits_of(one))
            likely = sum(few, torch.zeros(model.anatomy.d_vocab, device=model.device)).topk(5).indices.tolist()
            ids = {str(model.tokenizer.decode([number])): number for number in likely}
        else:
            ids = {text: single_token(text, model.tokenizer) for text in tokens}
        chances = np.empty((len(read), len(ids)))
        for chosen, one in foreseen.items():
            of_prompts = by_text(lambda logits, _, ids=ids: (logits.softmax(dim=-1)[:, list(ids.values())],), one)
            chances[list(chosen)] = torch.cat([found for (found,) in of_prompts]).cpu().numpy()
        weights = _weights(len(read), seed)
        rows += [
            {
                "arm": model.name,
                "token": text,
                **interval_columns(mean_interval(chances[:, column], weights)),
            }
            for column, text in enumerate(ids)
        ]
    return pl.DataFrame(rows)


def score(pair: ModelPair, traces: pl.DataFrame) -> Readings:
    """What base and tuned model think of traces that either of them wrote: log-probabilities, divergences and ranks.

    >>> pair = el.pair("zero-base", "zero-rl")
    >>> el.score(pair, el.sample(pair, "<1+2?", seed=3)).scores["writer"].to_list()
    ['base', 'tuned']
    """
    sides = {"base": pair.base.name, "tuned": pair.tuned.name}
    read = [
        scores(pair, side, mine, prompted(mine)) for side, name in sides.items() if len(mine := traces.filter(arm=name))
    ]
    if not read:
        raise EstimateError(f"no traces by {' or '.join(sides.values())}: want el.sample(pair, ...)")
    return Readings(*map(pl.concat, zip(*read, strict=True)))


def evidence(pair: ModelPair, task: Task, n: int = 16, *, seed: int = 0) -> Evidence:
    """All that an estimator may look at: verdicts on `n` samples of each problem by either model, read by both.

    >>> el.evidence(el.pair("world", "locked"), el.task("chain:#:3-5", n=8), n=2).verdicts.height
    32
    """
    traces = sample(pair, task, n, seed=seed)
    named = pl.col("arm").replace({pair.base.name: "base", pair.tuned.name: "tuned"})
    read = score(pair, traces)
    return Evidence(
        arms=TWO_MODELS,
        verdicts=judge(traces, task).with_columns(named),
        scores=read.scores,
        ranks=read.ranks,
        process=PROCESS.frame([]),
        old_verdicts=VERDICTS.frame([]),
    )


def estimate(evidence: Evidence, *, reach: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Every estimator's answer, or the reason why it gives none: how much of the gain was already in the base.

    `reach` is how many samples of one problem still count as within the base's reach.

    >>> found = el.estimate(el.evidence(el.pair("world", "locked"), el.task("chain:#:3-5", n=24), n=8))
    >>> found.filter(estimator="E2", unit="share")["value"].round(1).to_list()
    [1.0]
    """
    return panel(evidence, Analysis(reach=reach, seed=seed))


def report(out: Path | str) -> dict[str, pl.DataFrame]:
    """The tables of a finished run by the names that they have in its directory, such as `tables/ladder`.

    >>> el.report("runs/none")
    Traceback (most recent call last):
    lab.records.errors.StorageError: runs/none holds no tables: want the --out of a study that has finished
    """
    files = sorted(Path(out).rglob("*.parquet"))
    if not files:
        raise StorageError(f"{out} holds no tables: want the --out of a study that has finished")
    found: dict[str, pl.DataFrame] = {}
    for file in files:
        with reading_table(file):
            require_intact(file)
            found[str(file.relative_to(out).with_suffix(""))] = pl.read_parquet(file)
    for marker in sorted(Path(out).rglob(MARKER)):
        lost = [
            name for name in manifest(marker) or {} if name.endswith(".parquet") and not (marker.parent / name).exists()
        ]
        if lost:
            raise StorageError(f"{marker.parent / lost[0]} is missing: put it back from a copy, or run the study again")
    return found


def _weights(n_problems: int, seed: int) -> Int[np.ndarray, "boot problem"]:
    return resamples(n_problems, N_BOOT, numpy_generator(seed, "bootstrap"))


def _arms(verdicts: pl.DataFrame, measure: Measure) -> Iterator[tuple[str, Bool[np.ndarray, "problem sample"]]]:
    """Every arm with what it was accepted for; EstimateError unless each problem has as many samples as the others."""
    for arm in verdicts["arm"].unique(maintain_order=True):
        mine = verdicts.filter(arm=arm).group_by("problem_id", maintain_order=True).agg(MEASURES[measure])
        if mine[MEASURES[measure]].list.len().n_unique() != 1:
            raise EstimateError(
                f"the problems of the arm {arm!r} have different numbers of samples: want as many of each"
            )
        yield arm, np.array(mine[MEASURES[measure]].to_list(), dtype=bool)
