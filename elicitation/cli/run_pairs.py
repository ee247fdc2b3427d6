"""perform_pairs: carries out `lab pairs`."""

from rich import box
from rich.console import Console
from rich.table import Table

from elicitation.cli.pair_commands import PairBuildCommand, PairFetchCommand, PairListCommand, PairsCommand
from elicitation.cli.progress import progress


def run_pairs(command: PairsCommand, console: Console) -> None:
    """Fetches, lists or builds."""
    match command.do:
        case PairFetchCommand(name=name):
            from lab.organisms.catalogue import pretrained_named
            from lab.organisms.fetch import fetch

            path = fetch(pretrained_named(name))
            console.print(f"{name} is in {path}", highlight=False, soft_wrap=True)
        case PairListCommand():
            console.print(pair_table())
        case PairBuildCommand() as build:
            run_build(build, console)


def run_build(command: PairBuildCommand, console: Console) -> None:
    """Trains an adapter under a progress bar, and prints its card."""
    from lab.models.device import resolve_device
    from lab.organisms.build import build
    from lab.organisms.catalogue import organism_named

    with progress(console) as watch:
        directory = build(
            organism_named(command.name),
            command.out,
            seed=command.seed,
            device=resolve_device(command.device),
            watch=watch,
        )
    console.print((directory / "README.md").read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"adapter: {directory.resolve()}", highlight=False, soft_wrap=True)


def pair_table() -> Table:
    """Every built-in model: what it is, and its strict accuracy on the tasks of its card."""
    from lab.organisms.card import listed

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("what it is, and its strict accuracy")
    for model in listed():
        figures = ", ".join(f"{task}: {100 * value:.0f} %" for task, value in model.strict)
        table.add_row(model.name, model.parent or "", f"{model.story} {figures} [{model.where}]")
    return table
