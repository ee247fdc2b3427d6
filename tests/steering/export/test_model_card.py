"""Cards: every fact is there, every command can be pasted, and no text from outside acts as Markdown or HTML."""

import math
import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.pages.study.tables import LADDER
from lab.models.tiny import tiny_model
from lab.records.errors import StorageError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.biases import Adapter, BakedBias
from steering.export.gguf import Gguf
from steering.export.publish import model_card
from steering.export.tensors import LayerTable, Safetensors
from steering.export.vector_file import ModelFacts, Origin, VectorFile
from steering.export.vllm_lens import VllmLens
from steering.vector import SteeringVector

FACTS = ModelFacts(name="zero-base", digest="ab12", tokenizer_digest="cd34", family="llama", d_model=4, n_layers=3)
MADE_BY = provenance("vectors", {"steps": 3}, {"disagreements": "ef56"}, device="cpu", dtype="float32", seed=7)
FENCED = re.compile(r"^(`{3,})(\w+)\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)


def file_of(*, description="by hand", facts=FACTS, made_by=MADE_BY):
    vector = SteeringVector(
        {Site(1): torch.tensor([3.0, 0, 4, 0]), Site(2): torch.ones(4)}, {Site(1): 50.0, Site(2): math.nan}, description
    )
    return VectorFile(vector=vector, origin=Origin(made_by=made_by, fitted_on=facts, measured_dose=2.0))


def exported(folder=Path("out")):
    model = tiny_model("llama")
    forms = (Safetensors(), Gguf(), VllmLens(), LayerTable(), BakedBias(model), Adapter(model))
    return {folder / type(form).__name__.lower(): form for form in forms}


def ladder(**changes):
    row = dict.fromkeys(LADDER.dtypes) | {
        "arm": "fitted-always", "label": "+ fitted vector", "kind": "rung", "order": 3, "measure": "strict",
        "accuracy": 0.412, "low": 0.38, "high": 0.441, "gain": 0.1, "gain_low": 0.05, "gain_high": 0.15,
        "over_control": math.nan, "over_control_low": math.nan, "over_control_high": math.nan,
        "n_problems": 200, "n_samples": 16,
    }  # fmt: skip
    return LADDER.frame([row | changes])


def test_the_card_says_what_the_vector_is():
    card = model_card("opening", file_of(), {})
    assert card.startswith("# opening\n")
    assert "- Model: zero-base, family llama, 3 layers" in card
    assert "- Digest of the model: ab12; of its tokenizer: cd34" in card
    assert "- How it was fitted: by hand" in card
    # At dose 2: |2| * 5 / 50.
    assert "| Site | Norm | Mean norm of the stream | Relative dose at 2 |" in card
    assert "| `blocks.1.hook_resid_post` | 5 | 50 | 0.2 |" in card
    assert "| `blocks.2.hook_resid_post` | 2 | unknown | unknown |" in card
    assert f"commit {MADE_BY.commit}" in card
    assert "- From: disagreements ef56" in card
    assert "seed 7" in card


def test_a_vector_of_another_program_has_a_card_too():
    card = model_card("x", VectorFile(vector=file_of().vector, origin=None), exported())
    assert "- Model: unknown" in card
    assert "Provenance" not in card
    assert 'model_source("MODEL")' in card


def test_measured_effects_come_with_their_intervals():
    card = model_card("x", file_of(), {}, ladder())
    assert "| + fitted vector | strict | 41.2 [38.0, 44.1] | 10.0 [5.0, 15.0] | not defined | 200 x 16 |" in card
    assert "Measured effect" not in model_card("x", file_of(), {})
    with pytest.raises(StorageError, match="not a 'ladder' table"):
        model_card("x", file_of(), {}, pl.DataFrame({"accuracy": [0.5]}))


def test_python_compiles_and_shell_commands_hold_the_path_as_one_word():
    folder = Path('it\'s "here" $(rm -rf ~)')
    card = model_card("x", file_of(), exported(folder))
    blocks = FENCED.findall(card)
    languages = [language for _, language, _ in blocks]
    assert languages.count("sh") == 2
    for _, language, code in blocks:
        if language == "python":
            compile(code, "card", "exec")
        if language == "sh":
            words = shlex.split(code, comments=True)
            assert any(word.startswith(f"{folder}/") for word in words)
    assert "vllm serve" in card


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[x](javascript:1)", "a\n# b", "a|b", "`c`", "*d*"])
def test_texts_from_outside_have_no_effect(name):
    facts = ModelFacts(name=name, digest=name, tokenizer_digest=name, family=name, d_model=4, n_layers=3)
    card = model_card(name, file_of(description=name, facts=facts), exported(Path(name)), ladder(label=name))
    prose = FENCED.sub("", card)
    assert "<" not in prose
    assert not re.search(r"(?<!\\)\[x", prose)
    assert not re.search(r"(?<!\\)`c", prose)
    assert not re.search(r"(?<!\\)\*d", prose)
    assert prose.count("\n# ") == 0
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5, 7}


@settings(max_examples=30)
@given(name=st.text(alphabet="`~\n\r\u2028a<", max_size=12))
def test_nothing_ends_a_code_block_from_inside(name):
    card = model_card(name, file_of(), {Path(f"o{name}"): Gguf(), Path(f"p{name}"): Safetensors()})
    assert [language for _, language, _ in FENCED.findall(card)] == [
        "sh",
        "python",
        "python",
        "python",
        "python",
        "json",
    ]
