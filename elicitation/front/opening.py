"""Opening: models and tasks by the names that a person types, and what else is typed, as the lab's own values."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import polars as pl

from elicitation.study.config import Study
from lab.models import load as loading
from lab.models.device import DtypeName, resolve_device, resolve_dtype
from lab.models.load import Model
from lab.models.pair import ModelPair, prompter
from lab.models.prompt_format import typed_format
from lab.models.source import model_source, shipped_names
from lab.organisms.card import read_card
from lab.records.errors import ModelError, TaskError, whole
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from lab.tasks.question_rows import BY_RULE, Reading
from lab.tasks.source import SOURCES, Task, open_task, task_source
from probes.capture.site import Site
from steering.edit import Add, Edit
from steering.vector import SteeringVector

Prompts: TypeAlias = str | Problem | Task | Sequence[str] | Sequence[Problem]
"""What models are asked: texts as a person types them, or problems."""
Models: TypeAlias = Model | ModelPair | Sequence[Model]
Edits: TypeAlias = SteeringVector | Edit | Sequence[SteeringVector | Edit]
"""What acts while a model runs; a vector alone is added at every token."""


def load(name: str, *, prompt: str = "auto", device: str = "auto", dtype: DtypeName = "auto") -> Model:
    """The model called `name`: one that comes with the lab (`el.models()`), a directory, an adapter, a GGUF file, or
    `org/name` on the hub.

    `prompt` says how it is asked: by its chat template where it was tuned on that and else raw ("auto"), "raw",
    "template", or a path to a .jinja file.
    `device` "auto" is the first there is of cuda, mps and cpu; `dtype` "auto" is bfloat16 on cuda, else float32.
    Raises ModelError, in one line, for what cannot be found or read.

    >>> el.load("zero-base")
    Model('zero-base', llama of 4 blocks, d_model 128, float32 on cpu)
    """
    place = resolve_device(device)
    model = loading.load(model_source(str(name)), device=place, dtype=resolve_dtype(dtype, place))
    chosen = typed_format(prompt, own=model.prompter.format)
    return replace(model, prompter=prompter(chosen, model, model))


def pair(
    base: Model | str, tuned: Model | str | None = None, *, device: str = "auto", dtype: DtypeName = "auto"
) -> ModelPair:
    """A base model and the model tuned from it, checked to have the same shape and to read the same tokens.

    A model that comes with the lab may stand alone: its parent is then the base.

    >>> el.pair("zero-base", "zero-rl").tuned.name
    'zero-rl'
    """
    ends = named_pair((base if isinstance(base, str) else base.name,)) if tuned is None else (base, tuned)
    one, other = (load(end, device=device, dtype=dtype) if isinstance(end, str) else end for end in ends)
    return ModelPair(base=one, tuned=other)


def check_pair(base: str, tuned: str, task: str | None = None, *, max_new_tokens: int = 96) -> pl.DataFrame:
    """What two models have in common and what not, before any weights are loaded: `PAIR` rows, also of what is refused.

    With a `task` its problems are asked instead of one example; nothing is said of memory and time, as
    `lab check-pair` says it.

    >>> el.check_pair("zero-base", "zero-rl", "chain").filter(fact="context")["advice"].item()
    'prompts leave 141 tokens for an answer'
    """
    from elicitation.study.pair_table import checked_pair

    study = Study(base=str(base), tuned=str(tuned), decoding=Decoding(max_new_tokens=max_new_tokens))
    return checked_pair(study, task, costs=False).table


def named_pair(names: tuple[str, ...]) -> tuple[str, str]:
    """(base, tuned) from two names, or from that of one built-in model, whose card names its parent."""
    if len(names) == 2:
        return names[0], names[1]
    if len(names) == 1 and names[0] in shipped_names() and (parent := read_card(names[0])["parent"]) is not None:
        return parent, names[0]
    raise ModelError(f"{' '.join(names)}: want BASE TUNED, or one shipped model that was tuned from another")


def models() -> pl.DataFrame:
    """The models that come with the lab: a row for each, or for each task on which the truth of its tuning is known.

    `share` is the part of the gain that was in the parent, by construction. Adapters of SmolLM2 are fetched by
    `lab models fetch smollm2`.

    >>> el.models().filter(name="locked").select("parent", "kind", "task", "share").row(0)
    ('world', 'LOCKED', 'chain:#:3-5', 1.0)
    """
    columns = dict.fromkeys(("name", "parent", "kind", "task"), pl.String) | {"share": pl.Float64, "story": pl.String}
    told: list[dict[str, object]] = []
    for name in shipped_names():
        card = read_card(name)
        told += [{**card, **truth, "name": name} for truth in card["truth"] or [{}]]
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in told], schema=columns)


def task(name: str, n: int = 100, *, seed: int = 0, held_out: bool = True, reading: Reading = BY_RULE) -> Task:
    """`n` problems with their verifier: `chain`, `chain:#`, `gym:chain_sum`, `hub:openai/gsm8k:main`, `mine.jsonl`.

    With `held_out=False` they are those that vectors are fitted on, which share no question with the held-out ones.
    `reading` says how rows are read: `el.Reading(question_column=("riddle",))`.

    >>> el.task("chain", n=20).problems[0].prompt
    '<2+4-2-9-7?'
    """
    return open_task(task_source(str(name), reading), n_problems=n, seed=seed, held_out=held_out)


def quiet() -> None:
    """For the first cell of a notebook: no bars and no warnings of libraries, tables without their types, plain plots.

    >>> el.quiet()
    """
    import plotly.io
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # Read when datasets is imported; where it is there already, it has to be told.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.disable_progress_bars()
    # peft 0.21 reads a property that transformers 5.23 deprecates.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(80)
    pl.Config.set_float_precision(3)
    plotly.io.templates.default = "plotly_white"
    plotly.io.renderers["plotly_mimetype"].config = {"displayModeBar": False}


def problems_of(prompts: Prompts) -> tuple[Problem, ...]:
    """What is asked, as problems; a text is its own id, so that it draws the same numbers in any company."""
    if isinstance(prompts, Task):
        return prompts.problems
    several = [prompts] if isinstance(prompts, str | Problem) else prompts
    asked = tuple(typed(one, one) if isinstance(one, str) else one for one in several)
    n_different = len({problem.id for problem in asked})
    if not asked or n_different < len(asked):
        raise TaskError(f"{len(asked)} prompts, {n_different} of them different: want at least one, and none twice")
    return asked


def typed(name: str, prompt: str) -> Problem:
    """A problem of which no answer is known; TaskError for a prompt that is what a task is called."""
    if re.fullmatch(r"[^\s%]+|[\d.]+%chain\S*", prompt) and any(read(prompt) for read in SOURCES.values()):
        raise TaskError(f"the prompt {prompt!r} is the name of a task: did you mean el.task({prompt!r})?")
    if whole(name + prompt) != name + prompt:
        raise TaskError(f"the prompt {prompt[:40]!r} holds half a character: want whole ones")
    return Problem(id=name, prompt=prompt, answer="", family="typed", source="typed")


def prompted(traces: pl.DataFrame) -> dict[str, Problem]:
    """The problems of a table of traces by their ids; TaskError for a table that `el.sample` did not make."""
    if "prompt" not in traces.columns:
        raise TaskError(
            f"traces with the columns {', '.join(traces.columns)}: want `prompt` too, as el.sample gives it"
        )
    asked = traces.select("problem_id", "prompt").unique(maintain_order=True)
    return {name: typed(name, prompt) for name, prompt in asked.iter_rows()}


def models_of(models: Models) -> tuple[Model, ...]:
    """One, two or several models; ModelError where two have one name, or there is none."""
    if isinstance(models, Model):
        return (models,)
    several = (models.base, models.tuned) if isinstance(models, ModelPair) else tuple(models)
    if not all(isinstance(one, Model) for one in several):
        raise ModelError(f"{models!r:.60} for models: want each loaded, as by el.load('zero-base')")
    names = [model.name for model in several]
    if not names or len({*names}) < len(names):
        raise ModelError(f"models {', '.join(names) or 'none'}: want at least one, and none twice")
    return several


def edits_of(edits: Edits) -> tuple[Edit, ...]:
    """One edit or several."""
    several = edits if isinstance(edits, Sequence) else [edits]
    return tuple(Add(one) if isinstance(one, SteeringVector) else one for one in several)


def site_of(site: Site | str) -> Site:
    """A site, or the one of this name, such as `blocks.2.hook_resid_post`."""
    return Site.parse(site) if isinstance(site, str) else site
