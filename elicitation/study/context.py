"""StudyContext: a study with its models and problems in memory, all that its stages share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elicitation.study.config import Study, require_room
from lab.models.device import resolve_device, resolve_dtype
from lab.models.load import Model, load
from lab.models.pair import ModelPair
from lab.models.source import model_source
from lab.records.provenance import Provenance, provenance
from lab.sampling.sample import encode_prompt
from lab.tasks.problem import Problem
from lab.tasks.source import Task, open_task, task_source
from probes.capture.capture import require_no_sink
from probes.capture.site import Site, check_site

Watch = Callable[[str, int, int], None]
"""Told (stage, items just done, items in all) while a study runs."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyContext:
    """All that the stages of one study share."""

    study: Study
    out: Path
    pair: ModelPair
    companions: tuple[Model, ...]
    task: Task
    fit_task: Task
    old_task: Task | None
    site: Site
    watch: Watch

    @property
    def base(self) -> Model:
        """The pair's base model."""
        return self.pair.base

    @property
    def fit_problems(self) -> dict[str, Problem]:
        """The training problems by their ids."""
        return {problem.id: problem for problem in self.fit_task.problems}

    @property
    def device(self) -> str:
        """Where the models lie, as provenance names it."""
        return self.base.device.type

    @property
    def dtype(self) -> str:
        """Their precision, as provenance names it."""
        return str(self.base.dtype).removeprefix("torch.")

    def made_by(self, stage: str, config: object, parents: dict[str, str]) -> Provenance:
        """Provenance of a file of this study."""
        return provenance(stage, config, parents, device=self.device, dtype=self.dtype, seed=self.study.seed)


def prepare(study: Study, out: Path, watch: Watch) -> StudyContext:
    """Loads and checks everything; writes nothing."""
    device = resolve_device(study.device)
    dtype = resolve_dtype(study.dtype, device)

    def opened(text: str) -> Model:
        return load(model_source(text), device=device, dtype=dtype)

    pair = ModelPair(base=opened(study.base), tuned=opened(study.tuned))
    site = Site(study.layer if study.layer is not None else pair.base.anatomy.n_layers // 2)
    check_site(pair.base, site)
    require_room(study.features, pair.base)
    companions = tuple(opened(text) for text in study.companions)
    source = task_source(study.task)
    task = open_task(source, n_problems=study.n_problems, seed=study.seed)
    fit_task = open_task(source, n_problems=study.n_fit_problems, seed=study.seed, held_out=False)
    old_task = None
    if study.old_task is not None:
        old_task = open_task(task_source(study.old_task), n_problems=study.n_problems, seed=study.seed)
    for model in (pair.base, pair.tuned, *companions):
        for problem in (*task.problems, *fit_task.problems, *(old_task.problems if old_task else ())):
            # Raises where a prompt and its completion do not fit the model's context.
            encode_prompt(model, problem.prompt, study.decoding)
    if study.features.layers:
        prompts = [encode_prompt(pair.base, problem.prompt, study.decoding) for problem in fit_task.problems[:16]]
        require_no_sink(pair.base, study.features.layers, prompts)
    return StudyContext(
        study=study,
        out=out,
        pair=pair,
        companions=companions,
        task=task,
        fit_task=fit_task,
        old_task=old_task,
        site=site,
        watch=watch,
    )
