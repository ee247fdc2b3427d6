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
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(60)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}

# %% [markdown]
# 80 problems, 16 samples each, by the base model, the model reinforced from it, and one that was fine-tuned to answer
# first and write its chain after.

# %%
from lab.models.load import load
from lab.models.source import model_source
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.tasks.source import open_task, task_source

task = open_task(task_source("chain"), n_problems=80, seed=0)
written = {}
for name in ("zero-base", "zero-sft", "zero-rl"):
    model = load(model_source(name), device=torch.device("cpu"), dtype=torch.float32)
    written[name] = sample(model, task.problems, 16, Decoding(), seed=0, batch_size=1024)

# %% [markdown]
# Traces and verdicts are tables with a declared schema. `reason` names the first fault found; here is one trace of the
# base model for each of the first few reasons.

# %%
from lab.sampling.trace import trace_table, verdict_table

traces = pl.concat([trace_table(name, found) for name, found in written.items()])
verdicts = verdict_table(traces, task.problems, task.verify)
judged = traces.select("arm", "text", "stop").with_columns(verdicts["strict"], verdicts["reason"])
judged.filter(arm="zero-base").unique("reason", keep="first", maintain_order=True).head(7)

# %% [markdown]
# Each token has its log-probability under the model that wrote it, in nats. The drops are where the model chose between
# ways to go on.

# %%
trace = written["zero-base"][next(i for i, one in enumerate(written["zero-base"]) if len(one.tokens) > 20)]
letters = [model.tokenizer.decode([token]) for token in trace.tokens]
figure = go.Figure(go.Bar(x=list(range(len(letters))), y=trace.logprobs, marker_color="#2f9ee0"))
figure.update_layout(height=340, title="One trace of zero-base, token by token")
figure.update_xaxes(title="token", tickvals=list(range(len(letters))), ticktext=letters, tickangle=0)
figure.update_yaxes(title="log-probability (nats)")

# %% [markdown]
# **pass@k** is the chance that at least one of k samples is right. The unbiased estimate from n ≥ k samples is
# 1 - C(n - c, k) / C(n, k), with c of the n right; here right means strictly right.

# %%
from lab.metrics.accuracy import pass_at_k_curve
from lab.metrics.bootstrap import resamples
from lab.records.seeds import numpy_generator

KS = (1, 2, 4, 8, 16)
weights = resamples(len(task.problems), 1000, numpy_generator(0, "bootstrap"))
accepted = {name: verdicts.filter(arm=name)["strict"].to_numpy().reshape(len(task.problems), -1) for name in written}
curves = {name: pass_at_k_curve(found, KS, weights) for name, found in accepted.items()}

# %% [markdown]
# With more tries the base solves what `zero-rl` solves at once; a chain behind the answer helps nobody. Bands are 95 %
# intervals over problems.

# %%
from elicitation.report.kit.palette import BASE, RANKED, TUNED, faded

INKS = dict(zip(written, (BASE, RANKED[1], TUNED), strict=True))


def banded(figure: go.Figure, name: str, x: list[float], table: pl.DataFrame) -> None:
    around = [*table["high"], *reversed(table["low"].to_list())]
    figure.add_scatter(
        x=[*x, *reversed(x)], y=around, mode="none", fill="toself", fillcolor=faded(INKS[name]), showlegend=False
    )
    figure.add_scatter(x=x, y=table["value"], name=name, mode="lines+markers", line_color=INKS[name])


# %%
figure = go.Figure()
for name, curve in curves.items():
    banded(figure, name, list(KS), pl.DataFrame([point.interval for point in curve]))
figure.update_layout(height=400, title="pass@k, strict")
figure.update_xaxes(title="tries, k", type="log", tickvals=KS, ticktext=[str(k) for k in KS])
figure.update_yaxes(title="problems solved (share)", range=[0, 1.02])

# %% [markdown]
# **Cover@τ** asks the opposite: which share of problems is solved in at least a fraction τ of samples. It tells
# a model that is reliable from one that is lucky.

# %%
from lab.metrics.accuracy import cover_curve, problem_accuracies

TAUS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
figure = go.Figure()
for name, found in accepted.items():
    curve = cover_curve(problem_accuracies(found), TAUS, weights)
    banded(figure, name, list(TAUS), pl.DataFrame([point.interval for point in curve]))
figure.update_layout(height=400, title="Cover@τ, strict")
figure.update_xaxes(title="reliability asked for, τ (share of samples)")
figure.update_yaxes(title="problems solved so often (share)", range=[0, 1.02])

# %% [markdown]
# ## Try next
#
# - Judge by `answer_correct` in the place of `strict`: a digit is guessed one time in ten, and pass@k rises for free.
# - Draw 256 samples: does the base reach every problem?
# - `lab sample --model zero-base --out runs/traces.parquet` writes the same tables to disk.
