"""Sort steps or sentences of reasoning into categories by a small clustering autoencoder, and judge the categories.

Example: lab taxonomy --store runs/acts --segments steps --problems traces.problems.parquet --out runs/taxonomy
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import polars as pl
from rich.table import Table
from rich.text import Text

from elicitation.cli.terminal import Terminal, numbers
from elicitation.pages.kit.numerals import fixed, interval

if TYPE_CHECKING:
    from probes.taxonomy.segments import Rule


@dataclass(frozen=True, kw_only=True)
class TaxonomyCommand:
    """What `lab taxonomy` is given."""

    RESUMES: ClassVar[bool] = False
    store: Path
    """Directory of the activations that are sorted, of all tokens (`lab capture run --positions all`)."""
    segments: Literal["steps", "sentences"] = "sentences"
    """steps are exact ones of the chain world, with labels to judge by; sentences have none."""
    problems: Path | None = None
    """Parquet file of the texts' problems; steps need it."""
    sites: tuple[str, ...] = ()
    """Places in the model; all of the store's when not given."""
    sizes: tuple[int, ...] = (5, 10, 15)
    """Numbers of categories."""
    ks: tuple[int, ...] = (1, 3)
    """Categories that a segment is written with."""
    n_seeds: int = 3
    """Fits of each, by which stability is judged."""
    out: Path
    """Directory of the results: taxonomies as safetensors, their quality and contents as tables."""
    seed: int = 0
    """Decides fits and intervals."""

    def run(self, terminal: Terminal) -> None:
        """Fits taxonomies under a progress bar, writes them with their tables, and shows how they are judged."""
        from elicitation.cli.sample import opened
        from lab.records.provenance import digest, provenance
        from lab.records.stage import memoised
        from lab.records.tables import read_table, write_table
        from probes.capture.site import Site
        from probes.storage.store import open_store
        from probes.tables import CATEGORIES, TAXONOMIES
        from probes.taxonomy.segments import Steps
        from probes.taxonomy.survey import survey
        from probes.taxonomy.taxonomy import ClusteringSae, KMeans, save_taxonomy

        store = open_store(self.store)
        model = opened(store.plan.model, "cpu", store.plan.weights)
        sites = tuple(Site.parse(name) for name in self.sites) or store.plan.sites
        config = {
            "segments": self.segments,
            "sites": [str(site) for site in sites],
            "sizes": self.sizes,
            "ks": self.ks,
            "n_seeds": self.n_seeds,
            "seed": self.seed,
        }
        rule = self.rule()
        parents = {"store": digest(store.files)}
        if isinstance(rule, Steps):
            parents["problems"] = digest(dict(rule.problems))
        made_by = provenance("taxonomy", config, parents, device="cpu", dtype="float32", seed=self.seed)

        def compute(work: Path) -> None:
            with terminal.progress() as watch, single_thread():
                found = survey(
                    model,
                    store,
                    rule,
                    sites,
                    self.sizes,
                    (*(ClusteringSae(k=k) for k in self.ks), KMeans()),
                    n_seeds=self.n_seeds,
                    seed=self.seed,
                    on_progress=lambda n, total: watch("fits", n, total),
                )
            for name, taxonomy in found.taxonomies.items():
                save_taxonomy(work / f"{name}.safetensors", taxonomy, made_by)
            write_table(work / "quality.parquet", found.quality, TAXONOMIES, made_by)
            write_table(work / "categories.parquet", found.contents, CATEGORIES, made_by)

        out = self.out.resolve()
        done = memoised(out.parent, out.name, config, parents, compute)
        for table in taxonomy_tables(read_table(done.path / "quality.parquet", TAXONOMIES)):
            terminal.show(table)
        terminal.say(f"in {done.path}")

    def rule(self) -> "Rule":
        """How texts are cut; StorageError for steps without their problems."""
        from elicitation.cli.sample import step_problems
        from lab.tasks.chain import CHAIN_STEPS
        from probes.taxonomy.segments import Sentences, Steps

        if self.segments == "sentences":
            return Sentences()
        problems = step_problems(self.problems, "--segments steps")
        return Steps(CHAIN_STEPS, {problem.id: problem for problem in problems})


COMMAND = TaxonomyCommand


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread of torch's within the block: the fits' matrices are small, and threads would wait for each other."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def taxonomy_tables(quality: pl.DataFrame) -> Iterator[Table]:
    """What `TAXONOMIES` says of the span means of each site."""
    measures = {"mutual information": "labels told", "purity": "purity", "stability": "stability"}
    spans = quality.filter(pl.col("reading") == "span mean")
    for (site,), here in spans.group_by(["site"], maintain_order=True):
        title = f"{site}: held-out problems, in per cent,\nwith 95 % intervals; in round brackets, of noise"
        table = numbers(title, "method", "n", *measures.values())
        for (method, n), rows in here.group_by(["method", "n_categories"], maintain_order=True):
            told = {row["measure"]: row for row in rows.iter_rows(named=True)}
            cells = [Text(_cell(told[measure])) if measure in told else Text() for measure in measures]
            table.add_row(str(method), str(n), *cells)
        yield table


def _cell(row: dict[str, float]) -> str:
    value = f"{fixed(100 * row['value'], 0)} {interval(row['low'], row['high'], 0)}".rstrip()
    return f"{value} ({fixed(100 * row['null'], 0)})"
