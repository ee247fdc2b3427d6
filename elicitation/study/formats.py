"""Formats: what ways of asking are tried with either model on training problems, and the gain under each of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
from jaxtyping import Float

from elicitation.pages.study.tables import COMPARISONS, FORMATS
from elicitation.study.arms import Arm, AskedAs
from elicitation.study.config import StudyContext, Tables
from elicitation.study.sampled import read_traces, trace_stage
from lab.metrics.accuracy import problem_accuracies
from lab.metrics.bootstrap import difference_interval, interval_columns, mean_interval, resamples
from lab.models.load import Model
from lab.models.pair import Way, own_way
from lab.records.errors import DecodingError, ModelError
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import Artefact
from lab.records.tables import read_table
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import verdict_table
from lab.scoring.evidence import Role
from lab.tasks.problem import Problem
from lab.test_time.choice import Choice, LeftOut, Tried, choose

Side: TypeAlias = Literal["base", "tuned"]
SIDES: tuple[Side, Side] = ("base", "tuned")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Formats:
    """What was offered, and which is best, by `FORMATS`."""

    stage: Artefact
    offered: Mapping[str, Way]

    @property
    def table(self) -> pl.DataFrame:
        """`FORMATS`."""
        return read_table(self.stage.path / "formats.parquet", FORMATS)

    def left_out(self, side: str, name: str) -> bool:
        """Whether a model could not be asked in this way."""
        row = self.table.filter(pl.col("model") == side, pl.col("format") == name)
        return row["left_out"][0] is not None

    def named(self, side: str, column: str) -> str:
        """The way of one model that `column` (own, best or shared) marks."""
        return self.table.filter(pl.col("model") == side, pl.col(column))["format"][0]


def format_stage(context: StudyContext, parents: Mapping[str, str]) -> Formats | None:
    """`formats/`: every way tried with either model on training problems; None where there is a single way."""
    study, offered = context.study, context.ways
    if len(offered) < 2:
        return None
    # The last ones are the worked examples.
    apart = context.fit_task.problems[: -study.prompts.n_examples or None] or context.fit_task.problems
    problems = apart[: study.prompts.n_problems]
    models: dict[Side, Model] = {"base": context.base, "tuned": context.pair.tuned}
    config = {"prompts": study.prompts, "decoding": study.decoding, "seed": study.seed, "formats": context.formats}
    known = {**parents, **{side: model.digest for side, model in models.items()}}

    def compute() -> Tables:
        chosen: dict[Side, Choice[str]] = {
            side: tried(context, side, model, problems) for side, model in models.items()
        }
        tables = {side: choice.table for side, choice in chosen.items()}
        totals = dict.fromkeys(offered, 0.0)
        for row in pl.concat(tables.values()).iter_rows(named=True):
            totals[row["candidate"]] += -np.inf if row["left_out"] else row["strict"]
        shared = max(totals, key=totals.__getitem__)
        own = {side: own_way(offered, side, model) for side, model in models.items()}
        rows = [
            {
                "model": side,
                "format": row["candidate"],
                "own": row["candidate"] == own[side],
                "best": row["chosen"],
                "shared": row["candidate"] == shared,
                "example": getattr(offered[row["candidate"]], side).text(problems[0].prompt),
                **{name: row[name] for name in ("strict", "low", "high", "n_problems", "n_samples", "left_out")},
            }
            for side, table in tables.items()
            for row in table.iter_rows(named=True)
        ]
        return {"formats": (FORMATS, FORMATS.frame(rows))}

    return Formats(stage=context.tables("formats", config, known, compute), offered=offered)


def tried(context: StudyContext, side: str, model: Model, problems: Sequence[Problem]) -> Choice[str]:
    """The way under which most samples of one model are strictly right, the first of equals."""
    study, seed = context.study, child_seed(context.study.seed, "formats")
    found: list[Tried[str]] = []
    own = own_way(context.ways, side, model)
    # Of equals the first is taken, which is how the model is asked anyway.
    for name, way in sorted(context.ways.items(), key=lambda item: item[0] != own):
        asked = replace(model, prompter=getattr(way, side))
        context.watch(f"formats: {side}, {name}", 0, len(problems) * study.prompts.n_samples)
        try:
            for problem in problems:
                encode_prompt(asked, problem, study.decoding)
        except (DecodingError, ModelError) as error:
            found.append(Tried(name, name, LeftOut(str(error))))
            continue
        n_samples = study.prompts.n_samples if study.decoding.temperature else 1
        traces = sample(asked, problems, n_samples, study.decoding, seed=seed, batch_size=study.batch_size)
        found.append(Tried(name, name, traces))
        context.watch(f"formats: {side}, {name}", len(problems) * n_samples, len(problems) * n_samples)
    return choose(found, problems, context.fit_task.verify, seed=seed)


COMPARED = {
    "each as it is asked": ("own", "own"),
    "both as the base": ("base", "base"),
    "both as the tuned model": ("tuned", "tuned"),
    "each as is best for it": ("best", "best"),
    "both as is best for both": ("shared", "shared"),
}
"""Comparison -> for the base and for the tuned model, which way: its own, its best, the shared one, or of whom."""


def cells(formats: Formats) -> dict[str, tuple[str, str]]:
    """For every comparison the ways in which base and tuned model are asked."""

    def way(side: str, which: str) -> str:
        return formats.named(which, "own") if which in SIDES else formats.named(side, which)

    return {name: (way("base", one), way("tuned", other)) for name, (one, other) in COMPARED.items()}


Traces: TypeAlias = Mapping[tuple[str, str], Artefact]
"""Held-out traces of either model by (side, way)."""


def asked_traces(
    context: StudyContext, formats: Formats, alone: Mapping[str, Artefact], parents: Mapping[str, str]
) -> Traces:
    """All that the comparisons need; `alone` has each model's traces as the study asks it."""
    models: dict[Side, Model] = {"base": context.base, "tuned": context.pair.tuned}
    traces = {(side, formats.named(side, "own")): artefact for side, artefact in alone.items()}
    for names in cells(formats).values():
        for (side, model), name in zip(models.items(), names, strict=True):
            if (side, name) not in traces and not formats.left_out(side, name):
                asked = replace(model, prompter=getattr(formats.offered[name], side))
                folder = f"{side}-asked-{list(formats.offered).index(name)}"
                known = {**parents, "model": model.digest, "formats": formats.stage.digest}
                n_samples, problems = context.study.n_samples, context.task.problems
                traces[side, name] = trace_stage(
                    context, folder, asked, problems, n_samples, known, context.study.decoding
                )
    return traces


def asked_arms(formats: Formats, traces: Traces) -> Iterator[tuple[Arm, Artefact]]:
    """The base asked in other ways than the study's, as rungs: asking costs nothing of the tuned model."""
    own = formats.named("base", "own")
    for (side, name), artefact in traces.items():
        if side == "base" and name != own:
            number = list(formats.offered).index(name)
            arm = Arm(role=Role.FORMAT, name=f"base-asked-{number}", label=f"+ asked: {name}", method=AskedAs(name))
            yield arm, artefact


def comparison_stage(context: StudyContext, formats: Formats, traces: Traces) -> Artefact:
    """`comparisons/`: the gain under each way of asking."""
    study = context.study

    def compute() -> Tables:
        problems = context.task.problems
        weights = resamples(len(problems), study.n_boot, numpy_generator(study.seed, "bootstrap"))
        found: dict[tuple[str, str], tuple[Float[np.ndarray, " problem"], float]] = {}
        for key, artefact in traces.items():
            written = read_traces(artefact)
            verdicts = verdict_table(written, problems, context.task.verify)
            cut = float((verdicts["outcome"] == "cut").mean())  # pyright: ignore[reportArgumentType]
            found[key] = problem_accuracies(verdicts["strict"].to_numpy().reshape(len(problems), -1)), cut
        rows = []
        for name, (of_base, of_tuned) in cells(formats).items():
            if ("base", of_base) not in found or ("tuned", of_tuned) not in found:
                continue
            (base, base_cut), (tuned, tuned_cut) = found["base", of_base], found["tuned", of_tuned]
            gain = difference_interval(tuned, base, weights)
            rows.append(
                {"comparison": name, "base_format": of_base, "tuned_format": of_tuned}
                | {"base_cut": base_cut, "tuned_cut": tuned_cut, "n_problems": len(problems)}
                | interval_columns(mean_interval(base, weights), "base", "base_")
                | interval_columns(mean_interval(tuned, weights), "tuned", "tuned_")
                | interval_columns(gain, "gain", "gain_")
            )
        return {"comparisons": (COMPARISONS, COMPARISONS.frame(rows))}

    known = {f"{side}: {name}": artefact.digest for (side, name), artefact in traces.items()}
    return context.tables("comparisons", {"n_boot": study.n_boot, "seed": study.seed}, known, compute)
