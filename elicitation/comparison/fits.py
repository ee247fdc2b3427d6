"""Fits: those that a comparison makes, each at a place and for a use: training pairs -> a vector and its controls.

`TrainingPairs` are what a fit learns from: traces of two models, and the disagreements in which they differ.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypeAlias

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from elicitation.comparison.config import ComparisonContext
from elicitation.study.config import StudyContext
from elicitation.study.fits import (
    DISAGREEMENTS,
    MAX_DISAGREEMENTS,
    contexts,
    decision_stage,
    first_token_activations,
    fitting_stage,
    solved,
)
from elicitation.study.sampled import own_traces, read_traces
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.post_training.trainers import Reward
from lab.records.errors import VectorError
from lab.records.provenance import Provenance, digest
from lab.records.seeds import child_seed, numpy_generator, torch_generator
from lab.records.stage import Artefact
from lab.records.tables import read_table, write_text
from lab.sampling.decoder import left_padded
from lab.scoring.evidence import Control
from lab.scoring.scores import trace_rows
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from probes.capture.site import Site
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import facts_of
from steering.fits.fit import Completions, Disagreements, Fit, Rewarded, Taught
from steering.fits.fits import DecoderRows, MeanDifference, PolicyGradient, answer_reward
from steering.fits.gradient import FirstTokenGradient, TextGradient
from steering.gate import EVERYWHERE, Gate, WhileWriting
from steering.hybrid.hybrid import identity
from steering.vector import SteeringVector, norm_matched, random_like

ITSELF = "itself"
"""Name of what is no control."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPairs:
    """Texts on two sides, and moments at which one model should write as the other does."""

    positive: pl.DataFrame
    """`TRACES` to move towards."""
    negative: pl.DataFrame
    """`TRACES` to move away from."""
    decided: pl.DataFrame
    """`DISAGREEMENTS` in some traces."""
    decided_in: pl.DataFrame
    """These."""
    problems: Mapping[str, Problem]
    description: str
    """What the sides are, in a few words."""
    digest: str
    """Of what determines them."""

    def sides(self, model: Model, site: Site) -> tuple[Float[Tensor, "_ d_model"], Float[Tensor, "_ d_model"]]:
        """Streams just after the first token of the positive and of the negative traces."""
        positive, negative = (
            first_token_activations(model, site, {"side": side}, self.problems)[0]
            for side in (self.positive, self.negative)
        )
        if not (len(positive) and len(negative)):
            raise VectorError(
                f"{len(positive)} and {len(negative)} traces {self.description}: want one at least on either side; "
                "draw more training traces"
            )
        return positive, negative

    def texts(self, model: Model, most: int, generator: torch.Generator) -> Completions:
        """The positive traces; of more than `most`, some."""
        rows = trace_rows(model, self._some(self.positive, most, generator), self.problems)
        padded = left_padded(model, [row.context + row.completion for row in rows])
        lengths = torch.tensor([len(row.completion) for row in rows], device=model.device)
        return Completions(padded.tokens, padded.mask, lengths)

    def first_tokens(self, model: Model, generator: torch.Generator) -> Disagreements:
        """Disagreements at the first token of a completion."""
        chosen = self._some(self.decided.filter(pl.col("position") == 0), MAX_DISAGREEMENTS, generator)
        return contexts(model, chosen, self.decided_in, self.problems)

    def _some(self, frame: pl.DataFrame, most: int, generator: torch.Generator) -> pl.DataFrame:
        if frame.is_empty():
            raise VectorError(f"nothing to learn from: no such text or decision among those {self.description}")
        return some_rows(frame, most, generator)


def training_pairs(comparing: ComparisonContext, problems: Artefact) -> dict[str, TrainingPairs]:
    """What the fits learn from as `itself`, and by name the controls that other texts give; rewards need none of it.

    The pair's own are what the tuned model solved and the base failed, on training problems. Those of the other task
    are all traces there, solved or not: what the models differ in, in another domain. Those of the placebo are all
    traces of the base and of a model that was continued and not tuned: the scatter between two models.
    """
    context, parents = comparing.context, {"problems": problems.digest}
    if set(comparing.methods) == {"policy"}:
        return {}
    base, tuned = context.base, context.pair.tuned
    fitting = fitting_stage(context, problems)
    right = solved(context, read_traces(fitting.tuned))
    failed = solved(context, read_traces(fitting.base), wanted=False)
    description = f"solved by {tuned.name}, failed by {base.name}"
    found = {ITSELF: decided_pairs(context, fitting.decided, right, failed, description)}
    if comparing.other_fit_task is not None:
        other = replace(context, fit_task=comparing.other_fit_task)
        task = {"problems": digest(other.fit_task.problems)}
        description = f"all of {other.fit_task.name}, by {tuned.name} and by {base.name}"
        names = ("fit-other-base", "fit-other-tuned")
        found[Control.OTHER_TASK] = all_pairs(other, context.pair, names, "other-task", task, description)
    if comparing.placebo is not None:
        description, names = f"all by {comparing.placebo.tuned.name} and by {base.name}", ("fit-base", "fit-placebo")
        found[Control.PLACEBO_PAIR] = all_pairs(context, comparing.placebo, names, "placebo", parents, description)
    return found


def all_pairs(
    context: StudyContext,
    pair: ModelPair,
    names: tuple[str, str],
    kind: str,
    parents: dict[str, str],
    description: str,
) -> TrainingPairs:
    """All traces of two models, sampled in the stages `names`, and their disagreements."""
    base, tuned = (
        own_traces(context, model, name, parents, fitting=True)
        for model, name in zip((pair.base, pair.tuned), names, strict=True)
    )
    by_base, by_tuned = read_traces(base), read_traces(tuned)
    decided = decision_stage(context, pair, f"disagreements-{kind}", by_tuned, {"base": base, "tuned": tuned})
    return decided_pairs(context, decided, by_tuned, by_base, description)


def decided_pairs(
    context: StudyContext, decided: Artefact, positive: pl.DataFrame, negative: pl.DataFrame, description: str
) -> TrainingPairs:
    """Traces of two sides, and the disagreements in the positive ones."""
    frames = {"positive": positive, "negative": negative, "decided_in": positive}
    frames["decided"] = read_table(decided.path / "disagreements.parquet", DISAGREEMENTS)
    return TrainingPairs(**frames, problems=context.fit_problems, description=description, digest=decided.digest)


def sides_forgotten(taught: TrainingPairs, seed: int, draw: int) -> TrainingPairs:
    """The same texts in two heaps of the old sizes, drawn from both sides: shuffled labels of a difference of means."""
    both = pl.concat([taught.positive, taught.negative])
    order = torch.randperm(both.height, generator=torch_generator(seed, "forgotten sides", draw)).tolist()
    n = taught.positive.height
    return replace(
        taught,
        positive=both[order[:n]],
        negative=both[order[n:]],
        description=f"sides forgotten ({taught.description})",
        digest=digest({"of": taught.digest, "seed": seed, "draw": draw}),
    )


def tokens_misplaced(taught: TrainingPairs, seed: int) -> TrainingPairs:
    """The same contexts, and as what comes next tokens from other places of the texts: shuffled labels of a likelihood.

    Permuting the targets of disagreements among themselves would be no control: where answers open they are all alike.
    """
    generator = torch_generator(seed, "misplaced tokens")
    lengths = taught.positive["tokens"].list.len().to_list()
    tokens = taught.positive["tokens"].explode()
    mixed = tokens[torch.randperm(len(tokens), generator=generator).tolist()].to_list() if lengths else []
    ends = list(accumulate(lengths, initial=0))
    misplaced = [mixed[start:end] for start, end in pairwise(ends)]
    written = taught.decided_in["tokens"].explode()
    drawn = torch.randint(max(1, len(written)), (taught.decided.height,), generator=generator).tolist()
    return replace(
        taught,
        positive=taught.positive.with_columns(pl.Series("tokens", misplaced, dtype=pl.List(pl.Int32))),
        decided=taught.decided.with_columns(written[drawn].alias("tuned_token") if drawn else pl.col("tuned_token")),
        description=f"tokens misplaced ({taught.description})",
        digest=digest({"of": taught.digest, "seed": seed}),
    )


def some_rows(frame: pl.DataFrame, most: int, generator: torch.Generator) -> pl.DataFrame:
    """At most so many rows, drawn at random, in their old order."""
    if frame.height <= most:
        return frame
    return frame[sorted(torch.randperm(frame.height, generator=generator)[:most].tolist())]


AnyFit: TypeAlias = Fit[Taught] | PolicyGradient
FIRST = WhileWriting((0,))
"""At the prompt's last token, from which the first token of the answer is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A way to find a vector, at a place, for a use."""

    name: str
    """Unique, and the name of its files."""
    label: str
    fit: AnyFit
    sites: tuple[Site, ...]
    where: Gate

    @property
    def tokens(self) -> str:
        """The tokens at which it acts, in words."""
        return "every token" if self.where == EVERYWHERE else "first token"


def entries(comparing: ComparisonContext) -> tuple[Entry, ...]:
    """All fits that are asked for, in the order of the methods; one a layer where its vectors have one site."""
    comparison, study = comparing.comparison, comparing.context.study
    policy = PolicyGradient(replace(comparison.policy, max_new_tokens=study.decoding.max_new_tokens))
    each, several = [(site,) for site in comparing.sites], [comparing.policy_sites]
    listed: dict[str, tuple[str, AnyFit, list[tuple[Site, ...]], Gate]] = {
        "mean": ("difference of means", MeanDifference(), each, EVERYWHERE),
        "mean-first": ("difference of means", MeanDifference(), each, FIRST),
        "gradient": ("gradient on texts", TextGradient(study.fit, comparison.n_texts), each, EVERYWHERE),
        "gradient-first": ("gradient on disagreements", FirstTokenGradient(study.fit), each, FIRST),
        "policy": (f"policy gradient at {len(comparing.policy_sites)} sites", policy, several, EVERYWHERE),
    }
    if comparing.sae is not None:
        features = DecoderRows(comparing.sae, comparison.n_features)
        listed["sae"] = (f"{comparison.n_features} SAE features", features, [(comparing.sae.site,)], FIRST)
    found: list[Entry] = []
    for method in comparing.methods:
        words, fit, places, where = listed[method]
        for sites in places:
            place = f", block {sites[0].layer}" if len(sites) == 1 else ""
            use = "every token" if where == EVERYWHERE else "first token"
            name = f"{method}-{sites[0].layer}" if places is each else method
            label = f"{words}{place}, {use}"
            found.append(Entry(name=name, label=label, fit=fit, sites=sites, where=where))
    return tuple(found)


REASONS = "reasons.json"


def rewarded(comparing: ComparisonContext, work: Path) -> Iterator[tuple[str, Rewarded]]:
    """What the fit is rewarded for, and what those controls are that were asked for; checkpoints lie below `work`."""
    task, wanted = comparing.context.fit_task, comparing.comparison.policy_controls

    def under(reward: Reward, task: Task, steps: str) -> Rewarded:
        watch = partial(comparing.context.watch, f"policy gradient: {steps}")
        return Rewarded(task.problems, reward, work / f"steps-{steps}", watch)

    yield ITSELF, under(answer_reward(task.verify), task, "itself")
    if "shuffled" in wanted:
        yield Control.SHUFFLED_LABELS, under(misplaced_reward(task, comparing.context.study.seed), task, "shuffled")
    if "other-task" in wanted and (other := comparing.other_fit_task) is not None:
        yield Control.OTHER_TASK, under(answer_reward(other.verify), other, "other-task")


def misplaced_reward(task: Task, seed: int) -> Reward:
    """1 where a completion states the answer of another problem, each problem having one of the others' for good."""
    order = numpy_generator(seed, "misplaced answers").permutation(len(task.problems))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    answers = {problem.id: task.problems[following[index]].answer for index, problem in enumerate(task.problems)}

    def reward(problem: Problem, completion: str) -> float:
        return float(task.verify(replace(problem, answer=answers[problem.id]), completion).answer_correct)

    return reward


N_RANDOM = 256
"""Random directions that the problems are spread over: so many that which were drawn hardly matters."""
N_SHUFFLES = 8
"""Shuffles of the sides of a difference, which the problems are spread over: of one, chance decides the sign."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fitted:
    """An entry with its vector and its controls, each of the vector's norms, or with why there is none."""

    entry: Entry
    vector: SteeringVector | None
    controls: Mapping[Control, tuple[SteeringVector, ...]]
    """Those with vectors of their own, several where chance decides the sign of one."""
    reasons: Mapping[str, str]
    """What could not be fitted (`itself`, or a control) -> why."""
    digest: str

    def random(self, seed: int, n: int = N_RANDOM) -> tuple[SteeringVector, ...]:
        """`n` random directions of the vector's norms at its sites; there has to be a vector."""
        assert self.vector is not None, "nothing can be as long as a vector that is not there"
        return tuple(
            random_like(self.vector, torch_generator(seed, "random vector", self.entry.name, draw)) for draw in range(n)
        )


def fit_stage(comparing: ComparisonContext, entry: Entry, training_pairs: dict[str, TrainingPairs]) -> Fitted:
    """`fits/<entry>/`: a file for the vector and for each control. What is there after a kill is not fitted again.

    `training_pairs` has those of the pair as `itself`, and those that other texts give by the name of the control.
    """
    context = comparing.context
    config = {"fit": identity(entry.fit), "sites": [str(site) for site in entry.sites], "seed": context.study.seed}
    parents = {"base": context.base.digest} | {name: taught.digest for name, taught in training_pairs.items()}
    if isinstance(entry.fit, PolicyGradient):
        config["controls"] = list(comparing.comparison.policy_controls)
        parents = {"base": context.base.digest, "problems": digest(context.fit_task.problems)}
        if comparing.other_fit_task is not None:
            parents["other task"] = digest(comparing.other_fit_task.problems)

    def compute(work: Path, made_by: Provenance) -> None:
        reasons: dict[str, str] = {}
        vector: SteeringVector | None = None
        for name, make in makers(comparing, entry, training_pairs, work):
            path = work / f"{name}.safetensors"
            try:
                if not path.exists():
                    found = make() if vector is None else norm_matched(make(), vector)
                    save_vector(path, found, made_by, fitted_on=facts_of(context.base))
            except VectorError as error:
                reasons[name.partition(".")[0]] = str(error)
            if ITSELF in reasons:
                break
            vector = vector or load_vector(path)
        write_text(work / REASONS, json.dumps(reasons, sort_keys=True))
        for checkpoints in work.glob("steps-*"):
            shutil.rmtree(checkpoints)

    return read_fitted(entry, context.stage(f"fits/{entry.name}", config, parents, compute))


def makers(
    comparing: ComparisonContext, entry: Entry, training_pairs: dict[str, TrainingPairs], work: Path
) -> Iterator[tuple[str, Callable[[], SteeringVector]]]:
    """(name, how to find it) of the vector, which comes first, and of its controls."""
    base, seed = comparing.context.base, comparing.context.study.seed
    if isinstance(entry.fit, PolicyGradient):
        for name, lesson in rewarded(comparing, work):
            own = child_seed(seed, "policy", lesson.work.name)
            yield name, partial(entry.fit.fit, base, entry.sites, lesson, seed=own)
        return
    for name, taught in (training_pairs | shuffled(entry.fit, training_pairs[ITSELF], seed)).items():
        yield name, partial(entry.fit.fit, base, entry.sites, taught, seed=seed)


def shuffled(fit: Fit[Taught], taught: TrainingPairs, seed: int) -> dict[str, TrainingPairs]:
    """The same with the labels shuffled that the fit looks at."""
    if fit.learns_from == "tokens":
        return {Control.SHUFFLED_LABELS: tokens_misplaced(taught, seed)}
    return {f"{Control.SHUFFLED_LABELS}.{draw}": sides_forgotten(taught, seed, draw) for draw in range(N_SHUFFLES)}


def read_fitted(entry: Entry, stage: Artefact) -> Fitted:
    """The result of a finished stage."""
    found = {path.stem: load_vector(path) for path in sorted(stage.path.glob("*.safetensors"))}
    vector = found.pop(ITSELF, None)
    controls: dict[Control, tuple[SteeringVector, ...]] = {}
    for name, vector_of in found.items():
        # Of several, `shuffled-labels.3` is one.
        control = Control(name.partition(".")[0])
        controls[control] = (*controls.get(control, ()), vector_of)
    reasons = json.loads((stage.path / REASONS).read_text(encoding="utf-8"))
    return Fitted(entry=entry, vector=vector, controls=controls, reasons=reasons, digest=stage.digest)
