"""Vectors: where two models disagree, vectors found there, what they do at each dose, hybrids, files, and tuning."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch

from elicitation.comparison import evaluate
from elicitation.front.answers import N_BOOT, accuracy, judge, sample
from elicitation.front.features import capture, directory, words
from elicitation.front.opening import Prompts, problems_of, prompted, site_of
from elicitation.pages.study.traces import TokenStrip
from elicitation.study import fits as where_they_differ
from elicitation.study.arms import Arm, arm_family
from elicitation.study.tables import Answered, ladder_table, problem_bits
from elicitation.widgets.live import Dosed, DoseSlider
from lab.metrics.bootstrap import Interval, mean_interval, resamples
from lab.models.load import Model, of_network
from lab.models.pair import ModelPair
from lab.post_training import trainers
from lab.post_training.trainers import Document, GrpoRun, Reward, SupervisedRun, train_on_documents
from lab.records.errors import VectorError, meant
from lab.records.provenance import provenance
from lab.records.seeds import numpy_generator, torch_generator
from lab.sampling.decoder import left_padded
from lab.scoring.evidence import Control, Role
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from probes.capture.site import Site, single_token
from steering import vector as vectors
from steering.edit import Add, Edit
from steering.export import export as exporting
from steering.export.vector_file import Origin, facts_of
from steering.fits import fits, gradient
from steering.fits.fit import Disagreements
from steering.gate import EVERYWHERE, Gate
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Drawn, Steer
from steering.vector import SteeringVector

SUFFIXES = {".safetensors": "safetensors", ".gguf": "gguf", ".json": "vllm-lens", "": "baked"}
"""End of a file's name -> the format that it is of."""


def disagreements(pair: ModelPair, traces: pl.DataFrame) -> pl.DataFrame:
    """Every token of traces at which base and tuned model would greedily write different ones.

    A row has both tokens, as ids and as text, the `position` in the completion, and the `context` before it, so that
    `el.fit_vector` can learn from the rows that you keep.

    >>> pair = el.pair("zero-base", "zero-rl")
    >>> found = el.disagreements(pair, el.sample(pair.tuned, el.task("chain", n=8)))
    >>> found.filter(position=0).select("base_text", "tuned_text").unique().row(0)
    ('A', 'T')
    """
    problems = prompted(traces)
    found = where_they_differ.disagreements(pair, traces, problems)
    keys = ["problem_id", "sample_index"]
    asked = {name: pair.base.prompt_ids(problem.prompt) for name, problem in problems.items()}
    rows = found.join(traces.select(*keys, "tokens"), on=keys, how="left", maintain_order="left")
    contexts = [
        asked[name] + tokens[:position]
        for name, position, tokens in rows.select("problem_id", "position", "tokens").iter_rows()
    ]
    texts = {side: words(pair.base, found[f"{side}_token"].to_list()) for side in ("base", "tuned")}
    return found.with_columns(
        pl.Series("base_text", texts["base"], dtype=pl.String),
        pl.Series("tuned_text", texts["tuned"], dtype=pl.String),
        pl.Series("context", contexts, dtype=pl.List(pl.Int32)),
    )


def fit_vector(
    model: Model,
    site: Site | str,
    where: Prompts | pl.DataFrame,
    toward: str | None = None,
    *,
    n_steps: int = 100,
    max_dose: float = 1.0,
    seed: int = 0,
) -> SteeringVector:
    """The vector under which the model writes the wanted next token, by gradient descent; the model stays frozen.

    `where` is prompts, behind which the token `toward` is wanted, or rows of `el.disagreements`, where the tuned
    model's is. The vector acts at the last token of a context alone; its norm is at most `max_dose` times the stream's.

    >>> base = el.load("zero-base")
    >>> vector = el.fit_vector(base, "blocks.2.hook_resid_post", el.task("chain", n=20), toward="T", n_steps=20)
    >>> first = el.Add(vector, where=el.gates.WhileWriting((0,)))
    >>> el.generate(base, "<8-1+9?"), el.generate(base, "<8-1+9?", edits=first)
    ('A0', 'T8-1=7;7+9=6;V6;A6')
    """
    if isinstance(where, pl.DataFrame):
        contexts, wanted, told = where["context"].to_list(), where["tuned_token"].to_list(), "the tuned model's tokens"
    elif toward is None:
        raise VectorError("prompts came without `toward`, the token that is wanted behind them: want toward='T', say")
    else:
        contexts = [model.prompt_ids(problem.prompt) for problem in problems_of(where)]
        wanted, told = [single_token(toward, model.tokenizer)] * len(contexts), repr(toward)
    read = left_padded(model, contexts)
    examples = Disagreements(read.tokens, read.mask, torch.tensor(wanted, dtype=torch.long, device=model.device))
    fit = gradient.GradientFit(n_steps=n_steps, max_dose=max_dose)
    description = f"gradient towards {told} on {model.name}"
    return gradient.fit_gradient(
        model, site_of(site), examples, fit, torch_generator(seed, "fit"), description=description
    )


def mean_difference(
    model: Model, site: Site | str, positive: Prompts | pl.DataFrame, negative: Prompts | pl.DataFrame
) -> SteeringVector:
    """Mean activation of one set minus that of another, the classic vector (CAA, Panickssery et al. 2023).

    Of prompts at the last token; of traces at the first token that was written.

    >>> base = el.load("zero-base")
    >>> el.mean_difference(base, el.Site(1), ["<1+2?T", "<3-4?T"], ["<1+2?A", "<3-4?A"]).sites
    (Site(layer=1, stream='resid_post'),)
    """
    place = site_of(site)
    sides = (
        texts.with_columns(pl.col("tokens").list.head(1)) if isinstance(texts, pl.DataFrame) else texts
        for texts in (positive, negative)
    )
    one, other = (capture(model, texts, place)[place][:, -1] for texts in sides)
    return fits.mean_difference(place, one, other, description=f"difference of means on {model.name}")


def random_like(vector: SteeringVector, *, seed: int = 0) -> SteeringVector:
    """A random direction of the same norm at the same sites: the control of any vector.

    >>> vector = el.SteeringVector({el.Site(1): torch.tensor([3.0, 4.0])}, {el.Site(1): 9.0}, "mine")
    >>> round(el.random_like(vector).norms[el.Site(1)], 4)
    5.0
    """
    return vectors.random_like(vector, torch_generator(seed, "random"))


def steer(*edits: SteeringVector | Edit, memory: Literal["forgotten", "kept"] = "forgotten") -> Steer:
    """What a hybrid does at a routed token: the base writes it under the edit.

    Of several edits each completion has one, so that a control by many random vectors holds the spread between them.

    >>> vector = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")
    >>> el.Hybrid(el.routers.AtSteps((0,)), el.steer(vector)).needs_tuned
    False
    """
    return Steer(Drawn(tuple(Add(one) if isinstance(one, SteeringVector) else one for one in edits)), memory)


def ladder(
    pair: ModelPair,
    task: Task,
    traces: pl.DataFrame,
    hybrids: Mapping[str, Hybrid],
    controls: Mapping[str, str] = MappingProxyType({}),
    *,
    seed: int = 0,
) -> pl.DataFrame:
    """Every arm of `el.sample(pair, task, hybrids=hybrids)` between base and tuned model, as a study's ladder has it.

    Of each: accuracy, the share of the gain that it recovers or why none is given, what it has beyond its control
    (`controls` names the arm that a control is one of), and the bits that crossed from the tuned model.

    >>> pair, task = el.pair("zero-base", "zero-rl"), el.task("chain", n=20)
    >>> half = {"half": el.Hybrid(el.routers.AtRandom(0.5), el.interventions.Takeover())}
    >>> table = el.ladder(pair, task, el.sample(pair, task, n=4, hybrids=half), half)
    >>> table.filter(arm="half", measure="strict")["share"].round(2).to_list()
    [0.4]
    """
    verdicts, n_problems = judge(traces, task), len(task.problems)
    arms: dict[str, Answered] = {}
    for name in (pair.base.name, *hybrids, pair.tuned.name):
        mine = traces.filter(arm=name)
        arm = Arm(role=Role.TUNED if arms else Role.BASE, name=name, label=name)
        bits = np.full(n_problems, inf if arms else 0.0)
        if hybrid := hybrids.get(name):
            place = hybrids[controls.get(name, name)].router
            left_out = Control.RANDOM_VECTORS if place == hybrid.router else Control.RANDOM_TOKENS
            role = Role.VECTOR if isinstance(hybrid.intervention, Steer) else Role.TAKEOVER
            control = left_out if name in controls else None
            arm = replace(arm, role=role, method=hybrid, control=control, control_of=controls.get(name))
            bits = problem_bits(mine, hybrid)["bits"].to_numpy().reshape(n_problems, -1).mean(axis=1)
        arms[name] = Answered(
            arm=arm, family=arm_family(arm), traces=mine, verdicts=verdicts.filter(arm=name), bits=bits, cost=1.0
        )
    return ladder_table([*arms.values()], resamples(n_problems, N_BOOT, numpy_generator(seed, "bootstrap")))


def route_strip(model: Model, traces: pl.DataFrame) -> TokenStrip:
    """The first of some traces, token by token, coloured by who wrote it; each token's probability is in its title.

    >>> el.route_strip(base, el.sample(base, "<8-1+9?")).counted()
    '25 tokens'
    """
    row = traces.row(0, named=True)
    routes, logprobs = tuple(row["routes"]), tuple(row["logprobs"])
    return TokenStrip(tokens=words(model, row["tokens"]), routes=routes, logprobs=logprobs)


def dose_sweep(
    model: Model,
    vectors: Mapping[str, SteeringVector],
    task: Task,
    doses: Sequence[float],
    *,
    unrelated: Task | None = None,
    where: Gate = EVERYWHERE,
    n: int = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """What each vector does at each dose, with intervals: `strict`, `answer` and `incoherent` shares, and `kl`.

    `kl` is how far it moves the next-token distribution on `unrelated` problems (on the task's own where none came).

    >>> vector = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")
    >>> table = el.dose_sweep(el.load("zero-base"), {"ones": vector}, el.task("chain", n=4), [0.0, 1.0])
    >>> table.filter(quantity="kl")["value"].round(2).to_list()
    [0.0, 0.59]
    """
    asked, elsewhere = (
        evaluate.EvalSpec(task=one, n_samples=n, seed=seed, batch_size=1024) for one in (task, unrelated or task)
    )
    sweeps = [
        evaluate.dose_sweep(model, vector, doses, asked, elsewhere, where=where, n_boot=N_BOOT).select(
            pl.lit(name).alias("vector"), pl.all()
        )
        for name, vector in vectors.items()
    ]
    return pl.concat(sweeps)


def dose_slider(
    model: Model,
    vector: SteeringVector,
    task: Task,
    doses: Sequence[float],
    *,
    where: Gate = EVERYWHERE,
    n_shown: int = 4,
    seed: int = 0,
) -> DoseSlider:
    """A slider through the doses of a vector: strict accuracy on the task, and the answers to its first problems.

    >>> vector = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")
    >>> el.dose_slider(el.load("zero-base"), vector, el.task("chain", n=4), [0.0, 1.0]).doses[0].accuracy.value
    0.5
    """
    rows: list[Dosed] = []
    for dosed in doses:
        traces = sample(model, task, edits=Add(vector, dosed, where), seed=seed)
        strict = accuracy(judge(traces, task), seed=seed).filter(measure="strict").select("value", "low", "high")
        level = Interval(**strict.row(0, named=True), stderr=float("nan"))
        rows.append(Dosed(dose=dosed, accuracy=level, texts=tuple(traces["text"][:n_shown])))
    return DoseSlider(prompts=tuple(problem.prompt for problem in task.problems[:n_shown]), doses=tuple(rows))


def export(
    vector: SteeringVector, path: Path | str, model: Model, *, form: str | None = None, dose: float = 1.0
) -> Path:
    """Writes a vector of `model` for another program; `form` is told by the end of the name where it is not given.

    `.safetensors` is this lab's file, `.gguf` llama.cpp's, `.json` vLLM's with vllm-lens; a name without an end is a
    directory, a checkpoint with the vector in its biases. Further: `layer-table` and, for PEFT, `adapter`.

    >>> vector = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "mine")
    >>> el.load_vector(el.export(vector, "mine.gguf", el.load("zero-base"))) == vector
    True
    """
    file = Path(path)
    chosen = form or SUFFIXES.get(file.suffix, file.suffix)
    if chosen not in exporting.FORMATS:
        near = meant(chosen, (*SUFFIXES, *exporting.FORMATS))
        raise VectorError(f"{file} as {chosen!r}{near}: want {', '.join(SUFFIXES)}, or as form {[*exporting.FORMATS]}")
    made_by = provenance(
        "export", {"form": chosen, "dose": dose}, {"model": model.digest}, device="cpu", dtype="float32", seed=0
    )
    written = exporting.FORMATS[chosen].for_model(model)
    exporting.export(vector, written, file, Origin(made_by=made_by, fitted_on=facts_of(model)), dose=dose)
    return file


def load_vector(path: Path | str, model: Model | None = None) -> SteeringVector:
    """The vector in a file of any format that holds one, known by its content; with `model`, checked to fit it.

    >>> el.load_vector("none.safetensors")
    Traceback (most recent call last):
    lab.records.errors.VectorError: cannot read none.safetensors: No such file or directory; check the path
    """
    return exporting.import_vector(Path(path), None if model is None else facts_of(model)).vector


class Reinforced(NamedTuple):
    """What came of `reinforce`."""

    model: Model
    rewards: pl.DataFrame
    """Mean reward of each step's rollouts, with its interval over the step's problems."""


def reinforce(
    model: Model,
    task: Task,
    run: GrpoRun,
    *,
    reward: Reward | None = None,
    seed: int = 0,
    out: Path | str | None = None,
) -> Reinforced:
    """A model tuned from `model` by GRPO on the task's problems; the model itself stays as it is.

    Without `reward`, a function of problem and completion, a right final answer counts 1 and all else 0. Checkpoints
    go to `out`, from which a run that was cut off goes on.

    >>> from lab.post_training.trainers import GrpoRun
    >>> run = GrpoRun(n_steps=1, n_prompts=2, n_rollouts=2, max_new_tokens=8)
    >>> el.reinforce(el.load("zero-base"), el.task("chain", held_out=False), run).model.name
    'zero-base, reinforced'
    """
    given: list[float] = []

    def rewarded(problem: Problem, completion: str) -> float:
        given.append((reward or fits.answer_reward(task.verify))(problem, completion))
        return given[-1]

    network = copy.deepcopy(model.network).requires_grad_(True).train()
    work = directory(out)
    trainers.reinforce(
        network, model.tokenizer, task.problems, rewarded, run, seed=seed, device=model.device, work=work
    )
    weights = resamples(run.n_prompts, N_BOOT, numpy_generator(seed, "steps"))
    steps = np.array(given).reshape(-1, run.n_prompts, run.n_rollouts).mean(axis=2)
    found = [mean_interval(step, weights, bounds=(-np.inf, np.inf)) for step in steps]
    rows = [(number, one.value, one.low, one.high) for number, one in enumerate(found, 1)]
    tuned = of_network(model, network, name=f"{model.name}, reinforced")
    return Reinforced(tuned, pl.DataFrame(rows, schema=["step", "value", "low", "high"], orient="row"))


def finetune(
    model: Model,
    documents: pl.DataFrame | Sequence[tuple[str, str]],
    run: SupervisedRun,
    *,
    seed: int = 0,
    out: Path | str | None = None,
) -> Model:
    """A model tuned from `model` on traces, such as those that were right, or on pairs of prompt and completion.

    They are drawn as often as the run needs. Behind the completion of a pair comes the tokenizer's own end token.

    >>> from lab.post_training.trainers import SupervisedRun
    >>> run = SupervisedRun(n_steps=1, batch_size=4, warmup_steps=0, n_parts=1)
    >>> el.finetune(el.load("zero-base"), [("<1+2?", "A3."), ("<1+3?", "A4.")], run).name
    'zero-base, fine-tuned'
    """
    end = str(model.tokenizer.eos_token or "")
    texts = (
        list(documents.select("prompt", "text").iter_rows())
        if isinstance(documents, pl.DataFrame)
        else [(prompt, completion + end) for prompt, completion in documents]
    )
    drawn = numpy_generator(seed, "documents").permutation(run.n_steps * run.batch_size) % max(1, len(texts))
    chosen = [Document(prompt=texts[index][0], completion=texts[index][1]) for index in drawn] if texts else []
    network = copy.deepcopy(model.network).requires_grad_(True).train()
    train_on_documents(network, model.tokenizer, chosen, run, seed=seed, device=model.device, work=directory(out))
    return of_network(model, network, name=f"{model.name}, fine-tuned")
