"""The README's worked example runs as it stands."""

import re
from pathlib import Path

import torch

from lab.models.load import load
from lab.models.source import model_source
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.tensors import save_vector
from steering.vector import SteeringVector

README = Path(__file__).parents[1] / "README.md"


def test_the_worked_example_runs_where_the_demo_left_its_vector(tmp_path, monkeypatch, capsys):
    base = load(model_source("zero-base"), device=torch.device("cpu"), dtype=torch.float32)
    vector = SteeringVector({Site(2): torch.ones(base.anatomy.d_model)}, {Site(2): 1.0}, "test")
    made_by = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)
    save_vector(tmp_path / "runs/demo/vectors/first_token.safetensors", vector, made_by)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr()
    assert printed.err == ""
    first, second = printed.out.splitlines()
    assert re.fullmatch(r"\d+% of samples are right by a valid chain", first)
    assert second
