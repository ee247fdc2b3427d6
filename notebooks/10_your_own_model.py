# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 Your own model
#
# The same path with a model and a task of your own: two directories of transformers checkpoints, and a JSONL file in
# the shape of GSM8K. Here both are made on the spot, tiny, so that nothing has to be fetched.

# %%
import json
import tempfile
import warnings
from pathlib import Path

import datasets
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

# %% [markdown]
# Bars and logs of the trainer are switched off, and so is a warning of peft 0.21 about transformers 5.23.

# %%
logging.disable_progress_bar()
logging.set_verbosity_error()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(70)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}
work, CPU = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% [markdown]
# **The task**: five lines, a question and a worked answer that ends with `#### 42`. Where a study needs two sides, a
# hash of each question says whether it is held out.

# %%
pairs = [
    ("Ann has 3 apples and buys 4. How many?", "3 + 4 = 7. #### 7"),
    ("Bob had 9 eggs and broke 5. How many?", "9 - 5 = 4. #### 4"),
    ("Two cars have 4 wheels each. How many?", "2 * 4 = 8. #### 8"),
    ("Half of 12 birds flew off. How many stay?", "12 / 2 = 6. #### 6"),
    ("Three boxes hold 3 pens each. How many?", "3 * 3 = 9. #### 9"),
]
lines = [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
file = work / "mine.jsonl"
_ = file.write_text("\n".join(lines), encoding="utf-8")
# %%
from lab.tasks.math_answer import verify
from lab.tasks.question_rows import JsonlTask

problems = JsonlTask(path=file, suffix=" ").rows()
pl.DataFrame([{"prompt": problem.prompt, "answer": problem.answer} for problem in problems])

# %% [markdown]
# **The pair**: a random two-block Llama that reads bytes, and the same after it learned these five answers by heart.
# That is no experiment, but there is something to see.

# %%
import copy

from lab.models.tiny import tiny_model
from lab.post_training.supervised import Document, SupervisedRun, train_on_documents

made = tiny_model("llama", n_layers=2, d_model=64)
end = made.tokenizer.eos_token
answers = [f"So it is \\boxed{{{problem.answer}}}{end}" for problem in problems]
training_pairs = [
    Document(prompt=problem.prompt, completion=text) for problem, text in zip(problems, answers, strict=True)
]
schedule = SupervisedRun(n_steps=60, batch_size=5, learning_rate=5e-3, warmup_steps=5, n_parts=1)
taught = copy.deepcopy(made.network).requires_grad_(True).train()
train_on_documents(taught, made.tokenizer, training_pairs * 60, schedule, seed=0, device=CPU, work=work / "training")

# %%
for name, network in (("my-base", made.network), ("my-tuned", taught)):
    network.save_pretrained(work / name)
    made.tokenizer.save_pretrained(work / name)
pl.DataFrame([{"directory": "my-tuned", "file": path.name} for path in sorted((work / "my-tuned").iterdir())])

# %% [markdown]
# **Load**, as any checkpoint: safetensors only, no code of a repository is run. A model family needs an *anatomy*: the
# paths of its embedding, blocks, final norm and unembedding.

# %%
from lab.models.load import load
from lab.models.pair import ModelPair
from lab.models.source import model_source

base, tuned = (
    load(model_source(str(work / name)), device=CPU, dtype=torch.float32) for name in ("my-base", "my-tuned")
)
pair = ModelPair(base=base, tuned=tuned)
models = {"my-base": base, "my-tuned": tuned}
parts = {"embed": base.anatomy.embed, "blocks": base.anatomy.blocks[0], "final_norm": base.anatomy.final_norm}
parts |= {"unembed": base.anatomy.unembed}
pl.DataFrame([{"part": name, "module": type(module).__name__} for name, module in parts.items()])

# %% [markdown]
# These families are known. Another one is refused with a line that says so; it needs one `Layout` in
# `lab/models/anatomy.py`.

# %%
from transformers import OPTConfig, OPTForCausalLM

from lab.models.anatomy import LAYOUTS, find_anatomy
from lab.records.errors import ModelError

print("known:", ", ".join(LAYOUTS))
stranger = OPTForCausalLM(
    OPTConfig(hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2)
)
try:
    find_anatomy(stranger)
except ModelError as error:
    print("refused:", error)

# %% [markdown]
# **Sample and verify.** The verifier reads the last `\boxed{}`, or what stands behind `####`, and compares numbers.

# %%
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample

decoding = Decoding(max_new_tokens=24)
written = {
    name: sample(model, problems, 8, decoding, seed=0) for name, model in (("my-base", base), ("my-tuned", tuned))
}
verdicts = {
    name: [verify(problems[i // 8], trace.text).answer_correct for i, trace in enumerate(traces)]
    for name, traces in written.items()
}
pl.DataFrame(
    {"prompt": [problem.prompt for problem in problems], "my-tuned": [t.text for t in written["my-tuned"][::8]]}
)

# %% [markdown]
# Accuracy with its interval. Five problems say little, and the interval says so.

# %%
import numpy as np

from elicitation.widgets.dose_slider import error_bars
from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.records.seeds import numpy_generator

weights = resamples(len(problems), 1000, numpy_generator(0, "bootstrap"))
table = pl.DataFrame([accuracy(np.array(found).reshape(-1, 8), weights) for found in verdicts.values()])
figure = go.Figure(go.Bar(x=list(verdicts), y=table["value"], error_y=error_bars(table), marker_color="#0066a8"))
figure.update_layout(height=360, title="Accuracy on five problems")
figure.update_xaxes(title="model")
figure.update_yaxes(title="samples that are right (share)", range=[0, 1])

# %% [markdown]
# **Capture**: the residual stream of both models at the same site, as they read the first prompt.

# %%
from lab.sampling.decoder import left_padded
from probes.capture.capture import capture
from probes.capture.site import Site

site = Site(1, "resid_post")
read = left_padded(base, [base.tokenizer(problems[0].prompt).input_ids])
with torch.no_grad():
    streams = {name: capture(model, read.tokens, read.mask, [site])[site][0] for name, model in models.items()}

# %%
figure = go.Figure()
for (name, stream), ink in zip(streams.items(), ("#23272e", "#d55e00"), strict=True):
    figure.add_scatter(y=stream.norm(dim=-1).tolist(), name=name, mode="lines+markers", line_color=ink)
letters = list(problems[0].prompt)
figure.update_layout(height=360, title="Length of the residual stream, token by token")
figure.update_xaxes(title="token of the prompt", tickvals=list(range(len(letters))), ticktext=letters, tickangle=0)
figure.update_yaxes(title="L2 norm at resid_post of block 1", rangemode="tozero")

# %% [markdown]
# **A vector**: fitted so that the base opens its answer as the tuned model does, then added at several doses.

# %%
from lab.metrics.bootstrap import mean_interval
from lab.records.seeds import torch_generator
from steering.edit import Add, apply
from steering.fits.examples import Disagreements
from steering.fits.gradient import GradientFit, fit_gradient

prompts = left_padded(base, [base.tokenizer(problem.prompt).input_ids for problem in problems])
first = torch.full((len(problems),), base.tokenizer("S").input_ids[0])
examples = Disagreements(prompts.tokens, prompts.mask, first)
vector = fit_gradient(
    base, site, examples, GradientFit(n_steps=40), torch_generator(0, "fit"), description="open with S"
)

# %%
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
rows = []
for dose in DOSES:
    with torch.no_grad(), apply(base, Add(vector, dose)):
        logits = base.network(prompts.tokens, attention_mask=prompts.mask.long()).logits[:, -1]
    rows.append(mean_interval(logits.softmax(dim=-1)[:, first[0]].double().numpy(), weights))
table = pl.DataFrame(rows)
figure = go.Figure(go.Scatter(x=DOSES, y=table["value"], error_y=error_bars(table), line_color="#0066a8"))
figure.update_layout(height=360, title="The base model opens as the tuned one does")
figure.update_xaxes(title="dose (multiples of the vector)")
figure.update_yaxes(title="probability of the tuned model's first token", range=[0, 1])

# %% [markdown]
# ## Try next
#
# - Your directories and your file: `lab study --pair BASE TUNED --task FILE.jsonl --out runs/mine`.
# - `BASE` and `TUNED` may be LoRA adapters or GGUF files too.
# - For a new family, add its `Layout` and run the tests of `tests/lab/models`.
