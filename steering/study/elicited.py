"""Elicited stage: the answers of an arm that is prompt or decoding alone, and what they cost."""

from pathlib import Path

import polars as pl

from lab.elicitation.choice import CANDIDATES
from lab.elicitation.elicit import Elicitation, elicit
from lab.sampling.trace import TRACES, trace_table
from lab.seeds import child_seed
from lab.stage import Artefact, memoised
from lab.tables import Column, Schema, read_table, write_table
from steering.study.bench import Bench
from steering.study.sampled import TABLE

COSTS = Schema(
    "costs",
    (
        Column("problem_id", pl.String, "the problem that was answered"),
        Column("n_answers", pl.Int32, "its answers"),
        Column("n_tokens", pl.Int64, "tokens generated for all of them, with every text that was thrown away"),
        Column("n_fit_tokens", pl.Int64, "tokens generated once, on training problems, to choose how to answer"),
    ),
)


def elicited_traces(bench: Bench, arm: str, method: Elicitation, parents: dict[str, str]) -> Artefact:
    """`traces-<arm>/`: its `TRACES`, its `COSTS` and, where something was chosen, the `CANDIDATES`."""
    study, problems = bench.study, bench.task.problems
    config = {"method": method, "n_samples": study.n_samples, "decoding": study.decoding, "seed": study.seed}
    parents = parents | {"model": bench.base.digest}

    def compute(work: Path) -> None:
        bench.watch(f"traces: {arm}", 0, len(problems))
        answered = elicit(
            bench.base,
            bench.task,
            problems,
            method,
            study.decoding,
            n_samples=study.n_samples,
            # As every other arm, so that what is sampled alike is paired sample by sample.
            seed=child_seed(study.seed, "tokens"),
            batch_size=study.batch_size,
        )
        made_by = bench.made_by(f"traces-{arm}", config, parents)
        n_answers = len(answered.traces) // len(problems)
        costs = [
            {
                "problem_id": problem.id,
                "n_answers": n_answers,
                "n_tokens": n_tokens,
                "n_fit_tokens": answered.cost.n_fit_tokens,
            }
            for problem, n_tokens in zip(problems, answered.cost.n_tokens, strict=True)
        ]
        if answered.candidates is not None:
            write_table(work / "candidates.parquet", answered.candidates, CANDIDATES, made_by)
        write_table(work / "costs.parquet", COSTS.frame(costs), COSTS, made_by)
        write_table(work / TABLE, trace_table(arm, answered.traces), TRACES, made_by)
        bench.watch(f"traces: {arm}", len(problems), len(problems))

    return memoised(bench.out, f"traces-{arm}", config, parents, compute)


def tokens_per_answer(artefact: Artefact) -> float:
    """Tokens generated for one answer, mean over problems."""
    costs = read_table(artefact.path / "costs.parquet", COSTS)
    return int(costs["n_tokens"].sum()) / int(costs["n_answers"].sum())
