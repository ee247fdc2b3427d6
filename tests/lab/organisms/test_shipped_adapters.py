"""The adapters that ship with the package are those of the catalogue, small, and of the model that they name."""

import json

import pytest

from lab.models.source import ADAPTERS, adapter_names
from lab.organisms.adapters import ADAPTED
from lab.records.provenance import canonical_json


@pytest.mark.parametrize("name", adapter_names())
def test_an_adapter_was_made_by_its_definition_and_is_at_most_twelve_megabytes(name):
    told = json.loads((ADAPTERS / name / "card.json").read_text(encoding="utf-8"))
    definition = json.loads(canonical_json(ADAPTED[name]))
    assert {key: told[key] for key in definition} == definition
    named = json.loads((ADAPTERS / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert (named["base_model_name_or_path"], named["r"]) == (ADAPTED[name].parent, ADAPTED[name].rank)
    assert sum(file.stat().st_size for file in (ADAPTERS / name).iterdir()) <= 12e6


@pytest.mark.parametrize("name", adapter_names())
def test_a_tuned_model_is_better_on_its_own_task_than_the_model_below_it(name):
    told = json.loads((ADAPTERS / name / "card.json").read_text(encoding="utf-8"))
    if told["kind"] is None:
        pytest.skip("it is the base of other pairs")
    task = told["exams"][0]["task"]
    rows = {row["model"]: row for row in told["measured"] if (row["task"], row["measure"]) == (task, "strict, sampled")}
    assert rows[told["parent"]]["high"] < rows[name]["low"]
