"""run: a study from its configuration to its report, stage by stage, each resumable."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from lab.errors import StorageError, VectorError
from lab.metrics.bootstrap import resamples
from lab.models.device import resolve_device, resolve_dtype
from lab.models.load import Model, load
from lab.models.pair import ModelPair
from lab.models.source import model_source
from lab.provenance import Provenance, canonical_json, file_digest, provenance
from lab.report.ledger import SCHEMAS, Ledger
from lab.report.page import Page, render
from lab.report.provenance_section import TableFile
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import TRACES, VERDICTS, verdict_table
from lab.seeds import child_seed, numpy_generator, torch_generator
from lab.stage import Artefact, memoised
from lab.tables import Schema, read_table, replacing, write_table, write_text
from lab.tasks.problem import PROBLEMS, Problem, problem_table
from lab.tasks.source import Task, open_task, task_source
from probes.site import Site, check_site
from steering.export.tensors import load_vector, save_vector
from steering.fit.gradient import fit_gradient
from steering.fit.mean_difference import mean_difference
from steering.fit.random import random_like
from steering.hybrid.hybrid import Hybrid, bits_per_token, open_hybrid
from steering.study.arms import Arm, ladder, takeover_control
from steering.study.config import Study
from steering.study.evidence import ACTIVATIONS, DECISIONS, contexts, decisions, opening_activations
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
from steering.study.sampled import Sampling, read_traces, sampled
from steering.vector import SteeringVector

N_EXAMPLES = 3
N_RANDOM = 16
"""Random vectors that each random control draws from."""
MAX_DECISIONS = 4096
"""Decisions a vector is fitted on, at most; drawn at random from all."""

Watch = Callable[[str, int, int], None]
"""Told (stage, items just done, items in all) while a study runs."""


class Finished(NamedTuple):
    """Where a study's results lie."""

    report: Path
    ledger: Ledger


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """All that the stages of one study share."""

    study: Study
    out: Path
    pair: ModelPair
    companions: tuple[Model, ...]
    task: Task
    fit_task: Task
    site: Site
    watch: Watch

    @property
    def base(self) -> Model:
        return self.pair.base

    @property
    def device(self) -> str:
        return self.base.device.type

    @property
    def dtype(self) -> str:
        return str(self.base.dtype).removeprefix("torch.")

    def made_by(self, stage: str, config: object, parents: dict[str, str]) -> Provenance:
        """Provenance of a file of this study."""
        return provenance(stage, config, parents, device=self.device, dtype=self.dtype, seed=self.study.seed)


def run(study: Study, out: Path, *, command: str, watch: Watch = lambda *_: None) -> Finished:
    """Runs what is not yet there and writes `out/report.html`.

    Everything that can be found wrong with the request is found before the first file is written. Raises a LabError
    for a bad request, and StorageError where `out` belongs to another study.
    """
    bench = prepare(study, out, watch)
    claim(out, study)
    problems = problem_stage(bench)
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "base", parents)
    tuned = own_traces(bench, bench.pair.tuned, "tuned", parents)
    companions = [
        own_traces(bench, model, f"companion-{index}", parents) for index, model in enumerate(bench.companions)
    ]
    vectors, opening_rate = vector_stage(bench, problems)
    arms: list[tuple[Arm, Artefact]] = []
    for arm in ladder(read_vectors(vectors), opening_rate):
        arms.append((arm, hybrid_traces(bench, arm, parents | {"vectors": vectors.digest})))
    taken = arms[-1][1]
    scattered = takeover_control(round(routed_share(read_traces(taken)), 4))
    arms.append((scattered, hybrid_traces(bench, scattered, parents | {"takeover": taken.digest})))
    tables = table_stage(bench, base, tuned, arms, companions)
    # Every stage has moved out of it; a kill may have left hidden parts of files.
    shutil.rmtree(out / ".work", ignore_errors=True)
    return report_stage(bench, tables, command)


def prepare(study: Study, out: Path, watch: Watch) -> Bench:
    """Loads and checks everything; writes nothing."""
    device = resolve_device(study.device)
    dtype = resolve_dtype(study.dtype, device)  # pyright: ignore[reportArgumentType]

    def opened(text: str) -> Model:
        return load(model_source(text), device=device, dtype=dtype)

    pair = ModelPair(base=opened(study.base), tuned=opened(study.tuned))
    site = Site(study.layer if study.layer is not None else pair.base.anatomy.n_layers // 2)
    check_site(pair.base, site)
    companions = tuple(opened(text) for text in study.companions)
    source = task_source(study.task)
    task = open_task(source, n_problems=study.n_problems, seed=study.seed)
    fit_task = open_task(source, n_problems=study.n_fit_problems, seed=study.seed, held_out=False)
    for model in (pair.base, pair.tuned, *companions):
        for problem in (*task.problems, *fit_task.problems):
            # Raises where a prompt and its completion do not fit the model's context.
            encode_prompt(model, problem.prompt, study.decoding)
    return Bench(
        study=study,
        out=out,
        pair=pair,
        companions=companions,
        task=task,
        fit_task=fit_task,
        site=site,
        watch=watch,
    )


def claim(out: Path, study: Study) -> None:
    """Marks `out` as this study's; StorageError where it is another's or holds something else."""
    wanted = canonical_json(study)
    marker = out / "study.json"
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is not a directory: choose another --out")
    # What a run that was killed while it wrote left behind.
    for name in ("study.json", "report.html"):
        for leftover in out.glob(f".{name}.*.partial"):
            leftover.unlink()
    if marker.exists():
        if marker.read_text(encoding="utf-8") != wanted:
            raise StorageError(f"{out} holds a study of another configuration: choose another --out or delete it")
    elif out.exists() and any(out.iterdir()):
        raise StorageError(f"{out} is not empty and holds no study: choose another --out")
    else:
        write_text(marker, wanted)


def problem_stage(bench: Bench) -> Artefact:
    """`problems/`: the held-out problems and those that vectors are fitted on."""
    config = {"task": bench.task.name, "seed": bench.study.seed}
    sides = {"held_out": bench.task.problems, "fit": bench.fit_task.problems}
    parents = {side: canonical_json(problems) for side, problems in sides.items()}

    def compute(work: Path) -> None:
        for side, problems in sides.items():
            write_table(
                work / f"{side}.parquet", problem_table(problems), PROBLEMS, bench.made_by("problems", config, {})
            )

    return memoised(bench.out, "problems", config, parents, compute)


def own_traces(bench: Bench, model: Model, arm: str, parents: dict[str, str], *, fitting: bool = False) -> Artefact:
    """A model's own traces: of the held-out problems, or, for fitting, of the training ones."""
    study = bench.study
    problems = bench.fit_task.problems if fitting else bench.task.problems
    n_samples = study.n_fit_samples if fitting else study.n_curve_samples
    return trace_stage(bench, arm, model, problems, n_samples, parents | {"model": model.digest})


def hybrid_traces(bench: Bench, arm: Arm, parents: dict[str, str]) -> Artefact:
    """An arm's traces of the held-out problems."""
    digests = {"base": bench.base.digest, "tuned": bench.pair.tuned.digest, "arm": arm_text(arm.hybrid)}
    return trace_stage(
        bench, arm.name, bench.base, bench.task.problems, bench.study.n_samples, parents | digests, hybrid=arm.hybrid
    )


def arm_text(hybrid: Hybrid) -> str:
    """What determines a hybrid besides its vectors, which have a digest of their own."""
    return f"{hybrid.router} {type(hybrid.act).__name__}"


def trace_stage(
    bench: Bench,
    arm: str,
    model: Model,
    problems: tuple[Problem, ...],
    n_samples: int,
    parents: dict[str, str],
    *,
    hybrid: Hybrid | None = None,
) -> Artefact:
    """One sampled stage. All arms share their random numbers, so they are paired sample by sample."""
    config = Sampling(
        arm=arm,
        n_samples=n_samples,
        decoding=bench.study.decoding,
        seed=child_seed(bench.study.seed, "tokens"),
        batch_size=bench.study.batch_size,
        device=bench.device,
        dtype=bench.dtype,
    )
    total = len(problems) * n_samples
    return sampled(
        bench.out,
        config,
        model,
        problems,
        parents,
        open_rows=None if hybrid is None else open_hybrid(bench.pair, hybrid),
        on_progress=lambda n: bench.watch(f"traces: {arm}", n, total),
    )


def vector_stage(bench: Bench, problems: Artefact) -> tuple[Artefact, float]:
    """`activations/`, `decisions/` and `vectors/`, and the share of tokens that open a completion."""
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "fit-base", parents, fitting=True)
    tuned = own_traces(bench, bench.pair.tuned, "fit-tuned", parents, fitting=True)
    parents = {"fit-base": base.digest, "fit-tuned": tuned.digest}
    by_base, by_tuned = read_traces(base), read_traces(tuned)
    failed = by_base.filter(~verdict_table(by_base, bench.fit_task.problems, bench.fit_task.verify)["strict"])
    solved = by_tuned.filter(verdict_table(by_tuned, bench.fit_task.problems, bench.fit_task.verify)["strict"])
    by_id = {problem.id: problem for problem in bench.fit_task.problems}
    batch_size = bench.study.batch_size

    def compute_activations(work: Path) -> None:
        tensor, index = opening_activations(
            bench.base, bench.site, {"positive": solved, "negative": failed}, by_id, batch_size=batch_size
        )
        made_by = bench.made_by("activations", str(bench.site), parents)
        with replacing(work / "activations.safetensors") as path:
            save_file({"activations": tensor}, path, metadata={"provenance": made_by.to_json()})
        write_table(work / "index.parquet", index, ACTIVATIONS, made_by)

    def compute_decisions(work: Path) -> None:
        found = decisions(bench.pair, solved, by_id, batch_size=batch_size)
        write_table(work / "decisions.parquet", found, DECISIONS, bench.made_by("decisions", {}, parents))

    activations = memoised(bench.out, "activations", str(bench.site), parents, compute_activations)
    decided = memoised(bench.out, "decisions", {}, parents, compute_decisions)
    parents = {"activations": activations.digest, "decisions": decided.digest}
    config = {"site": str(bench.site), "fit": bench.study.fit, "seed": bench.study.seed}

    def compute_vectors(work: Path) -> None:
        made_by = bench.made_by("vectors", config, parents)
        for name, vector in fitted_vectors(bench, activations, decided, solved, by_id).items():
            save_vector(work / f"{name}.safetensors", vector, made_by)

    vectors = memoised(bench.out, "vectors", config, parents, compute_vectors)
    return vectors, round(1 / float(solved["tokens"].list.len().mean()), 4)  # pyright: ignore[reportArgumentType]


def fitted_vectors(
    bench: Bench, activations: Artefact, decided: Artefact, solved: pl.DataFrame, by_id: dict[str, Problem]
) -> dict[str, SteeringVector]:
    """The vectors of the ladder at the study's site: a mean difference, a fitted one, and random draws."""
    index = read_table(activations.path / "index.parquet", ACTIVATIONS)
    tensor = load_file(activations.path / "activations.safetensors")["activations"]
    positive, negative = (
        tensor[torch.tensor(index.filter(pl.col("side") == side)["row"].to_list(), dtype=torch.long)]
        for side in ("positive", "negative")
    )
    found = read_table(decided.path / "decisions.parquet", DECISIONS)
    if found.height > MAX_DECISIONS:
        chosen = numpy_generator(bench.study.seed, "decisions").choice(found.height, MAX_DECISIONS, replace=False)
        found = found[np.sort(chosen)]
    if not found.height:
        raise VectorError(
            f"{bench.base.name} and {bench.pair.tuned.name} never disagree on {solved.height} solved fitting "
            "traces, so there is no decision to fit a vector on: raise --n-fit-problems, or compare models that differ"
        )
    fitted = fit_gradient(
        bench.base,
        bench.site,
        contexts(bench.base, found, solved, by_id),
        bench.study.fit,
        torch_generator(bench.study.seed, "fit"),
        how=f"gradient on {found.height} decisions where {bench.pair.tuned.name} disagrees with {bench.base.name}",
    )
    mean = mean_difference(
        bench.site,
        positive,
        negative,
        how=f"first tokens: {len(positive)} solved by {bench.pair.tuned.name} minus "
        f"{len(negative)} failed by {bench.base.name}",
    )
    return {"mean": mean, "fitted": fitted} | {
        f"like-{kind}-{draw:02d}": random_like(vector, torch_generator(bench.study.seed, "random vector", draw))
        for kind, vector in (("mean", mean), ("fitted", fitted))
        for draw in range(N_RANDOM)
    }


def read_vectors(vectors: Artefact) -> dict[str, tuple[SteeringVector, ...]]:
    """The vectors of a finished stage, by kind."""
    return {
        kind: tuple(load_vector(path) for path in sorted(vectors.path.glob(f"{kind}*.safetensors")))
        for kind in ("mean", "fitted", "like-mean", "like-fitted")
    }


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
        pieces = {token: str(bench.base.tokenizer.decode([token])) for token in range(len(bench.base.tokenizer))}
        tables = {
            "ladder": ladder_table(rungs, weights),
            "guess": guess_table(own, bench.task, weights),
            "pass_at_k": pass_at_k_table(own, bench.study.ks, weights),
            "cover": cover_table(own, weights),
            "families": family_table(own, bench.task.problems, weights),
            "examples": example_table(rungs, bench.task.problems, pieces, N_EXAMPLES),
        }
        verdicts = pl.concat([arm.verdicts for arm in [*own, *between]])
        write_table(work / "verdicts.parquet", verdicts, VERDICTS, made_by)
        for schema in SCHEMAS:
            write_table(work / f"{schema.name}.parquet", tables[schema.name], schema, made_by)

    return memoised(bench.out, "tables", config, parents, compute)


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
        steered_share=share,
        bits=bits,
    )


def answered(
    bench: Bench,
    artefact: Artefact,
    *,
    name: str,
    label: str,
    kind: Literal["end", "rung", "control"] = "end",
    control_of: str | None = None,
    steered_share: float,
    bits: float,
) -> Answered:
    """The traces of an arm with their verdicts."""
    traces = read_traces(artefact)
    return Answered(
        name=name,
        label=label,
        kind=kind,
        control_of=control_of,
        traces=traces,
        verdicts=verdict_table(traces, bench.task.problems, bench.task.verify),
        steered_share=steered_share,
        bits_per_token=bits,
    )


def report_stage(bench: Bench, tables: Artefact, command: str) -> Finished:
    """`report.html`, drawn from the tables alone; written again by every run, and equal each time."""
    ledger = Ledger(**{schema.name: read_table(tables.path / f"{schema.name}.parquet", schema) for schema in SCHEMAS})
    parents = {"tables": tables.digest}
    page = Page(
        title=f"{bench.base.name} and {bench.pair.tuned.name}",
        task=f"held-out {bench.task.name}",
        base=bench.base.name,
        tuned=bench.pair.tuned.name,
        ledger=ledger,
        made_by=bench.made_by("study", bench.study, parents),
        command=command,
        files=tuple(table_files(bench.out)),
    )
    report = bench.out / "report.html"
    write_text(report, render(page))
    return Finished(report, ledger)


def table_files(out: Path) -> Iterator[TableFile]:
    """Every table of a study, with its schema."""
    tables: list[tuple[Path, Schema]] = [
        (out / "tables" / f"{schema.name}.parquet", schema) for schema in (*SCHEMAS, VERDICTS)
    ]
    tables += [(path, TRACES) for path in sorted(out.glob("traces-*/*.parquet"))]
    tables += [(path, PROBLEMS) for path in sorted(out.glob("problems/*.parquet"))]
    tables += [
        (out / "activations" / "index.parquet", ACTIVATIONS),
        (out / "decisions" / "decisions.parquet", DECISIONS),
    ]
    for path, schema in tables:
        yield TableFile(
            path=str(path.relative_to(out)),
            schema=schema,
            n_rows=read_table(path, schema).height,
            digest=file_digest(path),
        )
