"""perform_vectors: compares fits of steering vectors for the command line, and prints what came of it."""

from math import isnan

from rich import box
from rich.console import Console
from rich.table import Table

from elicitation.cli.progress import progress
from elicitation.cli.vector_commands import VectorsCommand
from elicitation.comparison.config import Comparison
from elicitation.comparison.run import compare
from elicitation.report.vectors.tables import VectorTables
from lab.post_training.reinforce import GrpoRun
from lab.records.numerals import ABSENT, interval, percent, points
from steering.fits.gradient import GradientFit


def run_vectors(command: VectorsCommand, pair: tuple[str, str], typed: str, console: Console) -> None:
    """Runs a comparison of `pair`, (base, tuned), under a progress bar, then prints its effects and where they are."""
    with progress(console) as watch:
        compared = compare(as_comparison(command, pair), command.out, command=typed, watch=watch)
    console.print(effects_shown(compared.ledger))
    console.print(compared.answer, highlight=False)
    console.print(f"vectors: {compared.vectors.resolve()}", highlight=False, soft_wrap=True)
    console.print(f"page: {compared.page.resolve()}", highlight=False, soft_wrap=True)


def as_comparison(command: VectorsCommand, pair: tuple[str, str]) -> Comparison:
    """The configuration that a command describes."""
    base, tuned = pair
    return Comparison(
        base=base,
        tuned=tuned,
        task=command.task,
        placebo=command.placebo,
        other_task=command.other_task,
        other_base=command.other_base,
        other_skill_base=command.other_skill_base,
        other_skill_task=command.other_skill_task,
        sae=None if command.sae is None else str(command.sae.resolve()),
        methods=command.methods,
        layers=command.layers,
        policy_controls=command.policy_controls,
        doses=command.doses,
        n_problems=command.n_problems,
        n_samples=command.n_samples,
        n_fit_problems=command.n_fit_problems,
        n_fit_samples=command.n_fit_samples,
        fit=GradientFit(n_steps=command.fit_steps),
        policy=GrpoRun(n_steps=command.policy_steps, n_prompts=command.policy_prompts, learning_rate=0.05),
        max_new_tokens=command.max_new_tokens,
        n_boot=command.n_boot,
        seed=command.seed,
        batch_size=command.batch_size,
        device=command.device,
        dtype=command.dtype,
    )


def effects_shown(ledger: VectorTables) -> Table:
    """Strict accuracy of every fit at either decoding, for a terminal of 80 columns."""
    table = Table(title="Strict accuracy, with 95 % intervals", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("fit", overflow="fold")
    for heading in ("strict", "share", "beyond its best control"):
        table.add_column(heading, justify="right")
    for row in ledger.main("strict"):
        greedy = ", greedy" if row["decoding"] == "greedy" else ""
        share = ABSENT if isnan(row["share"]) else f"{percent(row['share'], 0)} "
        beyond = "" if isnan(row["beyond"]) else f"{points(row['beyond'])} "
        table.add_row(
            f"{row['label'] if row['fit'] in ('base', 'tuned') else row['fit']}{greedy}",
            percent(row["value"]),
            "" if row["fit"] in ("base", "tuned") else f"{share}{interval(row['share_low'], row['share_high'], 0)}",
            f"{beyond}{interval(row['beyond_low'], row['beyond_high'])}",
        )
    return table
