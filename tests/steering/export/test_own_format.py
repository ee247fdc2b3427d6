"""A format of the user's own: one class that writes and says how it is used, and one entry to be read back."""

from dataclasses import dataclass, is_dataclass
from pathlib import Path

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export import export as exporting
from steering.export.export import FORMATS, export, import_vector
from steering.export.publish import model_card
from steering.export.vector_file import Format, ModelFacts, Origin, VectorFile, fenced, quoted, section, without_header
from steering.vector import SteeringVector

VECTOR = SteeringVector({Site(1): torch.tensor([1.0, -2.5])}, {Site(1): 2.0}, "by hand")
ORIGIN = Origin(made_by=provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7))
FACTS = ModelFacts(name="toy", digest="0", tokenizer_digest="1", family="qwen2", d_model=2, n_layers=8)
MAGIC = "numbers of block"


@dataclass(frozen=True, slots=True)
class Numbers(Format):
    """A line of text for each site."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        rows = (f"{MAGIC} {site.layer}: {row.tolist()}" for site, row in vector.directions.items())
        path.write_text("\n".join(rows))

    def use(self, path: Path, model: str) -> str:
        return section("A pocket calculator", "sh", f"# for {model}", f"cat {quoted(path)}")

    @classmethod
    def read(cls, path: Path) -> VectorFile | None:
        text = path.read_text(errors="replace")
        if not text.startswith(MAGIC):
            return None
        rows = dict(line.removeprefix(MAGIC).split(": ") for line in text.splitlines())
        return without_header({Site(int(layer)): torch.tensor(eval(row)) for layer, row in rows.items()}, "numbers")


@dataclass(frozen=True, slots=True)
class Note(Format):
    """Needs nothing but the two methods; nobody reads it back."""

    def write(self, path: Path, vector: SteeringVector, origin: Origin) -> None:
        path.write_text(vector.description)

    def use(self, path: Path, model: str) -> str:
        return "### Reading"


def test_a_format_from_outside_is_written_at_a_dose_and_has_its_section_in_the_card(tmp_path):
    export(VECTOR, Numbers(), tmp_path / "x", ORIGIN, dose=2.0)
    assert (tmp_path / "x").read_text() == f"{MAGIC} 1: [2.0, -5.0]"
    card = model_card("x", VectorFile(vector=VECTOR, origin=ORIGIN), {tmp_path / "x": Numbers(), Path("y"): Note()})
    command = f"cat {quoted(tmp_path / 'x')}"
    assert f"### A pocket calculator\n\n{fenced('sh', '# for MODEL', command)}" in card
    assert "\n\n### Reading\n\n" in card


def test_a_listed_format_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "FORMATS", {"numbers": Numbers, **FORMATS})
    export(VECTOR, Numbers(), tmp_path / "x", ORIGIN)
    assert import_vector(tmp_path / "x").vector == VECTOR
    for name in ("gguf", "vllm-lens", "safetensors"):
        form = FORMATS[name].for_model(None)
        export(VECTOR, form, tmp_path / name, Origin(made_by=ORIGIN.made_by, fitted_on=FACTS))
        assert import_vector(tmp_path / name).vector == VECTOR


def test_what_no_format_knows_holds_no_vector(tmp_path):
    export(VECTOR, Note(), tmp_path / "x", ORIGIN)
    with pytest.raises(VectorError, match="holds no vector"):
        import_vector(tmp_path / "x")


@pytest.mark.parametrize("name", FORMATS)
def test_every_listed_format_is_a_frozen_value_made_for_a_model_or_for_any(name):
    model = tiny_model()
    kind = FORMATS[name]
    assert Format in kind.mro()
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert isinstance(kind.for_model(model), kind)
    if name in ("baked", "adapter"):
        with pytest.raises(VectorError, match="is written for one model: name it with --model"):
            kind.for_model(None)
    else:
        assert kind.for_model(None) == kind.for_model(model) == kind()
