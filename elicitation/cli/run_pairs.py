"""perform_pairs: carries out `lab pairs`."""

import json

from rich import box
from rich.console import Console
from rich.table import Table

from elicitation.cli.pair_commands import PairBuildCommand, PairFetchCommand, PairListCommand, PairsCommand
from elicitation.cli.progress import progress
from lab.models.source import ADAPTERS, adapter_names, fetched_directory


def run_pairs(command: PairsCommand, console: Console) -> None:
    """Fetches, lists or builds."""
    match command.do:
        case PairFetchCommand(name=name):
            from lab.organisms.pretrained import fetch, pretrained_named

            path = fetch(pretrained_named(name))
            console.print(f"{name} is in {path}", highlight=False, soft_wrap=True)
        case PairListCommand():
            console.print(pair_table())
        case PairBuildCommand() as build:
            run_build(build, console)


def run_build(command: PairBuildCommand, console: Console) -> None:
    """Trains an adapter under a progress bar, and prints its card."""
    import torch

    from lab.models.device import resolve_device
    from lab.organisms.build_adapter import adapted_named, build

    with progress(console) as watch:
        directory = build(
            adapted_named(command.name),
            command.out,
            seed=command.seed,
            device=resolve_device(command.device),
            dtype=torch.bfloat16,
            watch=watch,
        )
    console.print((directory / "README.md").read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"adapter: {directory.resolve()}", highlight=False, soft_wrap=True)


def pair_table() -> Table:
    """Every pretrained model, and every adapter in this installation with the first line of its measurements."""
    from lab.organisms.pretrained import PRETRAINED

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("what it is, and its strict accuracy on its own task")
    for pretrained in PRETRAINED.values():
        here = "fetched" if fetched_directory(pretrained.name).is_dir() else f"lab pairs fetch {pretrained.name}"
        table.add_row(pretrained.name, "", f"{pretrained.story} [{here}]")
    for name in adapter_names():
        card = json.loads((ADAPTERS / name / "card.json").read_text(encoding="utf-8"))
        task = card["exams"][0]["task"]
        levels = {
            row["model"]: f"{100 * row['value']:.0f} %"
            for row in card["measured"]
            if row["task"] == task and row["measure"] == "strict, sampled"
        }
        figures = ", ".join(f"{model} {level}" for model, level in levels.items())
        table.add_row(name, card["parent"], f"{card['story']} {task}: {figures}")
    return table
