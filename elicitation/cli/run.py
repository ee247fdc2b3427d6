"""perform: carries out a command of the command line; the only place that talks to the terminal."""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from elicitation.cli.commands import (
    BuildCommand,
    CalibrateCommand,
    CaptureCommand,
    CaptureRepairCommand,
    CaptureRunCommand,
    CaptureVerifyCommand,
    DemoCommand,
    ExportCommand,
    ListCommand,
    OrganismsCommand,
    SampleCommand,
    StudyCommand,
    Work,
)
from elicitation.cli.feature_commands import (
    AttributeCommand,
    FeaturesCommand,
    SaeCommand,
    SaeCompareCommand,
    SaeTrainCommand,
    TaxonomyCommand,
)
from elicitation.cli.pair_commands import PairsCommand
from elicitation.cli.progress import progress
from elicitation.cli.vector_commands import VectorsCommand
from elicitation.report.study.ladder_table import summary
from elicitation.study.config import FeatureSearch, OwnHelp, Study
from lab.models.source import (
    ADAPTERS,
    ModelSource,
    OrganismModel,
    PairModel,
    adapter_names,
    model_source,
    organism_directory,
)
from lab.records.errors import ModelError, StorageError
from lab.records.provenance import provenance
from lab.records.tables import read_provenance, read_table, write_table
from lab.tasks.source import open_task, task_source
from steering.routing.routed import RoutingFit

if TYPE_CHECKING:
    from lab.sampling.decoding import Decoding


def run(command: Work, typed: str) -> None:
    """Does what `command` asks, which the user gave as `typed`. Raises LabError for what the user can mend."""
    # Bars and warnings of libraries would bury our own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # peft 0.21 reads a property that transformers 5.23 deprecates.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Names of models and files may hold brackets, which are not markup.
    console = Console(markup=False)
    match command:
        case DemoCommand(out=out, seed=seed):
            run_study(demo_study(seed), out, typed, console)
        case StudyCommand():
            run_study(as_study(command), command.out, typed, console)
        case CalibrateCommand():
            run_calibrate(command, typed, console)
        case SampleCommand():
            run_sample(command, console)
        case CaptureCommand(do=do):
            match do:
                case CaptureRunCommand():
                    run_capture(do, console)
                case CaptureVerifyCommand(store=path):
                    run_verify(path, console)
                case CaptureRepairCommand(store=path):
                    run_repair(path, console)
        case SaeCommand(do=do):
            from elicitation.cli.run_sae import run_sae_compare, run_sae_train

            match do:
                case SaeTrainCommand():
                    run_sae_train(do, console)
                case SaeCompareCommand():
                    run_sae_compare(do, console)
        case FeaturesCommand():
            from elicitation.cli.run_features import run_page

            run_page(command, typed, console)
        case AttributeCommand():
            from elicitation.cli.run_attribution import run_attribute

            run_attribute(command, console)
        case TaxonomyCommand():
            from elicitation.cli.run_taxonomy import run_taxonomy

            run_taxonomy(command, console)
        case VectorsCommand():
            from elicitation.cli.run_vectors import run_vectors

            run_vectors(command, named_pair(command.pair), typed, console)
        case ExportCommand():
            from elicitation.cli.run_export import run_export

            run_export(command, console)
        case OrganismsCommand(do=do):
            from elicitation.cli.run_organisms import run_build, run_list

            match do:
                case BuildCommand():
                    run_build(do, console)
                case ListCommand():
                    run_list(console)
        case PairsCommand():
            from elicitation.cli.run_pairs import run_pairs

            run_pairs(command, console)


def demo_study(seed: int) -> Study:
    """The study of organism zero, sized for two cores and three minutes."""
    return Study(
        base="zero-base",
        tuned="zero-rl",
        companions=("zero-taught", "zero-sft"),
        task="chain",
        features=FeatureSearch(layers=(2, 3)),
        own_help=OwnHelp(n_fit_samples=2, n_votes=8),
        routing=RoutingFit(max_disagreements=2048),
        n_problems=200,
        n_samples=4,
        n_curve_samples=16,
        n_score_samples=4,
        ks=(1, 2, 4, 8, 16),
        batch_size=1024,
        seed=seed,
    )


def as_study(command: StudyCommand) -> Study:
    """The configuration that a `lab study` command describes."""
    from lab.sampling.decoding import Decoding

    base, tuned = named_pair(command.pair)
    task, own = own_task(command.pair)
    decoding = Decoding(
        temperature=command.temperature,
        max_new_tokens=own.max_new_tokens if command.max_new_tokens is None else command.max_new_tokens,
        stop=command.stop or own.stop,
    )
    return Study(
        base=base,
        tuned=tuned,
        companions=command.companions,
        task=command.task or task,
        old_task=command.old_task,
        n_problems=command.n_problems,
        n_samples=command.n_samples,
        n_curve_samples=command.n_curve_samples,
        ks=command.ks,
        n_fit_problems=command.n_fit_problems,
        layer=command.layer,
        features=FeatureSearch(layers=command.feature_layers),
        published_hybrids=command.published_hybrids,
        decoding=decoding,
        seed=command.seed,
        batch_size=command.batch_size,
        device=command.device,
        dtype=command.dtype,
    )


def own_task(names: tuple[str, ...]) -> tuple[str, "Decoding"]:
    """The task that the last of these models was tuned for and how it is decoded; chains for one of another origin."""
    from lab.organisms.adapters import ADAPTED
    from lab.sampling.decoding import Decoding

    eval_spec = ADAPTED[names[-1]].eval_specs[0] if names[-1] in ADAPTED else None
    return ("chain", Decoding()) if eval_spec is None else (eval_spec.task, eval_spec.decoding)


def named_pair(names: tuple[str, ...]) -> tuple[str, str]:
    """(base, tuned) from two names, or from one organism, whose card names its parent."""
    if len(names) == 2:
        return names[0], names[1]
    if len(names) == 1 and (card := shipped_card(model_source(names[0]))) is not None:
        parent = json.loads(card.read_text(encoding="utf-8"))["parent"]
        if parent is not None:
            return parent, names[0]
    raise ModelError(f"--pair {' '.join(names)}: want BASE TUNED, or one shipped model that was tuned from another")


def shipped_card(source: ModelSource) -> Path | None:
    """The card of a model that ships with the package; None for any other."""
    match source:
        case OrganismModel(name=name):
            return organism_directory(name) / "card.json"
        case PairModel(name=name) if name in adapter_names():
            return ADAPTERS / name / "card.json"
        case _:
            return None


def run_study(study: Study, out: Path, typed: str, console: Console) -> None:
    """Runs a study under a progress bar, then prints its summary and where the report is."""
    from elicitation.calibration.leak import shipped_leaks
    from elicitation.study.run import run

    with progress(console) as watch:
        finished = run(study, out, command=typed, watch=watch)
    console.print(summary(finished.ledger.ladder, console.width, shipped_leaks()))
    console.print(finished.answer, highlight=False)
    if finished.best_estimate:
        console.print(finished.best_estimate, highlight=False)
    console.print(f"report: {finished.report.resolve()}", highlight=False, soft_wrap=True)


def run_calibrate(command: CalibrateCommand, typed: str, console: Console) -> None:
    """Runs a calibration under a progress bar, then prints its records and where the page is."""
    from elicitation.calibration.case import FULL, QUICK
    from elicitation.calibration.run import calibrate
    from elicitation.report.calibration.answer import calibration_summary

    with progress(console) as watch:
        calibrated = calibrate(
            QUICK if command.quick else FULL,
            command.out or Path("runs/calibration-quick" if command.quick else "runs/calibration"),
            seed=command.seed,
            device=command.device,
            jobs=command.jobs or os.cpu_count() or 1,
            only=command.only,
            command=typed,
            watch=watch,
        )
    console.print(calibration_summary(calibrated.records, console.width))
    console.print(f"page: {calibrated.page.resolve()}", highlight=False, soft_wrap=True)


def run_sample(command: SampleCommand, console: Console) -> None:
    """Samples, verifies and writes three tables."""
    from lab.models.device import resolve_device, resolve_dtype, settle_threads
    from lab.models.load import load
    from lab.records.seeds import child_seed
    from lab.sampling.decoding import Decoding
    from lab.sampling.sample import sample
    from lab.sampling.trace import TRACES, VERDICTS, trace_table, verdict_table
    from lab.tasks.problem import PROBLEMS, problem_table

    if command.out.suffix != ".parquet":
        raise StorageError(f"--out {command.out}: want the name of a .parquet file, such as runs/traces.parquet")
    verdicts_out, problems_out = command.out.with_suffix(".verdicts.parquet"), beside(command.out)
    for path in (command.out, verdicts_out, problems_out):
        if path.exists():
            raise StorageError(f"{path} exists: delete it or choose another --out")
    device = resolve_device(command.device)
    dtype = resolve_dtype(command.dtype, device)
    model = load(model_source(command.model), device=device, dtype=dtype)
    settle_threads(model.n_parameters)
    task = open_task(task_source(command.task), n_problems=command.n_problems, seed=command.seed)
    decoding = Decoding(
        temperature=command.temperature, top_p=command.top_p, max_new_tokens=command.max_new_tokens, stop=command.stop
    )
    total = len(task.problems) * command.n_samples
    with progress(console) as watch:
        traces = sample(
            model,
            task.problems,
            command.n_samples,
            decoding,
            seed=child_seed(command.seed, "tokens"),
            batch_size=command.batch_size,
            on_progress=lambda n: watch("traces", n, total),
        )
    table = trace_table(model.name, traces)
    verdicts = verdict_table(table, task.problems, task.verify)
    config = {"task": task.name, "n_samples": command.n_samples, "decoding": decoding}
    made_by = provenance(
        "sample",
        config,
        {"model": model.digest},
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        seed=command.seed,
    )
    try:
        write_table(problems_out, problem_table(task.problems), PROBLEMS, made_by)
        write_table(verdicts_out, verdicts, VERDICTS, made_by)
        write_table(command.out, table, TRACES, made_by)
    except StorageError:
        problems_out.unlink(missing_ok=True)
        verdicts_out.unlink(missing_ok=True)
        raise
    console.print(
        f"{model.name} on {total} samples of {task.name}: strict {verdicts['strict'].mean():.3f}, "
        f"answer {verdicts['answer_correct'].mean():.3f}; {command.out}",
        highlight=False,
        soft_wrap=True,
    )


def beside(traces: Path) -> Path:
    """Where `lab sample` puts the problems of `traces`."""
    return traces.with_suffix(".problems.parquet")


def run_capture(command: CaptureRunCommand, console: Console) -> None:
    """Stores the activations of a model on traces."""
    from lab.models.device import resolve_device, resolve_dtype, settle_threads
    from lab.models.load import load
    from lab.records.scale_out import place
    from lab.sampling.trace import TRACES
    from lab.tasks.problem import PROBLEMS
    from probes.capture.positions import read_positions
    from probes.capture.site import Site
    from probes.capture.texts import texts
    from probes.storage.fill import fill
    from probes.storage.plan import plan

    sites = tuple(Site.parse(name) for name in command.sites)
    problems = command.problems or beside(command.traces)
    if command.problems is None and command.traces.exists() and not problems.exists():
        raise StorageError(f"no problems at {problems}, which hold the prompts of {command.traces}: name --problems")
    traces, asked = read_table(command.traces, TRACES), read_table(problems, PROBLEMS)
    device = resolve_device(command.device)
    model = load(model_source(command.model), device=device, dtype=resolve_dtype(command.dtype, device))
    settle_threads(model.n_parameters)
    chosen = texts(model, traces, asked)
    planned = plan(
        model,
        chosen,
        sites,
        read_positions(command.positions, model.tokenizer),
        stored=None if command.stored_dtype == "model" else command.stored_dtype,
        shard_bytes=int(command.shard_mib * 2**20),
        batch_tokens=command.batch_tokens,
    )
    parents = {"model": model.digest, "texts": planned.texts, "traces": read_provenance(command.traces).digest}
    # Nothing here is drawn at random.
    made_by = provenance("capture", planned, parents, device=device.type, dtype=planned.weights, seed=0)
    with progress(console) as watch:
        store = fill(
            model,
            chosen,
            planned,
            command.out,
            made_by,
            on=place(command.ray),
            on_progress=lambda n, total: watch("activations", n, total),
        )
    console.print(
        f"{model.name} on {len(chosen)} texts: {store.n_rows} activations in {planned.stored} at each of "
        f"{', '.join(map(str, sites))}; {len(store.portions)} shards in {command.out}",
        highlight=False,
        soft_wrap=True,
    )


def run_verify(path: Path, console: Console) -> None:
    """Reads a whole store; StorageError naming what is damaged."""
    from probes.storage.repair import require_whole
    from probes.storage.store import open_store

    store = open_store(path)
    require_whole(store)
    console.print(f"{path}: {len(store.files)} files are as they were written", highlight=False, soft_wrap=True)


def run_repair(path: Path, console: Console) -> None:
    """Captures damaged shards again; the model is loaded only if there are any."""
    from lab.models.device import resolve_device, settle_threads
    from lab.models.load import load
    from probes.storage.plan import DTYPES
    from probes.storage.repair import repair, verify
    from probes.storage.store import open_store

    store = open_store(path)
    damaged = verify(store)
    if damaged:
        device = resolve_device(store.plan.device)
        model = load(model_source(store.plan.model), device=device, dtype=DTYPES[store.plan.weights])
        settle_threads(model.n_parameters)
        with progress(console) as watch:
            repair(store, damaged, model, on_progress=lambda n, total: watch("shards", n, total))
    mended = ", ".join(f"{name} was {fault}" for name, fault in damaged) or "nothing was damaged"
    console.print(f"{path}: {mended}", highlight=False, soft_wrap=True)
