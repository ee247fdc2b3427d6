"""perform_export: a steering vector written for another program, and its card, for the command line."""

from pathlib import Path

import polars as pl
from rich.console import Console

from elicitation.cli.commands import ExportCommand
from elicitation.report.study.tables import LADDER
from lab.models.device import resolve_device, resolve_dtype, settle_threads
from lab.models.load import Model, load
from lab.models.source import model_source
from lab.records.errors import StorageError
from lab.records.provenance import file_digest, provenance
from lab.records.tables import read_table, write_text
from steering.export.export import FORMATS, export, import_vector
from steering.export.model_card import model_card
from steering.export.push import CARD, hub_repository, push, pushed_files
from steering.export.vector_file import Origin, VectorFile, facts_of


def run_export(command: ExportCommand, console: Console) -> None:
    """Exports the vector, writes its card, and says where both are; pushes them to the hub where that is asked for.

    Raises VectorError for what cannot be written, and StorageError, before anything is written, without a token.
    """
    repository = None if command.push is None else hub_repository(command.push)
    device = resolve_device(command.device)
    model = None
    if command.model is not None:
        model = load(model_source(command.model), device=device, dtype=resolve_dtype(command.dtype, device))
        settle_threads(model.n_parameters)
    form, measured = FORMATS[command.format].for_model(model), measured_effect(command)
    file = import_vector(command.vector, None if model is None else facts_of(model))
    origin = known_origin(command, file, model)
    if command.out.exists():
        raise StorageError(f"{command.out} exists: choose another --out, or delete it")
    export(file.vector, form, command.out, origin, dose=command.dose)
    card = command.card or command.out.with_name(f"{command.out.name}.md")
    exported = file.vector if command.dose == 1 else command.dose * file.vector
    described = VectorFile(vector=exported, origin=origin)
    write_text(card, model_card(command.vector.stem, described, {command.out: form}, measured))
    console.print(f"{command.format}: {command.out.resolve()}", highlight=False, soft_wrap=True)
    console.print(f"card: {card.resolve()}", highlight=False, soft_wrap=True)
    if repository is not None:
        # There, a directory goes by the repository's name, and a file by its own.
        place = Path(repository.name if command.out.is_dir() else command.out.name)
        files = pushed_files(command.out)
        told = ", ".join(f"{name} ({path.stat().st_size} bytes)" for name, path in files.items())
        console.print(f"to {repository.name}: {told}, and the card as {CARD}", highlight=False, soft_wrap=True)
        hub_card = model_card(command.vector.stem, described, {place: form}, measured)
        console.print(f"pushed: {push(command.out, hub_card, repository)}", highlight=False, soft_wrap=True)


def known_origin(command: ExportCommand, file: VectorFile, model: Model | None) -> Origin:
    """Where the vector comes from: as its file says, and else this import, with the model that the user names."""
    if file.origin is not None and (file.origin.fitted_on is not None or model is None):
        return file.origin
    fitted_on = None if model is None else facts_of(model)
    if file.origin is not None:
        return Origin(made_by=file.origin.made_by, fitted_on=fitted_on, measured_dose=file.origin.measured_dose)
    parents = {"vector": file_digest(command.vector)}
    made_by = provenance("import", {}, parents, device="cpu", dtype="float32", seed=0)
    return Origin(made_by=made_by, fitted_on=fitted_on)


def measured_effect(command: ExportCommand) -> pl.DataFrame | None:
    """Rows of the study's `LADDER` of the arms that used the vector and of their controls; None without a study."""
    if command.study is None:
        return None
    ladder = read_table(command.study / "tables" / "ladder.parquet", LADDER)
    rows = ladder.filter(pl.col("arm").is_in(command.arms) | pl.col("control_of").is_in(command.arms))
    if rows.is_empty():
        arms = ", ".join(ladder["arm"].unique(maintain_order=True))
        raise StorageError(
            f"{command.study} has no arm {' or '.join(command.arms)}: name with --arms those that used the vector, of "
            f"{arms}"
        )
    return rows
