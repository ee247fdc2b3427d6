"""perform_organisms: builds an organism for the command line, and lists those there are."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from elicitation.cli.commands import BuildCommand
from elicitation.cli.progress import progress
from lab.models.device import resolve_device
from lab.organisms.build import build
from lab.organisms.card import listed
from lab.organisms.catalogue import organism_named


def run_build(command: BuildCommand, console: Console) -> None:
    """Trains an organism under a progress bar, and prints its card."""
    organism, device = organism_named(command.name), resolve_device(command.device)
    with progress(console) as watch:
        directory = build(organism, command.out, seed=command.seed, device=device, watch=watch)
    console.print((directory / "README.md").read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"checkpoint: {directory.resolve()}", highlight=False, soft_wrap=True)


def run_list(console: Console) -> None:
    """The built-in models: what each can do on the tasks of its card, the true share of its gain, and its story."""
    console.print(
        "Built-in models: strict accuracy in % on each task, sampled at temperature 1; the kind of gain, and which "
        "share of it was there before.\n"
    )
    models = tuple(listed())
    width = max(len(model.name) for model in models)
    for model in models:
        shares = ", ".join(f"{kind} " + ("none" if share is None else f"{share:.2f}") for kind, share in model.truths)
        levels = [f"{task} {100 * value:.1f}" for task, value in model.strict]
        rest = "  ".join([*(levels or [model.where]), shares])
        told = Text.assemble((f"{model.name:<{width}}", "bold"), "  ", rest.rstrip())
        console.print(told, highlight=False)
        console.print(Padding(Text(model.story), (0, 0, 0, 4)))
