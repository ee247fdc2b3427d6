# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 Traces and pass@k
#
# A *trace* is one completion with all that was recorded while it was written. Many traces of each problem say how often
# a model succeeds, and whether it can at all.

# %%
import polars as pl

import elicitation as el

el.quiet()

# %% [markdown]
# 80 problems, 16 samples each, by the base model, the model reinforced from it, and one that was fine-tuned to answer
# first and write its chain after.

# %%
task = el.task("chain", n=80)
models = [el.load(name) for name in ("zero-base", "zero-sft", "zero-rl")]
traces = el.sample(models, task, n=16)
traces.select("arm", "prompt", "text", "stop").head(4)

# %% [markdown]
# `el.judge` gives a verdict for each, in the same order. `reason` names the first fault found; here is one trace of the
# base model for each of the first few reasons.

# %%
verdicts = el.judge(traces, task)
judged = traces.select("arm", "prompt", "text").with_columns(verdicts["strict"], verdicts["reason"])
judged.filter(arm="zero-base").unique("reason", keep="first", maintain_order=True).head(7)

# %% [markdown]
# Each token has its log-probability under the model that wrote it, in nats. The drops are where the model chose between
# ways to go on.

# %%
trace = traces.filter(pl.col("arm") == "zero-base", pl.col("tokens").list.len() > 20).head(1)
chances = trace.select("logprobs").explode("logprobs").with_row_index("token")
figure = el.chart(chances, x="token", y="logprobs", labels={"logprobs": "log-probability (nats)"})
figure.update_xaxes(tickvals=chances["token"], ticktext=models[0].tokenizer.convert_ids_to_tokens(trace["tokens"][0]))

# %% [markdown]
# **pass@k** is the chance that at least one of k samples is right. The unbiased estimate from n ≥ k samples is
# 1 - C(n - c, k) / C(n, k), with c of the n right; here right means strictly right.
#
# With more tries the base solves what `zero-rl` solves at once; a chain behind the answer helps nobody. Bands are 95 %
# intervals over problems.

# %%
curves = el.pass_at_k(verdicts, ks=[1, 2, 4, 8, 16])
labels = {"k": "tries, k", "value": "problems solved (share)"}
el.chart(curves, x="k", color="arm", kind="line", log_x=True, title="pass@k, strict", labels=labels)

# %% [markdown]
# **Cover@τ** asks the opposite: which share of problems is solved in at least a fraction τ of samples. It tells
# a model that is reliable from one that is lucky.

# %%
curves = el.cover(verdicts, taus=[0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
labels = {"tau": "reliability asked for, τ (share of samples)", "value": "problems solved so often (share)"}
el.chart(curves, x="tau", color="arm", kind="line", title="Cover@τ, strict", labels=labels)

# %% [markdown]
# ## Try next
#
# - Judge with `measure="answer"`: a digit is guessed one time in ten, and pass@k rises for free.
# - Draw 256 samples: does the base reach every problem?
# - `lab sample --model zero-base --out runs/traces.parquet` writes the same tables to disk.
