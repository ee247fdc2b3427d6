"""Table stage: the traces of all arms -> verdicts and the ledger."""

from collections.abc import Sequence
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
from jaxtyping import Float

from elicitation.report.study.tables import SCHEMAS, Family
from elicitation.study.arms import Arm, arm_family
from elicitation.study.context import StudyContext
from elicitation.study.findings import (
    Answered,
    arm_table,
    cover_table,
    example_table,
    family_table,
    guess_table,
    ladder_table,
    pass_at_k_table,
    routed_share,
)
from elicitation.study.published import published_table
from elicitation.study.sampled import read_traces, tokens_per_answer
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import write_table
from lab.sampling.trace import VERDICTS, verdict_table
from lab.scoring.evidence import ARMS, ArmKey, Role
from steering.edited import Edited
from steering.hybrid.hybrid import Hybrid


def problem_bits(traces: pl.DataFrame, hybrid: Hybrid) -> pl.DataFrame:
    """`bits` that each completion of an arm took, one row for each (`problem_id`, `sample_index`) of its `TRACES`.

    The sum over the completion's tokens of three lengths. Gate: -log2 of the arm's measured rate of what the gate did
    at the token, where the router asks the tuned model. Category: -log2 of the measured frequency of the token's
    category among routed tokens, where the tuned model's stream was read for it. Content: `content_bits` as recorded.
    A hybrid that never asks the tuned model costs exactly 0; takeover of every token costs the cross-entropy of the
    written tokens under the base; an arm's gates cost the binary entropy of its rate for each token on average
    (Shannon 1948: ideal code lengths under the measured rates, which themselves are not paid for).
    """
    tokens = traces.select(
        "problem_id",
        "sample_index",
        "content_bits",
        "categories",
        routed=pl.col("routes").list.eval(pl.element() > 0),
    ).explode("content_bits", "categories", "routed")
    bits = pl.col("content_bits").cast(pl.Float64)
    if hybrid.router.reads.asks_tuned:
        bits = bits + code_length("routed")
    if hybrid.intervention.categories_of == "tuned":
        bits = bits + pl.when("routed").then(code_length("routed", "categories") - code_length("routed")).otherwise(0.0)
    keys = ("problem_id", "sample_index")
    return tokens.with_columns(bits=bits).group_by(*keys, maintain_order=True).agg(pl.col("bits").sum())


def code_length(*columns: str) -> pl.Expr:
    """-log2 of the share of all rows that have the same values in `columns`."""
    return (pl.len() / pl.len().over(*columns)).log(2)


N_EXAMPLES = 3
"""Problems whose traces the report shows."""


def table_stage(
    context: StudyContext, base: Artefact, tuned: Artefact, arms: list[tuple[Arm, Artefact]], companions: list[Artefact]
) -> Artefact:
    """`tables/`: verdicts and the whole ledger."""
    parents = {"base": base.digest, "tuned": tuned.digest}
    parents |= {arm.name: artefact.digest for arm, artefact in arms}
    parents |= {f"companion-{index}": artefact.digest for index, artefact in enumerate(companions)}
    config = {"ks": context.study.ks, "n_boot": context.study.n_boot, "seed": context.study.seed}

    def compute(work: Path) -> None:
        made_by = context.made_by("tables", config, parents)
        names = [context.base.name, context.pair.tuned.name, *(model.name for model in context.companions)]
        sources: list[tuple[str, Artefact]] = [(Role.BASE, base), (Role.TUNED, tuned)]
        sources += [(f"companion-{index}", artefact) for index, artefact in enumerate(companions)]
        roles = [Role.BASE, Role.TUNED, *(Role.COMPANION for _ in companions)]
        own = [
            end(context, artefact, name=name, label=label, key=ArmKey(role))
            for (name, artefact), label, role in zip(sources, names, roles, strict=True)
        ]
        base_tokens = float(own[0].n_tokens.sum() / (own[0].n_samples * len(own[0].n_tokens)))
        between = [answered_arm(context, *arm, base_tokens) for arm in in_order(arms)]
        rungs = [own[0], *between, own[1]]
        weights = resamples(
            len(context.task.problems), context.study.n_boot, numpy_generator(context.study.seed, "bootstrap")
        )
        tables = {
            "ladder": ladder_table(rungs, weights),
            "published_hybrids": published_table(between, weights),
            "guess": guess_table(own, context.task, weights),
            "pass_at_k": pass_at_k_table(own, context.study.ks, weights),
            "cover": cover_table(own, weights),
            "families": family_table(own, context.task.problems, weights),
            "examples": example_table(rungs, context.task.problems, partial(piece, context.base), N_EXAMPLES),
        }
        verdicts = pl.concat([arm.verdicts for arm in [*own, *between]])
        write_table(work / "verdicts.parquet", verdicts, VERDICTS, made_by)
        write_table(work / "arms.parquet", arm_table([*own, *between]), ARMS, made_by)
        for schema in SCHEMAS:
            write_table(work / f"{schema.name}.parquet", tables[schema.name], schema, made_by)

    return memoised(context.out, "tables", config, parents, compute)


def piece(model: Model, token: int) -> str:
    """The text of one token."""
    return str(model.tokenizer.decode([token]))


def end(context: StudyContext, artefact: Artefact, *, name: str, label: str, key: ArmKey) -> Answered:
    """A model that answers alone."""
    bits = np.full(len(context.task.problems), 0.0 if key.role == Role.BASE else inf)
    return answered(context, artefact, name=name, label=label, key=key, steered_share=0.0, bits=bits)


def in_order(arms: Sequence[tuple[Arm, Artefact]]) -> list[tuple[Arm, Artefact, Family]]:
    """The arms in the order of the kinds of help, each control behind its rung and of its kind."""
    families: dict[str, Family] = {arm.name: arm_family(arm) for arm, _ in arms}
    rungs: list[tuple[Arm, Artefact, Family]] = [
        (arm, artefact, families.get(arm.control_of or "", families[arm.name])) for arm, artefact in arms
    ]
    return sorted(rungs, key=lambda rung: get_args(Family).index(rung[2]))


def answered_arm(context: StudyContext, arm: Arm, artefact: Artefact, family: Family, base_tokens: float) -> Answered:
    """A rung or control with its verdicts, what it took from the tuned model, and what it cost.

    `base_tokens` are those of the base model's single answer, mean over problems.
    """
    traces = read_traces(artefact)
    match arm.method:
        case Hybrid() as hybrid:
            crossed = (
                problem_bits(traces, hybrid).group_by("problem_id", maintain_order=True).agg(pl.col("bits").mean())
            )
            bits, cost, steered_share = crossed["bits"].to_numpy(), 1.0, routed_share(traces)
        case Edited():
            # At how many tokens an edit of the whole text does anything is not measured.
            bits, cost, steered_share = np.zeros(len(context.task.problems)), 1.0, nan
        case _:
            bits, cost = np.zeros(len(context.task.problems)), tokens_per_answer(artefact) / base_tokens
            steered_share = routed_share(traces)
    return answered(
        context,
        artefact,
        name=arm.name,
        label=arm.label,
        key=arm.key,
        control_of=arm.control_of,
        family=family,
        steered_share=steered_share,
        bits=bits,
        cost=cost,
    )


def answered(
    context: StudyContext,
    artefact: Artefact,
    *,
    name: str,
    label: str,
    key: ArmKey,
    control_of: str | None = None,
    family: Family = "end",
    steered_share: float,
    bits: Float[np.ndarray, " problem"],
    cost: float = 1.0,
) -> Answered:
    """The traces of an arm with their verdicts."""
    traces = read_traces(artefact)
    return Answered(
        name=name,
        label=label,
        key=key,
        control_of=control_of,
        family=family,
        traces=traces,
        verdicts=verdict_table(traces, context.task.problems, context.task.verify),
        steered_share=steered_share,
        bits=bits,
        cost=cost,
    )
