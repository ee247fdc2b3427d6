"""Table stage: the traces of all arms -> verdicts and the ledger."""

from functools import partial
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.report.ledger import RIVALS, SCHEMAS, Family
from lab.sampling.trace import VERDICTS, verdict_table
from lab.seeds import numpy_generator
from lab.stage import Artefact, memoised
from lab.tables import write_table
from steering.hybrid.hybrid import Hybrid, Steer, bits_per_token
from steering.hybrid.router import Never, asks_tuned
from steering.study.arms import Arm
from steering.study.bench import Bench
from steering.study.findings import (
    Answered,
    cover_table,
    example_table,
    family_table,
    guess_table,
    ladder_table,
    pass_at_k_table,
    routed_share,
)
from steering.study.sampled import read_traces

N_EXAMPLES = 3
"""Problems whose traces the report shows."""


def table_stage(
    bench: Bench, base: Artefact, tuned: Artefact, arms: list[tuple[Arm, Artefact]], companions: list[Artefact]
) -> Artefact:
    """`tables/`: verdicts and the whole ledger."""
    parents = {"base": base.digest, "tuned": tuned.digest}
    parents |= {arm.name: artefact.digest for arm, artefact in arms}
    parents |= {f"companion-{index}": artefact.digest for index, artefact in enumerate(companions)}
    config = {"ks": bench.study.ks, "n_boot": bench.study.n_boot, "seed": bench.study.seed}

    def compute(work: Path) -> None:
        made_by = bench.made_by("tables", config, parents)
        names = [bench.base.name, bench.pair.tuned.name, *(model.name for model in bench.companions)]
        sources = [("base", base), ("tuned", tuned)]
        sources += [(f"companion-{index}", artefact) for index, artefact in enumerate(companions)]
        own = [
            answered(bench, artefact, name=name, label=label, steered_share=0.0, bits=0.0 if name == "base" else inf)
            for (name, artefact), label in zip(sources, names, strict=True)
        ]
        between = [answered_arm(bench, arm, artefact) for arm, artefact in arms]
        rungs = [own[0], *between, own[1]]
        weights = resamples(
            len(bench.task.problems), bench.study.n_boot, numpy_generator(bench.study.seed, "bootstrap")
        )
        tables = {
            "ladder": ladder_table(rungs, weights),
            "rivals": RIVALS.frame([]),
            "guess": guess_table(own, bench.task, weights),
            "pass_at_k": pass_at_k_table(own, bench.study.ks, weights),
            "cover": cover_table(own, weights),
            "families": family_table(own, bench.task.problems, weights),
            "examples": example_table(rungs, bench.task.problems, partial(piece, bench.base), N_EXAMPLES),
        }
        verdicts = pl.concat([arm.verdicts for arm in [*own, *between]])
        write_table(work / "verdicts.parquet", verdicts, VERDICTS, made_by)
        for schema in SCHEMAS:
            write_table(work / f"{schema.name}.parquet", tables[schema.name], schema, made_by)

    return memoised(bench.out, "tables", config, parents, compute)


def piece(model: Model, token: int) -> str:
    """The text of one token."""
    return str(model.tokenizer.decode([token]))


def answered_arm(bench: Bench, arm: Arm, artefact: Artefact) -> Answered:
    """A rung or control with its verdicts, and what it took from the tuned model."""
    share = routed_share(read_traces(artefact))
    bits = bits_per_token(arm.hybrid, share, bench.base.anatomy.d_vocab)
    return answered(
        bench,
        artefact,
        name=arm.name,
        label=arm.label,
        kind=arm.kind,
        control_of=arm.control_of,
        family=family_of(arm.hybrid),
        steered_share=share,
        bits=bits,
    )


def family_of(hybrid: Hybrid) -> Family:
    """Which kind of help a hybrid is."""
    match hybrid:
        case Hybrid(router=Never()):
            return "decoding"
        case Hybrid(act=Steer()):
            return "tuned router" if asks_tuned(hybrid.router) else "vector"
        case _:
            return "takeover"


def answered(
    bench: Bench,
    artefact: Artefact,
    *,
    name: str,
    label: str,
    kind: Literal["end", "rung", "control"] = "end",
    control_of: str | None = None,
    family: Family = "end",
    steered_share: float,
    bits: float,
) -> Answered:
    """The traces of an arm with their verdicts; `bits` are those of a token."""
    traces = read_traces(artefact)
    n_tokens = traces["tokens"].list.len().to_numpy().astype(np.int64).reshape(len(bench.task.problems), -1)
    return Answered(
        name=name,
        label=label,
        kind=kind,
        control_of=control_of,
        family=family,
        traces=traces,
        verdicts=verdict_table(traces, bench.task.problems, bench.task.verify),
        steered_share=steered_share,
        bits=bits * n_tokens.mean(axis=1),
        cost=1.0,
    )
