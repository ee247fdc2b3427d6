"""Study: which pair, on which task, with how many samples, and how vectors are found; and the same in memory."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf
from pathlib import Path
from typing import TypeAlias

import polars as pl

from elicitation.estimators.estimate import Analysis
from lab.metrics.bootstrap import MIN_BOOT
from lab.models.device import DtypeName, resolve_device, resolve_dtype
from lab.models.load import Model, load
from lab.models.pair import ModelPair, PromptChoice, Way, asked_pair, require_alike, ways
from lab.models.prompt_format import PromptFormat
from lab.models.source import model_source
from lab.records.errors import DecodingError, EstimateError, TaskError
from lab.records.provenance import Provenance, provenance
from lab.records.stage import Artefact, memoised
from lab.records.tables import Schema, write_table
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import Decoding
from lab.scoring.evidence import ArmKey
from lab.tasks.problem import Problem
from lab.tasks.program import CODE
from lab.tasks.question_rows import BY_RULE, Reading
from lab.tasks.source import AtMost, Task, TaskSource, open_sides, open_task, require_rows, task_source
from lab.test_time.elicit import PowerSampling
from probes.capture.capture import require_no_sink
from probes.capture.site import Site, check_site
from probes.sae.architecture import Recipe, TopK, Training
from steering.fits.gradient import GradientFit
from steering.published_hybrids.material import PublishedSettings
from steering.routing.routing import RoutingFit


def low_counts(config: object, names: Sequence[str]) -> str:
    """Which of these fields are below 1; empty where none is."""
    low = [f"{name} = {count}" for name in names if (count := getattr(config, name)) < 1]
    return f"{', '.join(low)}: want at least 1" if low else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSearch:
    """TopK SAEs of the base model's stream, and what their features do to how answers open."""

    layers: tuple[int, ...] = ()
    """Blocks at whose outputs features are sought, from 0, such as 2 3; what is shown is of the one where they do most.
    None are sought where none is named."""
    expansion: int = 4
    """Features for each dimension of the stream."""
    k: int = 16
    """Features a token is written with."""
    n_tokens: int = 400_000
    """Activations that each SAE learns from, those of repeated epochs counted again."""
    n_texts: int = 100
    """Training prompts on which every feature is ablated."""
    n_top: int = 8
    """Features that are acted on, at most."""
    n_shown: int = 12
    """Features that the report shows with their contexts."""

    def __post_init__(self) -> None:
        if len(set(self.layers)) < len(self.layers):
            raise EstimateError(f"features at blocks {list(self.layers)}: want none twice")
        if low := low_counts(self, ("expansion", "k", "n_tokens", "n_texts", "n_top", "n_shown")):
            raise EstimateError(low)


def require_room(search: FeatureSearch, model: Model) -> None:
    """SiteError for a block that `model` does not have; ModelError for an SAE that cannot be trained as asked."""
    for layer in search.layers:
        check_site(model, Site(layer))
        Recipe(
            site=Site(layer),
            architecture=TopK(search.k),
            d_sae=search.expansion * model.anatomy.d_model,
            training=Training(n_tokens=search.n_tokens),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnHelp:
    """How much is spent on answering better by prompts and decoding alone."""

    n_fit_samples: int = 4
    """Completions of each training problem, by every prompt and at every temperature that is tried."""
    temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.0)
    """Those that are tried."""
    n_votes: int = 16
    """Completions that vote on one answer."""
    n_branches: int = 10
    """First tokens that CoT-decoding tries."""
    lenient_factor: float = 4.0
    """For a lenient reading completions without an answer are written on to so many times the token limit."""
    power: PowerSampling = field(default_factory=lambda: PowerSampling(n_blocks=4, n_moves=4))

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 <= tried < inf for tried in self.temperatures):
            raise DecodingError(f"temperatures {list(self.temperatures)}: want 0 (greedy) or positive numbers")
        if low := low_counts(self, ("n_fit_samples", "n_votes", "n_branches", "lenient_factor")):
            raise DecodingError(low)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Checks of both models for memory of the held-out problems."""

    n_problems: int = 0
    """Of how many, such as 50, both models complete the question from its first part, and answer perturbed copies."""
    shown: float = 0.6
    """Share of a question that counts as its first part."""
    cutoff: str | None = None
    """A day, month or year, such as 2024-06-01: problems dated then or later are compared with earlier ones."""

    def __post_init__(self) -> None:
        if self.n_problems < 0 or self.n_problems == 1:
            raise TaskError(f"contamination of {self.n_problems} problems: want 0 for none, or at least 2")
        if not 0 < self.shown < 1:
            raise TaskError(f"contamination with {self.shown} of a question shown: want a share between 0 and 1")
        if self.cutoff is not None and re.fullmatch(r"[12][0-9]{3}(-[01][0-9](-[0-3][0-9])?)?", self.cutoff) is None:
            raise TaskError(f"cutoff {self.cutoff!r}: want a day, month or year, such as 2024-06-01, 2024-06 or 2024")

    @property
    def asked(self) -> bool:
        """Whether anything is checked."""
        return self.n_problems > 0 or self.cutoff is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Everything that determines a study's results, except the content of the models and files it names.

    The flags of `lab study` are these fields: what stands below each is their help, and `metadata` says "flag" where
    one has another name than the field, "" for a part whose own fields have no prefix, or none.

    >>> el.Study(base="zero-base", tuned="zero-rl").task
    'chain'
    """

    base: str = field(metadata={"flag": None})
    """Base model, as a user types it."""
    tuned: str = field(metadata={"flag": None})
    """Model tuned from it."""
    companions: tuple[str, ...] = ()
    """Further models whose pass@k curves stand beside the pair's."""
    task: str = "chain"
    """chain, chain:OPERATORS, chain:OPERATORS:FEWEST-MOST, a mix of these such as 25%chain:#,75%chain:+-, gym:DATASET,
    gym:DATASET:OPTION=VALUE,..., a benchmark such as math500 (`lab task list`),
    hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]], or a path to .jsonl, .json, .parquet, .arrow, .csv or .tsv, as
    `lab task show` reads it."""
    fit_task: str | None = None
    """Where the problems come from that vectors are fitted on; then all rows of --task may be held out, and what both
    ask is left out here. Without it, --task is split by question."""
    reading: Reading = field(default=BY_RULE, metadata={"flag": ""})
    n_problems: int | None = None
    """Held-out problems; if not given 200, or with --fit-task up to 500 rows, or all there are."""
    n_samples: int = 16
    """Samples of each problem in every arm of the ladder."""
    n_curve_samples: int = 64
    """Samples of each problem by the models themselves, for pass@k."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Points of the pass@k curves."""
    n_score_samples: int = 16
    """Of these, how many a problem, at most, both models read again for the estimators that compare probabilities."""
    old_task: str | None = None
    """A task that the tuning was not about; with it, the report says what was forgotten."""
    n_old_samples: int = 4
    """Samples of each of its problems, of which there are as many as held-out ones, or all."""
    prompts: PromptChoice = field(default_factory=PromptChoice)
    """How the models are asked."""
    arms: tuple[ArmKey, ...] = field(default=(), metadata={"flag": None})
    """Rungs and controls of the ladder to run; all of them when empty."""
    n_fit_problems: int | None = None
    """Training problems on which vectors are fitted, which share no question with the held-out ones; if not given 200,
    or all there are."""
    n_fit_samples: int = 4
    """Traces of each of them, by either model."""
    layer: int | None = None
    """Block at whose output vectors act, from 0; the middle one if not given."""
    features: FeatureSearch = field(default_factory=FeatureSearch)
    """Where features are looked for in those traces."""
    contamination: Contamination = field(default_factory=Contamination)
    """Checks for memory of the problems; none unless it says of how many, or names a date."""
    fit: GradientFit = field(default_factory=GradientFit)
    own_help: OwnHelp | None = field(default_factory=OwnHelp)
    """Rungs of prompt and decoding alone."""
    routing: RoutingFit | None = field(default_factory=RoutingFit)
    """Routers and category vectors that are fitted."""
    published_hybrids: bool = False
    """Also run two published hybrids, with each of their faults switched."""
    published: PublishedSettings | None = field(default=None, metadata={"flag": None})
    """How those are fitted; as `PublishedSettings` has it when None."""
    published_arms: tuple[ArmKey, ...] = field(default=(), metadata={"flag": None})
    """Which of their arms run; all of them when empty."""
    decoding: Decoding = field(default_factory=Decoding, metadata={"flag": ""})
    reach: int = 1000
    """Samples of one problem that still count as within the base model's reach."""
    top: int = 5
    """First choices of the base model that count as likely: a tuned model's token among them is reranked."""
    n_boot: int = 2000
    """Resamples of the problems behind every interval."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""
    batch_size: int = 256
    """Rows decoded at once; halved where memory runs out."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps."""
    dtype: DtypeName = "auto"
    """Precision of the weights; auto is bfloat16 on cuda, float32 elsewhere."""

    def source(self, task: str) -> TaskSource:
        """The source that `task` names, its rows read as this study reads rows."""
        return task_source(task, self.reading)

    @property
    def sampling(self) -> str:
        """How completions are drawn, in words."""
        return f"at temperature {self.decoding.temperature:g}" if self.decoding.temperature else "decoded greedily"

    def __post_init__(self) -> None:
        beyond = [k for k in self.ks if k > self.n_curve_samples]
        if beyond or not self.ks or min(self.ks) < 1:
            raise DecodingError(
                f"pass@k at k = {list(self.ks)} from {self.n_curve_samples} samples a problem: want 1 <= k <= samples"
            )
        if self.n_problems is not None and self.n_problems < 2:
            raise TaskError(f"n_problems = {self.n_problems}: want at least 2, since every interval is over problems")
        of_samples = ("n_samples", "n_fit_samples", "n_score_samples", "n_old_samples")
        of_problems = () if self.n_fit_problems is None else ("n_fit_problems",)
        if low := low_counts(self, (*of_samples, *of_problems, "batch_size", "reach", "top")):
            raise DecodingError(low)
        if self.n_boot < MIN_BOOT:
            raise EstimateError(f"n_boot = {self.n_boot}: want at least {MIN_BOOT}, and 2,000 for a reported number")

    @property
    def analysis(self) -> Analysis:
        """The choices of the estimators."""
        return Analysis(reach=self.reach, top=self.top, n_boot=self.n_boot, seed=self.seed)


PARTS = {
    "report.html": "what was found: begin here",
    "features.html": "what single features do",
    "tables": "what the report shows: ladder.parquet has every arm, arms.parquet says what each is there for",
    "estimates": "what every estimator says, or why it says nothing",
    "evidence": "what both models think of completions by either; estimators look at it and at the verdicts in tables/",
    "traces": "completions, one folder an arm; fit-: of training problems; old-: of the task that tuning was not about;"
    " shown-, copies-: of the checks for memory",
    "formats": "how either model is asked, and what else was tried on training problems",
    "comparisons": "the gain under each way of asking",
    "pair": "what the two models have in common, and what not, before anything ran",
    "problems": "held-out problems, and the training ones that vectors are fitted on",
    "disagreements": "tokens of training texts at which base and tuned model would write different ones",
    "activations": "the base model's stream at first tokens of training texts",
    "vectors": "steering vectors; `lab export` writes them for other programs",
    "routing": "what says when a vector acts, and the vectors of categories",
    "published_hybrids": "what the two published methods were fitted to",
    "store-base": "what the base model computes as it reads training texts",
    "store-tuned": "what the tuned model computes there",
    "saes": "sparse autoencoders of the base model's stream, in SAELens' format",
    "features": "what is known of their features",
    "contamination": "whether what was measured can be memory of the problems",
    "study.json": "the configuration of the study",
    "seconds.json": "what each estimator's evidence took",
}
"""Name in the directory of a study -> what it is."""
Tables: TypeAlias = Mapping[str, tuple[Schema, pl.DataFrame]]
"""Name of a file -> what is in it."""
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
    told: tuple[str, ...] = ()
    """How the rows of its tasks were read and parted, in a line each."""
    ways: Mapping[str, Way] = field(default_factory=dict)
    """Ways of asking that are offered to both models, by name; none where nothing is to be compared."""
    draws: str = "tokens"
    """Name of the random numbers that completions draw: arms of one name are paired sample by sample."""

    @property
    def base(self) -> Model:
        """The pair's base model."""
        return self.pair.base

    @property
    def formats(self) -> tuple[PromptFormat, PromptFormat]:
        """How base and tuned model are asked."""
        return self.base.prompter.format, self.pair.tuned.prompter.format

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

    def stage(
        self, name: str, config: object, parents: Mapping[str, str], compute: Callable[[Path, Provenance], None]
    ) -> Artefact:
        """The stage `out/name`, by `compute(directory, provenance)`, kept as `memoised` does."""
        place = self.out / name
        return memoised(
            place.parent, place.name, config, parents, lambda work: compute(work, self.made_by(name, config, parents))
        )

    def tables(self, name: str, config: object, parents: Mapping[str, str], compute: Callable[[], Tables]) -> Artefact:
        """The stage `out/name` of nothing but tables."""

        def write(work: Path, made_by: Provenance) -> None:
            for file, (schema, table) in compute().items():
                write_table(work / f"{file}.parquet", table, schema, made_by)

        return self.stage(name, config, parents, write)

    def made_by(self, stage: str, config: object, parents: Mapping[str, str]) -> Provenance:
        """Provenance of a file of this study."""
        return provenance(stage, config, parents, device=self.device, dtype=self.dtype, seed=self.study.seed)


def prepare(study: Study, out: Path, watch: Watch) -> StudyContext:
    """Loads and checks everything; writes nothing."""
    device = resolve_device(study.device)
    dtype = resolve_dtype(study.dtype, device)

    def opened(text: str) -> Model:
        return load(model_source(text), device=device, dtype=dtype)

    as_loaded = ModelPair(base=opened(study.base), tuned=opened(study.tuned))
    site = Site(study.layer if study.layer is not None else as_loaded.base.anatomy.n_layers // 2)
    check_site(as_loaded.base, site)
    require_room(study.features, as_loaded.base)
    companions = tuple(replace(opened(text), ends=as_loaded.base.ends) for text in study.companions)
    n_problems, n_fit_problems = study.n_problems, study.n_fit_problems
    source, fit_source = study.source(study.task), None if study.fit_task is None else study.source(study.fit_task)
    task, fit_task, told = open_sides(source, fit_source, n_problems, n_fit_problems, seed=study.seed)
    require_rows(study.reading, task, fit_task)
    texts = [problem.prompt for problem in (*task.problems, *fit_task.problems)]
    require_alike(as_loaded.base.tokenizer, as_loaded.tuned.tokenizer, texts)
    shown = () if fit_task.judge is CODE else fit_task.problems[-study.prompts.n_examples :]
    examples = [(problem.prompt, problem.answer) for problem in shown]
    pair = asked_pair(as_loaded, study.prompts, examples)
    old_task = None
    if study.old_task is not None:
        n_old = AtMost(len(task.problems)) if n_problems is None else n_problems
        old_task = open_task(study.source(study.old_task), n_problems=n_old, seed=study.seed)
    asked = [problem for each in (task, fit_task, old_task) if each is not None for problem in each.problems]
    for model, problem in product((pair.base, pair.tuned, *companions), asked):
        # Raises where a prompt and its completion do not fit the model's context.
        encode_prompt(model, problem, study.decoding)
    if study.features.layers:
        prompts = [encode_prompt(pair.base, problem, study.decoding) for problem in fit_task.problems[:16]]
        require_no_sink(pair.base, study.features.layers, prompts)
    offered = ways(pair, study.prompts, examples)
    return StudyContext(study, out, pair, companions, task, fit_task, old_task, site, watch, told, offered)
