"""Ground: a comparison with its models, tasks and SAE in memory, checked before the first file is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elicitation.comparison.config import Comparison
from elicitation.study.context import StudyContext, Watch, prepare
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import VectorError
from lab.tasks.source import Task, open_task, task_source
from probes.capture.site import Site, check_site
from probes.sae.dictionary import Sae, require_fit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ground:
    """All that the stages of one comparison share."""

    comparison: Comparison
    context: StudyContext
    """What it shares with a study: the pair, its task, the output directory."""
    sites: tuple[Site, ...]
    """Of the fits with one site."""
    policy_sites: tuple[Site, ...]
    """Into the first block, and out of every block."""
    sae: Sae | None
    placebo: ModelPair | None
    """The base, and the model continued from it without tuning."""
    other_fit_task: Task | None
    """Training problems of the other task."""
    other_base: Model | None
    other_skill: tuple[Model, Task] | None

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that are asked for and possible: without an SAE there are no decoder rows."""
        return tuple(name for name in self.comparison.methods if name != "sae" or self.sae is not None)


def survey(comparison: Comparison, out: Path, watch: Watch) -> Ground:
    """Loads and checks everything; writes nothing."""
    if comparison.methods == ("sae",) and comparison.sae is None:
        raise VectorError("decoder rows are the only fit asked for, and there is no SAE: name its directory with --sae")
    study = comparison.study
    context = prepare(study, out, watch)
    sites = tuple(map(Site, comparison.layers)) or (context.site,)
    for site in sites:
        check_site(context.base, site)
    models = dict(zip(study.companions, context.companions, strict=True))

    def named(name: str | None) -> Model | None:
        return None if name is None else models[name]

    placebo, other_base, other_skill_base = map(
        named, (comparison.placebo, comparison.other_base, comparison.other_skill_base)
    )
    other_skill = None
    if other_skill_base is not None and comparison.other_skill_task is not None:
        other_skill = (other_skill_base, held_out(comparison.other_skill_task, comparison))
    for model in (other_base, other_skill_base):
        if model is not None:
            # A vector fits models of one shape that read the same tokens.
            ModelPair(base=context.base, tuned=model)
    other_fit_task = None
    if comparison.other_task is not None:
        source = task_source(comparison.other_task)
        other_fit_task = open_task(source, n_problems=comparison.n_fit_problems, seed=comparison.seed, held_out=False)
    return Ground(
        comparison=comparison,
        context=context,
        sites=sites,
        policy_sites=tuple(policy_sites(context.base)),
        sae=opened_sae(comparison, context.base),
        placebo=None if placebo is None else ModelPair(base=context.base, tuned=placebo),
        other_fit_task=other_fit_task,
        other_base=other_base,
        other_skill=other_skill,
    )


def held_out(task: str, comparison: Comparison) -> Task:
    """The held-out problems of a task that the user names."""
    return open_task(task_source(task), n_problems=comparison.n_problems, seed=comparison.seed)


def opened_sae(comparison: Comparison, base: Model) -> Sae | None:
    """The SAE, fit for the base model; None where none is asked for."""
    if comparison.sae is None or "sae" not in comparison.methods:
        return None
    # It brings sae_lens, which is slow to import.
    from probes.sae.load import load_sae

    sae = load_sae(Path(comparison.sae), device=base.device)
    require_fit(sae, base)
    return sae


def policy_sites(model: Model) -> Iterator[Site]:
    """Behind attention and behind the MLP of every block, or behind the block alone where a family has no middle.

    Constants at block outputs alone can open a chain and hardly sharpen its steps; those between can.
    """
    for layer in range(model.anatomy.n_layers):
        if model.anatomy.has_resid_mid:
            yield Site(layer, "resid_mid")
        yield Site(layer)
