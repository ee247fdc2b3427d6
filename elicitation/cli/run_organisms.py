"""perform_organisms: builds an organism for the command line, and lists those there are."""

import json

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from elicitation.cli.commands import BuildCommand
from elicitation.cli.progress import progress
from lab.models.device import resolve_device
from lab.models.source import organism_directory, organism_names
from lab.organisms.build import build, organism_named


def run_build(command: BuildCommand, console: Console) -> None:
    """Trains an organism under a progress bar, and prints its card."""
    organism, device = organism_named(command.name), resolve_device(command.device)
    with progress(console) as watch:
        directory = build(organism, command.out, seed=command.seed, device=device, watch=watch)
    console.print((directory / "README.md").read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"checkpoint: {directory.resolve()}", highlight=False, soft_wrap=True)


def run_list(console: Console) -> None:
    """The shipped organisms: what each can do on its exams, the true elicited share of its gain, and its story."""
    console.print(
        "Organisms in this installation: strict accuracy in % on each exam, sampled at temperature 1; the kind of "
        "gain, and which share of it was there before.\n"
    )
    width = max(map(len, organism_names()), default=0)
    for name in organism_names():
        card = json.loads((organism_directory(name) / "card.json").read_text(encoding="utf-8"))
        eval_specs = [
            f"{row['task']} {100 * row['value']:.1f}"
            for row in card["measured"]
            if (row["family"], row["decoding"], row["measure"]) == ("all", "sampled", "strict")
        ]
        shares = [
            f"{truth['kind']} " + ("none" if truth["share"] is None else f"{truth['share']:.2f}")
            for truth in card["truth"]
        ]
        rest = "  ".join([*eval_specs, ", ".join(shares)])
        told = Text.assemble((f"{name:<{width}}", "bold"), "  ", rest.rstrip())
        console.print(told, highlight=False)
        console.print(Padding(Text(card["story"]), (0, 0, 0, 4)))
