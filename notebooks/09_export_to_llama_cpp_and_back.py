# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 Export to llama.cpp and back
#
# A vector that was found here can be used elsewhere. Each format is written, read back and compared; what is baked into
# a checkpoint must give the same logits as the vector itself.

# %%
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(60)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}
work, CPU = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% [markdown]
# A vector that makes `zero-base` open its answers with a worked chain, fitted as in notebook 05.

# %%
from lab.models.load import load
from lab.models.source import model_source
from lab.records.seeds import torch_generator
from lab.sampling.decoder import left_padded
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from steering.fits.examples import Disagreements
from steering.fits.gradient import GradientFit, fit_gradient

base = load(model_source("zero-base"), device=CPU, dtype=torch.float32)
training = open_task(task_source("chain"), n_problems=80, seed=0, held_out=False)
read = left_padded(base, [base.tokenizer(problem.prompt).input_ids for problem in training.problems])
wanted = torch.full((len(training.problems),), base.tokenizer.convert_tokens_to_ids("T"))
examples = Disagreements(read.tokens, read.mask, wanted)
vector = fit_gradient(
    base, Site(2, "resid_post"), examples, GradientFit(n_steps=40), torch_generator(0, "fit"), description="open with T"
)

# %% [markdown]
# `Origin` travels inside every file: what made the vector, and on which model.

# %%
from lab.records.provenance import provenance
from steering.export.vector_file import Origin, facts_of

made_by = provenance("notebook 09", {}, {"model": base.digest}, device="cpu", dtype="float32", seed=0)
origin = Origin(made_by=made_by, fitted_on=facts_of(base), measured_dose=1.0)

# %% [markdown]
# Four formats that hold a vector. `import_vector` knows each by its content, not by its name, and checks that it fits
# the model.

# %%
from steering.export.export import export, import_vector
from steering.export.gguf import Gguf
from steering.export.tensors import LayerTable, Safetensors
from steering.export.vllm_lens import VllmLens

formats = {
    "opening.safetensors": ("this lab", Safetensors()),
    "opening.gguf": ("llama.cpp, repeng, EasySteer", Gguf()),
    "opening.json": ("vLLM with vllm-lens", VllmLens()),
    "opening.table.safetensors": ("programs that want a row a block", LayerTable()),
}
rows = []
for name, (reader, form) in formats.items():
    export(vector, form, work / name, origin)
    back = import_vector(work / name, facts_of(base))
    same = back.vector == vector
    rows.append({"file": name, "for": reader, "bytes": (work / name).stat().st_size, "equal when read back": same})
pl.DataFrame(rows)

# %% [markdown]
# A checkpoint with the vector in its biases is a model like any other: plain transformers, vLLM and this lab serve it
# unchanged.

# %%
from steering.edit import Add, apply
from steering.export.baked_bias import BakedBias

export(vector, BakedBias(into=base), work / "baked", origin)
baked = load(model_source(str(work / "baked")), device=CPU, dtype=torch.float32)
task = open_task(task_source("chain"), n_problems=60, seed=0)
prompts = left_padded(base, [base.tokenizer(problem.prompt).input_ids for problem in task.problems])


def next_token(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model.network(prompts.tokens, attention_mask=prompts.mask.long()).logits[:, -1]


# %% [markdown]
# The next-token logits of held-out prompts: plain, under the vector, under the vector that came back from GGUF, and of
# the baked checkpoint.

# %%
logits = {"zero-base": next_token(base)}
with apply(base, Add(vector)):
    logits["vector, in PyTorch"] = next_token(base)
with apply(base, Add(import_vector(work / "opening.gguf").vector)):
    logits["vector, back from GGUF"] = next_token(base)
logits["baked checkpoint"] = next_token(baked)
steered = logits["vector, in PyTorch"]
for name, found in logits.items():
    print(f"{name:24s} largest difference from the vector in PyTorch: {(found - steered).abs().max():.1e}")

# %%
from elicitation.widgets.dose_slider import error_bars
from lab.metrics.bootstrap import mean_interval, resamples
from lab.records.seeds import numpy_generator

weights = resamples(len(task.problems), 1000, numpy_generator(0, "bootstrap"))
opening = {name: found.softmax(dim=-1)[:, wanted[0]].double().numpy() for name, found in logits.items()}
table = pl.DataFrame([mean_interval(chances, weights) for chances in opening.values()])
figure = go.Figure(go.Bar(x=list(logits), y=table["value"], error_y=error_bars(table), marker_color="#0066a8"))
figure.update_layout(height=380, title="How probable is an answer that opens with T?")
figure.update_xaxes(title="who writes")
figure.update_yaxes(title="probability of T, mean over 60 prompts", range=[0, 1])

# %% [markdown]
# llama.cpp cannot read the organisms' tokenizer, so here its own GGUF reader opens the vector. It calls the output of
# block N `direction.N`.

# %%
import ctypes
import importlib.util

package = importlib.util.find_spec("llama_cpp")
if package is None:
    print("llama-cpp-python is not installed: pip install 'elicitation-lab[llamacpp]' (compiled, some minutes)")
else:
    library = next((Path(package.origin).parent / "lib").glob("*ggml-base*"))
    ggml = ctypes.CDLL(str(library))
    ggml.gguf_init_from_file.restype = ggml.gguf_get_tensor_name.restype = ctypes.c_void_p
    ggml.gguf_get_n_tensors.restype = ctypes.c_int64


# %%
class Reading(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


if package is not None:
    opened = ctypes.c_void_p(ggml.gguf_init_from_file(str(work / "opening.gguf").encode(), Reading(True, None)))
    for number in range(ggml.gguf_get_n_tensors(opened)):
        name = ggml.gguf_get_tensor_name(opened, ctypes.c_int64(number))
        print("llama.cpp reads", ctypes.string_at(name).decode())
    ggml.gguf_free(opened)

# %% [markdown]
# With a language model, such as SmolLM2 as a GGUF file, the same vector file steers `llama-cli`:
#
# ```
# lab export --vector runs/study/vectors/first_token.safetensors --format gguf --out opening.gguf --study runs/study
# llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --control-vector opening.gguf -p "What is 17 + 25?"
# llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --control-vector-scaled opening.gguf:0.5 -p "What is 17 + 25?"
# ```
#
# What a runtime cannot hold is refused with the reason: for llama.cpp, anything before the output of block 1.

# %%
from lab.records.errors import VectorError
from steering.vector import SteeringVector

too_low = SteeringVector({Site(0): vector.directions[Site(2)]}, {Site(0): float("nan")}, "moved")
try:
    export(too_low, Gguf(), work / "low.gguf", origin)
except VectorError as error:
    print(error)

# %% [markdown]
# ## Try next
#
# - Export at another strength: `export(vector, Gguf(), path, origin, dose=0.5)`.
# - `steering.export.model_card` writes the page that `lab export` puts beside a file.
# - `Adapter(of=base)` writes the vector as a PEFT adapter.
