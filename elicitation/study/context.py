"""StudyContext: a study with its models and problems in memory, and its output directory in hand."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from elicitation.study.config import Study, require_room
from lab.models.device import resolve_device, resolve_dtype
from lab.models.load import Model, ModelPair, load
from lab.models.source import model_source
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, canonical_json, provenance
from lab.records.stage import Artefact, memoised
from lab.records.tables import write_text
from lab.sampling.sample import encode_prompt
from lab.tasks.problem import Problem
from lab.tasks.source import Task, open_task, task_source
from probes.capture.capture import require_no_sink
from probes.capture.site import Site, check_site

README = "README.txt"
PARTS = {
    "report.html": "what was found: begin here",
    "features.html": "what single features do",
    "tables": "what the report shows: ladder.parquet has every arm, arms.parquet says what each is there for",
    "estimates": "what every estimator says, or why it says nothing",
    "evidence": "what both models think of completions by either; estimators look at it and at the verdicts in tables/",
    "traces": "completions, one folder an arm; fit-: of training problems; old-: of the task that tuning was not about",
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
    "study.json": "the configuration of the study",
    "seconds.json": "what each estimator's evidence took",
}
"""Name in the directory of a study -> what it is."""
FOOTER = """
A table (.parquet) says in its own metadata what made it; the page lists all tables, column by column, with checksums.
A folder with a stage.json is finished and never changes: the same command, given again, goes on from what is here.
To have a part computed again, delete its folder and those that come from it.
"""

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
    draws: str = "tokens"
    """Name of the random numbers that completions draw: arms of one name are paired sample by sample."""

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

    def stage(
        self, name: str, config: object, parents: Mapping[str, str], compute: Callable[[Path, Provenance], None]
    ) -> Artefact:
        """The stage `out/name`, by `compute(directory, provenance)`, kept as `memoised` does."""
        place = self.out / name
        return memoised(
            place.parent, place.name, config, parents, lambda work: compute(work, self.made_by(name, config, parents))
        )

    def made_by(self, stage: str, config: object, parents: Mapping[str, str]) -> Provenance:
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
    asked = [problem for each in (task, fit_task, old_task) if each is not None for problem in each.problems]
    for model, problem in product((pair.base, pair.tuned, *companions), asked):
        # Raises where a prompt and its completion do not fit the model's context.
        encode_prompt(model, problem.prompt, study.decoding)
    if study.features.layers:
        prompts = [encode_prompt(pair.base, problem.prompt, study.decoding) for problem in fit_task.problems[:16]]
        require_no_sink(pair.base, study.features.layers, prompts)
    return StudyContext(study, out, pair, companions, task, fit_task, old_task, site, watch)


@contextmanager
def claimed(out: Path, config: object, kind: str = "study") -> Iterator[None]:
    """Within the block, `out` is that of the run that `config` describes, and no other process works in it.

    `kind` is what such a run is called. Raises StorageError where `out` belongs to another configuration, holds
    something else, or is in use.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is not a directory: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        claim(out, config, kind)
        yield
    except BlockingIOError as error:
        raise StorageError(f"{out} is in use by another run of this {kind}: wait for it, or stop it") from error
    finally:
        os.close(handle)


def claim(out: Path, config: object, kind: str) -> None:
    """Marks `out` as the run's; StorageError where it is another's or holds something else."""
    wanted = canonical_json(config)
    marker = out / f"{kind}.json"
    # What a run that was killed while it wrote left behind.
    for kind_of_file in ("json", "html", "txt"):
        for leftover in out.glob(f".*.{kind_of_file}.*.partial"):
            leftover.unlink()
    if marker.exists():
        if marker.read_text(encoding="utf-8") != wanted:
            raise StorageError(f"{out} holds a {kind} of another configuration: choose another --out or delete it")
    elif any(out.iterdir()):
        raise StorageError(f"{out} is not empty and holds no {kind}: choose another --out")
    else:
        write_text(marker, wanted)


def write_readme(out: Path, title: str, parts: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """Writes `out/README.txt`: those of `parts` that are there, and under `traces` its folders with their `labels`."""
    there = {name: what for name, what in parts.items() if (out / name).exists()}
    lines = [title, ""]
    for name, what in there.items():
        lines.append(f"{name + '/' * (out / name).is_dir():<20}{what}")
        if name == "traces":
            arms = sorted(path.name for path in (out / name).iterdir() if path.is_dir())
            lines += [f"  {arm:<32}{labels.get(arm, '')}".rstrip() for arm in arms]
    write_text(out / README, "\n".join(lines) + "\n" + FOOTER)
