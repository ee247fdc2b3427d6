"""perform_taxonomy: categories of steps or sentences for the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elicitation.cli.feature_commands import TaxonomyCommand
from elicitation.cli.progress import progress
from lab.models.device import resolve_device, settle_threads
from lab.models.load import load
from lab.models.source import model_source
from lab.records.errors import StorageError
from lab.records.numerals import fixed, interval
from lab.records.provenance import digest, provenance
from lab.records.stage import memoised
from lab.records.tables import read_table, write_table
from lab.tasks.chain_verifier import CHAIN_STEPS
from lab.tasks.problem import PROBLEMS, problems_of
from probes.capture.site import Site
from probes.storage.plan import DTYPES
from probes.storage.store import open_store
from probes.tables import CATEGORIES, TAXONOMIES
from probes.taxonomy.fit import ClusteringSae, KMeans
from probes.taxonomy.segments import Rule, Sentences, Steps
from probes.taxonomy.survey import survey
from probes.taxonomy.taxonomy import save_taxonomy


def run_taxonomy(command: TaxonomyCommand, console: Console) -> None:
    """Fits taxonomies under a progress bar, writes them with their tables, and prints how they are judged."""
    store = open_store(command.store)
    device = resolve_device("cpu")
    model = load(model_source(store.plan.model), device=device, dtype=DTYPES[store.plan.weights])
    settle_threads(model.n_parameters)
    sites = tuple(Site.parse(name) for name in command.sites) or store.plan.sites
    config = {
        "segments": command.segments,
        "sites": [str(site) for site in sites],
        "sizes": command.sizes,
        "ks": command.ks,
        "n_seeds": command.n_seeds,
        "seed": command.seed,
    }
    rule = segment_rule(command)
    parents = {"store": digest(store.files)}
    if isinstance(rule, Steps):
        parents["problems"] = digest(dict(rule.problems))
    made_by = provenance("taxonomy", config, parents, device=device.type, dtype="float32", seed=command.seed)

    def compute(work: Path) -> None:
        with progress(console) as watch, single_thread():
            found = survey(
                model,
                store,
                rule,
                sites,
                command.sizes,
                (*(ClusteringSae(k=k) for k in command.ks), KMeans()),
                n_seeds=command.n_seeds,
                seed=command.seed,
                on_progress=lambda n, total: watch("fits", n, total),
            )
        for name, taxonomy in found.taxonomies.items():
            save_taxonomy(work / f"{name}.safetensors", taxonomy, made_by)
        write_table(work / "quality.parquet", found.quality, TAXONOMIES, made_by)
        write_table(work / "categories.parquet", found.contents, CATEGORIES, made_by)

    out = command.out.resolve()
    done = memoised(out.parent, out.name, config, parents, compute)
    for table in taxonomy_tables(read_table(done.path / "quality.parquet", TAXONOMIES)):
        console.print(table)
    console.print(f"in {done.path}", highlight=False, soft_wrap=True)


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread of torch's within the block: the fits' matrices are small, and threads would wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def segment_rule(command: TaxonomyCommand) -> Rule:
    """How texts are cut; StorageError for steps without their problems."""
    if command.segments == "sentences":
        return Sentences()
    if command.problems is None:
        raise StorageError("--segments steps needs the problems of the texts: name their table with --problems")
    return Steps(CHAIN_STEPS, {problem.id: problem for problem in problems_of(read_table(command.problems, PROBLEMS))})


def taxonomy_tables(quality: pl.DataFrame) -> Iterator[Table]:
    """What `TAXONOMIES` says of the span means of each site, for a terminal of 80 columns."""
    measures = {"mutual information": "labels told", "purity": "purity", "stability": "stability"}
    spans = quality.filter(pl.col("reading") == "span mean")
    for (site,), here in spans.group_by(["site"], maintain_order=True):
        title = f"{site}: held-out problems, in per cent,\nwith 95 % intervals; in round brackets, of noise"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("method", no_wrap=True)
        for heading in ("n", *measures.values()):
            table.add_column(heading, justify="right", no_wrap=True)
        for (method, n), rows in here.group_by(["method", "n_categories"], maintain_order=True):
            told = {row["measure"]: row for row in rows.iter_rows(named=True)}
            cells = [Text(_cell(told[measure])) if measure in told else Text() for measure in measures]
            table.add_row(str(method), str(n), *cells)
        yield table


def _cell(row: dict[str, float]) -> str:
    value = f"{fixed(100 * row['value'], 0)} {interval(row['low'], row['high'], 0)}".rstrip()
    return f"{value} ({fixed(100 * row['null'], 0)})"
