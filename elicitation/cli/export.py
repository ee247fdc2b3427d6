"""Write a steering vector for another program, and a card that says what it is and how to use it there.

Example: lab export --vector runs/demo/vectors/first_token.safetensors --format gguf --out first_token.gguf

Files of other programs are read too: GGUF control vectors (repeng, EasySteer), vllm-lens JSON.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import polars as pl
import tyro

from elicitation.cli.main import Device, Dtype
from elicitation.cli.terminal import Terminal
from lab.records.errors import StorageError, VectorError, meant

if TYPE_CHECKING:
    from lab.models.load import Model
    from steering.export.vector_file import Origin, VectorFile


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """What `lab export` is given."""

    RESUMES: ClassVar[bool] = False
    vector: Path
    """File of the vector, in any of the formats."""
    format: str = "gguf"
    """safetensors: this lab's own file; gguf: llama.cpp, repeng, EasySteer; vllm-lens: JSON; layer-table: one tensor
    for programs whose own files are pickles; baked: a checkpoint with the vector in its biases, which plain
    transformers and vLLM serve unchanged; adapter: a PEFT adapter."""
    out: Path
    """File, or for baked and adapter the directory, to write."""
    model: str | None = None
    """The model that the vector was fitted on, as in `lab sample`; needed for baked and adapter, and where the file
    does not say it. With it, the vector is checked to fit."""
    dose: float = 1.0
    """Strength, which is written into the numbers."""
    study: Path | None = None
    """A study whose ladder holds the vector's measured effect, for the card."""
    arms: tuple[str, ...] = ("fitted-first-token", "fitted-greedy")
    """Arms of that study that used the vector."""
    card: Path | None = None
    """Markdown file of the card; OUT with .md appended if not given."""
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME", help_behavior_hint="")] = None
    """Repository of the Hugging Face hub that also gets the export, and its card as README.md; nothing is uploaded if
    not given. It is made, private, where it is not there; one that is there keeps its visibility. Needs a token
    (`hf auth login`, or HF_TOKEN)."""
    device: Device = "cpu"
    dtype: Dtype = "auto"

    def run(self, terminal: Terminal) -> None:
        """Exports the vector, writes its card, and says where both are; pushes them to the hub where that is asked for.

        Raises VectorError for what cannot be written, and StorageError, before anything is written, without a token.
        """
        from elicitation.cli.sample import opened
        from lab.records.tables import write_text
        from steering.export.export import FORMATS, export, import_vector
        from steering.export.publish import CARD, hub_repository, model_card, push, pushed_files
        from steering.export.vector_file import VectorFile, facts_of

        if self.format not in FORMATS:
            near = meant(self.format, FORMATS)
            raise VectorError(f"no format {self.format!r}{near}: want one of {', '.join(FORMATS)}")
        repository = None if self.push is None else hub_repository(self.push)
        model = None if self.model is None else opened(self.model, self.device, self.dtype)
        form, measured = FORMATS[self.format].for_model(model), self.measured_effect()
        file = import_vector(self.vector, None if model is None else facts_of(model))
        origin = self.origin(file, model)
        if self.out.exists():
            raise StorageError(f"{self.out} exists: choose another --out, or delete it")
        export(file.vector, form, self.out, origin, dose=self.dose)
        card = self.card or self.out.with_name(f"{self.out.name}.md")
        exported = file.vector if self.dose == 1 else self.dose * file.vector
        described = VectorFile(vector=exported, origin=origin)
        write_text(card, model_card(self.vector.stem, described, {self.out: form}, measured))
        terminal.say(f"{self.format}: {self.out.resolve()}")
        terminal.say(f"card: {card.resolve()}")
        if repository is not None:
            # There, a directory goes by the repository's name, and a file by its own.
            place = Path(repository.name if self.out.is_dir() else self.out.name)
            files = pushed_files(self.out)
            told = ", ".join(f"{name} ({path.stat().st_size} bytes)" for name, path in files.items())
            terminal.say(f"to {repository.name}: {told}, and the card as {CARD}")
            hub_card = model_card(self.vector.stem, described, {place: form}, measured)
            terminal.say(f"pushed: {push(self.out, hub_card, repository)}")

    def origin(self, file: "VectorFile", model: "Model | None") -> "Origin":
        """Where the vector comes from: as its file says, and else this import, with the model that the user names."""
        from lab.records.provenance import file_digest, provenance
        from steering.export.vector_file import Origin, facts_of

        fitted_on = None if model is None else facts_of(model)
        if file.origin is not None:
            return file.origin if file.origin.fitted_on is not None else replace(file.origin, fitted_on=fitted_on)
        parents = {"vector": file_digest(self.vector)}
        return Origin(
            made_by=provenance("import", {}, parents, device="cpu", dtype="float32", seed=0), fitted_on=fitted_on
        )

    def measured_effect(self) -> pl.DataFrame | None:
        """Rows of the study's `LADDER` of the arms that used the vector and of their controls; None without a study."""
        from elicitation.pages.study.tables import LADDER
        from lab.records.tables import read_table

        if self.study is None:
            return None
        if not (file := self.study / "tables" / "ladder.parquet").exists():
            raise StorageError(f"{self.study} holds no ladder: want the --out of a study that has finished")
        ladder = read_table(file, LADDER)
        rows = ladder.filter(pl.col("arm").is_in(self.arms) | pl.col("control_of").is_in(self.arms))
        if rows.is_empty():
            arms = ", ".join(ladder["arm"].unique(maintain_order=True))
            raise StorageError(
                f"{self.study} has no arm {' or '.join(self.arms)}: name with --arms those that used the vector, of "
                f"{arms}"
            )
        return rows


COMMAND = ExportCommand
