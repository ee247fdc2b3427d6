# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Capture and SAE features
#
# What does the base model compute while it reasons? Its residual stream is captured at one site, a sparse autoencoder
# (SAE) learns to write it as a few features, and the features are read token by token.

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
work = Path(tempfile.mkdtemp())

# %% [markdown]
# The texts to read: what `zero-rl` writes, which is chains for the most part. The model that reads them is `zero-base`.

# %%
from lab.models.load import load
from lab.models.source import model_source
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import trace_table
from lab.tasks.source import open_task, task_source

CPU = torch.device("cpu")
base, tuned = (load(model_source(name), device=CPU, dtype=torch.float32) for name in ("zero-base", "zero-rl"))
task = open_task(task_source("chain"), n_problems=150, seed=0, held_out=False)
traces = trace_table("zero-rl", sample(tuned, task.problems, 4, Decoding(), seed=0, batch_size=1024))

# %% [markdown]
# `resid_post` of block 2 is the stream behind that block. A *store* keeps it on disk with its plan, its texts and
# checksums.

# %%
from lab.records.provenance import provenance
from lab.tasks.problem import problem_table
from probes.capture.positions import CompletionTokens
from probes.capture.site import Site
from probes.capture.texts import texts
from probes.storage.fill import fill
from probes.storage.plan import plan

site = Site(2, "resid_post")
read = texts(base, traces, problem_table(task.problems))
planned = plan(base, read, (site,), CompletionTokens())
made_by = provenance("capture", planned, {"model": base.digest}, device="cpu", dtype=planned.weights, seed=0)
store = fill(base, read, planned, work / "store", made_by)
print(f"{store.n_rows} activations of width {store.plan.d_model} at {site}")

# %% [markdown]
# A TopK SAE of 256 features, 16 of them active at a time, by SAELens' trainer. A tenth of the problems is left out of
# training to judge it on.

# %%
from probes.sae.architecture import TopK
from probes.sae.grid import grid, judge, train_unit
from probes.sae.load import load_sae
from probes.sae.recipe import Training

recipe = Training(n_tokens=150_000, batch_size=512)
(unit,) = grid(store.path, [site], [TopK(16)], [256], recipe, work / "saes", device=CPU)
train_unit(unit)
sae = load_sae(unit.path, device=CPU)

# %% [markdown]
# *CE recovered* is how much of the model's next-token prediction survives when it reads its own stream through the SAE:
# 1 is all of it, 0 is a constant stream.

# %%
quality = judge(base, [unit], n_texts=60)
shown = ("explained_variance", "dead_share", "ce_recovered", "ce_recovered_low", "ce_recovered_high")
quality.select("d_sae", "l0", *(pl.col(name).round(3) for name in shown))

# %% [markdown]
# The task's grammar labels every token: a step's operands, its result, a check, the answer. One pass over the store
# then says what each feature does at each kind of token.

# %%
from lab.tasks.chain_verifier import CHAIN_STEPS
from probes.scores.label_activations import label_activations
from probes.scores.labels import step_labels
from probes.scores.sums import sums

labels = step_labels(read, base.tokenizer, task.problems, CHAIN_STEPS)
by_label = label_activations(sums(store, sae, labels))
best = by_label.sort("auroc", descending=True).group_by("label", maintain_order=True).first()
best.select("label", "feature", pl.col("auroc").round(3), pl.col("mean").round(2), "n_tokens")

# %% [markdown]
# Can a kind of token be told by one feature, by sixteen, or only by the whole stream? AUROC on held-out problems: 1 is
# always, 0.5 is not at all. Bars are 95 % intervals.

# %%
from probes.scores.label_probes import label_probes

probed = label_probes(store, sae, labels, seed=0, n_boot=300, max_tokens=4000)
probed = probed.with_columns(
    kind=pl.when(pl.col("probe") == "sparse")
    .then(pl.format("{} of the features", "n_features"))
    .otherwise(pl.col("probe").replace({"linear": "whole stream", "shuffled": "shuffled labels"}))
)

# %%
from elicitation.report.kit.palette import BASE, MUTED, RANKED
from elicitation.widgets.dose_slider import error_bars

kinds = ("1 of the features", "16 of the features", "whole stream", "shuffled labels")
figure = go.Figure()
for kind, ink in zip(kinds, (*RANKED[:2], BASE, MUTED), strict=True):
    found = probed.filter(kind=kind).unique("label", keep="first", maintain_order=True)
    mark = {"color": ink, "size": 9}
    bars = error_bars(found, "auroc")
    figure.add_scatter(x=found["label"], y=found["auroc"], error_y=bars, mode="markers", name=kind, marker=mark)
figure.update_layout(height=400, title="What tells the kinds of token apart", scattermode="group")
figure.update_xaxes(title="kind of token")
figure.update_yaxes(title="AUROC on held-out problems")

# %% [markdown]
# What a feature writes: the tokens that its row of `W_dec` raises most by the direct path to the logits.

# %%
from probes.scores.logit_effects import logit_effects

chosen = best["feature"].unique(maintain_order=True).to_list()[:5]
raised = logit_effects(base, sae, chosen, n_tokens=3).filter(side="up")
said = raised.group_by("feature", maintain_order=True).agg(pl.col("text").str.join("  ").alias("raises"))
said.join(
    best.group_by("feature").agg(pl.col("label").str.join(", ").alias("finds")), on="feature", maintain_order="left"
)

# %% [markdown]
# The same features on whole texts. Choose a feature and a text; point at a token, or move the slider, to read
# its activation. The activations are computed afresh, prompt included.

# %%
from elicitation.widgets.token_strip import ReadText, TokenStrip
from lab.sampling.decoder import left_padded
from probes.capture.capture import capture


def read_text(row: dict[str, list[int]]) -> ReadText:
    tokens = [*row["prompt"], *row["completion"]]
    padded = left_padded(base, [tokens])
    with torch.no_grad():
        active = sae.encode(capture(base, padded.tokens, padded.mask, [site])[site][0])
    words = tuple(base.tokenizer.decode([token]) for token in tokens)
    named = {f"{feature}: {label}": tuple(active[:, feature].tolist()) for feature, label in names.items()}
    return ReadText(name="".join(words), tokens=words, activations=named)


# %%
names = {feature: best.filter(feature=feature)["label"][0] for feature in chosen}
TokenStrip(texts=tuple(read_text(row) for row in read.gather_every(97).head(5).iter_rows(named=True)))

# %% [markdown]
# ## Try next
#
# - Train at `Site(3, "resid_post")`, the last block, and see how the features turn from places in a text to tokens that
#   come next.
# - Fill a second store with `zero-rl` as the reader; `probes.scores.differences` says which features tuning changed.
