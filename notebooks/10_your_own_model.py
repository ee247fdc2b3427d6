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
import tempfile

import polars as pl

import elicitation as el
from lab.models.tiny import tiny_model
from lab.post_training.trainers import SupervisedRun

el.quiet()
work = tempfile.mkdtemp()

# %% [markdown]
# **The task**: lines with a question and a worked answer that ends with `#### 42`.

# %%
rows = [
    ("Ann has 3 apples and buys 4. How many?", "3 + 4 = 7. #### 7"),
    ("Bob had 9 eggs and broke 5. How many?", "9 - 5 = 4. #### 4"),
    ("Two cars have 4 wheels each. How many?", "2 * 4 = 8. #### 8"),
    ("Half of 12 birds flew off. How many stay?", "12 / 2 = 6. #### 6"),
    ("Three boxes hold 3 pens each. How many?", "3 * 3 = 9. #### 9"),
    ("Cy reads 2 books a week. How many in 3?", "2 * 3 = 6. #### 6"),
    ("Five of 11 lamps are lit. How many are not?", "11 - 5 = 6. #### 6"),
    ("A dog eats 6 bones, then 2. How many?", "6 + 2 = 8. #### 8"),
]
pl.DataFrame(rows, schema=["question", "answer"], orient="row").write_ndjson(f"{work}/mine.jsonl")

# %% [markdown]
# A hash of each question says whether it is held out; these are the four that are not. The prompt asks for the form
# that the verifier reads.

# %%
task = el.task(f"{work}/mine.jsonl", n=4, held_out=False)
[(problem.prompt, problem.answer) for problem in task.problems]

# %% [markdown]
# **The pair**: a random two-block Llama that reads bytes, and the same after it learned four of these answers by heart.
# That is no experiment, but there is something to see.

# %%
made = tiny_model("llama", n_layers=2, d_model=64)
worked = [(problem.prompt, f"So it is \\boxed{{{problem.answer}}}") for problem in task.problems]
tuned = el.finetune(
    made, worked, SupervisedRun(n_steps=60, batch_size=4, learning_rate=5e-3, warmup_steps=5, n_parts=1)
)

# %%
for name, model in (("my-base", made), ("my-tuned", tuned)):
    model.network.save_pretrained(f"{work}/{name}")
    model.tokenizer.save_pretrained(f"{work}/{name}")

# %% [markdown]
# **Load**, as any checkpoint: safetensors only, no code of a repository is run. The two must have the same shape and
# read the same tokens. What cannot be opened is refused in one line that says what to try.

# %%
pair = el.pair(f"{work}/my-base", f"{work}/my-tuned")
try:
    el.load("my-tuned")
except ValueError as error:
    print(error)

# %% [markdown]
# **Sample and verify.** The verifier reads the last `\boxed{}`, or what stands behind `####`, and compares numbers.

# %%
traces = el.sample(pair, task, n=8, decoding=el.Decoding(max_new_tokens=24))
traces.filter(arm=pair.tuned.name, sample_index=0).select("prompt", "text")

# %% [markdown]
# Accuracy with its interval. Four problems say little, and the interval says so.

# %%
accuracy = el.accuracy(el.judge(traces, task)).filter(measure="answer")
accuracy = accuracy.with_columns(arm=accuracy["arm"].str.split("/").list.last())
labels = {"arm": "model", "value": "samples that are right (share)"}
el.chart(accuracy, x="arm", title="Accuracy on four problems", labels=labels)

# %% [markdown]
# **Capture**: the residual stream of both models at the same site, as they read the same prompt.

# %%
site = "blocks.1.hook_resid_post"
prompt = "2 + 2 = "
norms = pl.concat(
    pl.DataFrame({"model": name, "token": range(8), "norm": el.capture(model, prompt, site)[site][0].norm(dim=-1)})
    for name, model in (("my-base", pair.base), ("my-tuned", pair.tuned))
)
labels = {"token": "token of the prompt", "norm": "L2 norm of the stream"}
el.chart(norms, x="token", y="norm", color="model", kind="line", title="Length of the residual stream", labels=labels)

# %% [markdown]
# **A vector**: fitted so that the base opens its answers as the tuned model does, with `S`, then added at several
# doses.

# %%
vector = el.fit_vector(pair.base, site, task, toward="S", n_steps=40)
doses = [0.0, 0.25, 0.5, 0.75, 1.0]
rates = [el.next_token(pair.base, task, ["S"], edits=el.Add(vector, dose)).with_columns(dose=dose) for dose in doses]

# %%
labels = {"dose": "dose (multiples of the vector)", "value": "probability of the tuned model's first token"}
title = "The base model opens as the tuned one does"
el.chart(pl.concat(rates), x="dose", kind="line", title=title, labels=labels)

# %% [markdown]
# ## Try next
#
# - Your directories and your file: `lab study --pair BASE TUNED --task FILE.jsonl --out runs/mine`, or from here
#   `el.run(el.Study(base=BASE, tuned=TUNED, task=FILE), "runs/mine")`.
# - `BASE` and `TUNED` may be LoRA adapters or GGUF files too.
# - A model family that the lab does not know needs one `Layout` in `lab/models/load.py`.
