"""Comparison: a study whose arms are fits of steering vectors, and what it needs beyond a study."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from elicitation.study.config import Study, StudyContext, Watch, prepare
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.post_training.trainers import GrpoRun
from lab.records.errors import TaskError, VectorError
from lab.sampling.trace import Decoding
from lab.tasks.source import AtMost, Task, open_task
from probes.capture.site import Site, check_site
from probes.sae.dictionary import Sae, require_fit

Method: TypeAlias = Literal["mean", "mean-first", "gradient", "gradient-first", "policy", "sae"]
METHODS: tuple[Method, ...] = get_args(Method)
PolicyControl: TypeAlias = Literal["shuffled", "other-task"]
"""A control of the policy gradient that needs a training of its own."""
POLICY_CONTROLS: tuple[PolicyControl, ...] = get_args(PolicyControl)
SHARED = {
    Study: (
        "task", "fit_task", "reading", "n_problems", "n_samples", "n_fit_problems", "n_fit_samples", "fit", "decoding",
        "n_boot", "seed", "batch_size", "device", "dtype",
    ),
    Decoding: ("max_new_tokens",),
}  # fmt: skip
"""What of a study decides a comparison's results, and so is a flag of `lab vectors`: the rest is not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that determines the results, except the content of the models and files it names; its fields are the
    flags of `lab vectors`, as those of `Study` are.
    """

    study: Study = field(metadata={"flag": "", "flags": SHARED})
    """The pair, the task, and how arms are sampled; greedy arms have one sample of each problem."""
    placebo: str | None = None
    """A model continued from the base without tuning; fits on its traces are a further control."""
    other_task: str | None = None
    """A task of another domain: fits on it are a further control, and the damage of a dose is measured on its texts."""
    other_base: str | None = None
    """A base of the same kind, such as another seed's, on which the vectors are tried too."""
    other_skill_base: str | None = None
    """A model that lacks the skill of --other-skill-task, where no vector may help."""
    other_skill_task: str | None = None
    """That task."""
    sae: str | None = None
    """Directory of an SAE of the base model, in SAELens' format, whose decoder rows are a fit of their own; without it
    there is no fit called sae."""
    methods: tuple[Method, ...] = METHODS
    """mean: difference of means; gradient: on completions, or, first, on decisions at the first token; policy: policy
    gradient at several sites; sae: decoder rows. Those called first act at the first token, sae too, others at all."""
    layers: tuple[int, ...] = ()
    """Blocks at whose outputs vectors of one site act, from 0; the middle one if not given."""
    policy_controls: tuple[PolicyControl, ...] = POLICY_CONTROLS
    """Controls of the policy gradient besides random directions, each as long as the fit itself: misplaced rewards, and
    the other task's rewards."""
    doses: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Strengths of the dose sweep; no sweep where none is named."""
    n_texts: int = 512
    """Solved traces that the gradient fit at every token learns from, at most."""
    n_features: int = 8
    """Decoder rows of the SAE that make a vector."""
    policy: GrpoRun = field(default_factory=lambda: GrpoRun(n_steps=60, n_prompts=16, learning_rate=0.05))

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise VectorError(f"methods {list(self.methods)}: want at least one of {', '.join(METHODS)}, none twice")
        if len(set(self.layers)) < len(self.layers):
            raise VectorError(f"layers {list(self.layers)}: want none twice")
        if (self.other_skill_base is None) != (self.other_skill_task is None):
            raise TaskError("--other-skill-base and --other-skill-task go together: name both, or neither")
        counts = {name: getattr(self, name) for name in ("n_texts", "n_features")}
        counts |= {f"policy.{name}": getattr(self.policy, name) for name in ("n_steps", "n_prompts")}
        if low := {name: count for name, count in counts.items() if count < 1}:
            raise VectorError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")
        if self.policy.n_rollouts < 2:
            raise VectorError(f"policy.n_rollouts = {self.policy.n_rollouts}: want at least 2, to compare rewards")


def compared(base: str, tuned: str) -> Study:
    """The study of a pair, of the size that a comparison has where nothing else is said."""
    return Study(base=base, tuned=tuned, n_samples=8, batch_size=512)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComparisonContext:
    """A comparison with its models, tasks and SAE in memory: all that its stages share."""

    comparison: Comparison
    context: StudyContext
    """That of its study: the pair, its task, the output directory."""
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


def prepare_comparison(comparison: Comparison, out: Path, watch: Watch) -> ComparisonContext:
    """Loads and checks everything before the first file is written; writes nothing."""
    if comparison.methods == ("sae",) and comparison.sae is None:
        raise VectorError("decoder rows are the only fit asked for, and there is no SAE: name its directory with --sae")
    others = (comparison.placebo, comparison.other_base, comparison.other_skill_base)
    names = tuple(dict.fromkeys(name for name in others if name is not None))
    layer = comparison.layers[0] if comparison.layers else None
    study = replace(comparison.study, companions=names, old_task=comparison.other_task, layer=layer)
    context = prepare(study, out, watch)
    sites = tuple(map(Site, comparison.layers)) or (context.site,)
    for site in sites:
        check_site(context.base, site)
    models = dict(zip(names, context.companions, strict=True))
    placebo, other_base, other_skill_base = (None if name is None else models[name] for name in others)
    for model in (other_base, other_skill_base):
        if model is not None:
            # A vector fits models of one shape that read the same tokens.
            ModelPair(base=context.base, tuned=model)

    def opened(name: str, like: Task, *, held_out: bool) -> Task:
        n_problems = AtMost(len(like.problems))
        return open_task(study.source(name), n_problems=n_problems, seed=study.seed, held_out=held_out)

    other_skill = other_fit_task = None
    if other_skill_base is not None and comparison.other_skill_task is not None:
        other_skill = (other_skill_base, opened(comparison.other_skill_task, context.task, held_out=True))
    if comparison.other_task is not None:
        other_fit_task = opened(comparison.other_task, context.fit_task, held_out=False)
    return ComparisonContext(
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


def opened_sae(comparison: Comparison, base: Model) -> Sae | None:
    """The SAE, fit for the base model; None where none is asked for."""
    if comparison.sae is None or "sae" not in comparison.methods:
        return None
    # It brings sae_lens, which is slow to import.
    from probes.sae.dictionary import load_sae

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
