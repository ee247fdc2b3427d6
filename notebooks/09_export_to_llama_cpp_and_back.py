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
# a checkpoint must give the same probabilities as the vector itself.

# %%
import tempfile
from pathlib import Path

import gguf
import polars as pl

import elicitation as el

el.quiet()
work = Path(tempfile.mkdtemp())

# %% [markdown]
# A vector that makes `zero-base` open its answers with `T`, a worked chain.

# %%
base = el.load("zero-base")
training = el.task("chain", n=80, held_out=False)
vector = el.fit_vector(base, "blocks.2.hook_resid_post", training, toward="T", n_steps=40)

# %% [markdown]
# `el.export` tells the format by the end of the name: this lab's own file, llama.cpp's control vector (which repeng and
# EasySteer read too), and JSON for a vLLM that runs vllm-lens. A table with a row a block is for programs whose own
# files are pickles. Every file says what made the vector, and on which model.

# %%
files = [el.export(vector, work / name, base) for name in ("opening.safetensors", "opening.gguf", "opening.json")]
files.append(el.export(vector, work / "opening.table.safetensors", base, form="layer-table"))

# %% [markdown]
# `el.load_vector` knows each by its content, not by its name, and checks that it fits the model.

# %%
pl.DataFrame(
    {
        "file": [file.name for file in files],
        "bytes": [file.stat().st_size for file in files],
        "equal when read back": [el.load_vector(file, base) == vector for file in files],
    }
)

# %% [markdown]
# What llama.cpp's own Python package sees in its file: it calls the output of block N `direction.N`.

# %%
[(tensor.name, tensor.shape.tolist()) for tensor in gguf.GGUFReader(work / "opening.gguf").tensors]

# %% [markdown]
# With a language model, such as SmolLM2 as a GGUF file, such a file steers `llama-cli`:
#
# ```
# lab export --vector runs/study/vectors/first_token.safetensors --format gguf --out opening.gguf --study runs/study
# llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --control-vector opening.gguf -p "What is 17 + 25?"
# llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --control-vector-scaled opening.gguf:0.5 -p "What is 17 + 25?"
# ```
#
# A name without an end is a directory: a checkpoint with the vector in its biases, which plain transformers, vLLM and
# this lab serve unchanged.

# %%
baked = el.load(str(el.export(vector, work / "baked", base)))
baked

# %% [markdown]
# How probable is an answer that opens with `T`, on held-out prompts: plain, under the vector, under the vector that
# came back from GGUF, and in the baked checkpoint?

# %%
task = el.task("chain", n=60)
back = el.load_vector(work / "opening.gguf")
opening = {
    "zero-base": el.next_token(base, task, ["T"]),
    "vector, in PyTorch": el.next_token(base, task, ["T"], edits=vector),
    "vector, back from GGUF": el.next_token(base, task, ["T"], edits=back),
    "baked checkpoint": el.next_token(baked, task, ["T"]),
}
table = pl.concat([rate.select(pl.lit(name).alias("who writes"), pl.exclude("arm")) for name, rate in opening.items()])
table

# %%
labels = {"value": "probability of T, mean over 60 prompts"}
el.chart(table, x="who writes", title="How probable is an answer that opens with T?", labels=labels)

# %% [markdown]
# What a runtime cannot hold is refused with the reason: for llama.cpp, anything before the output of block 1.

# %%
too_low = el.mean_difference(base, "blocks.0.hook_resid_post", ["<1+2-3?T"], ["<1+2-3?A"])
try:
    el.export(too_low, work / "low.gguf", base)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Try next
#
# - Export at another strength: `el.export(vector, path, base, dose=0.5)`.
# - `form="adapter"` writes the vector as a PEFT adapter.
# - `steering.export.publish` writes the page that `lab export` puts beside a file.
