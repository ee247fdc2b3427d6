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
import polars as pl

import elicitation as el
from probes.sae.dictionary import quality
from probes.scores.contexts import logit_effects
from probes.scores.label_probes import label_probes

el.quiet()

# %% [markdown]
# The texts to read: what `zero-rl` writes, which is chains for the most part. The model that reads them is `zero-base`.

# %%
pair = el.pair("zero-base", "zero-rl")
task = el.task("chain", n=150, held_out=False)
traces = el.sample(pair.tuned, task, n=4)

# %% [markdown]
# `blocks.2.hook_resid_post` is the stream behind block 2, as TransformerLens writes it. `el.capture` gives the
# activations of some texts at once.

# %%
site = "blocks.2.hook_resid_post"
activations = el.capture(pair.base, "<6-0-4+8?", site)
activations[site].shape, activations.tokens[0]

# %% [markdown]
# To learn from, a *store* keeps the activations of many texts on disk, with its plan, its texts and checksums.

# %%
store = el.store(pair.base, traces, site)
print(f"{store.n_rows} activations of width {store.plan.d_model} at {site}")

# %% [markdown]
# A TopK SAE of 256 features, 16 of them active at a time, by SAELens' trainer. A tenth of the problems is left out of
# training to judge it on.

# %%
sae = el.train_sae(store, architecture="topk:16", d_sae=256, n_tokens=120_000, batch_size=512)

# %% [markdown]
# *CE recovered* is how much of the model's next-token prediction survives when it reads its own stream through the SAE:
# 1 is all of it, 0 is a constant stream.

# %%
judged = quality(pair.base, sae, store, n_texts=60)
judged.select(
    "d_sae", "l0", "explained_variance", "dead_share", "ce_recovered", "ce_recovered_low", "ce_recovered_high"
)

# %% [markdown]
# The task's grammar labels every token: a step's operands, its result, a check, the answer. One pass over the store
# then says what each feature does at each kind of token. AUROC is how well a feature alone finds them: 1 is always, 0.5
# is not at all. Here is the best feature for each kind.

# %%
labels = el.label_tokens(pair.base, store, task)
found = el.label_features(sae, store, labels)
best = found.sort("auroc", descending=True).unique("label", keep="first", maintain_order=True)
best.select("label", "feature", "auroc", "mean", "n_tokens")

# %% [markdown]
# That table chose among all features on the very tokens it reports. So the same is asked of held-out problems: can a
# kind of token be told by one feature, by sixteen, or only by the whole stream? Bars are 95 % intervals.

# %%
probed = label_probes(store, sae, labels, seed=0, n_boot=200, max_tokens=2000)
probed = probed.rename({"auroc": "value"}).filter((pl.col("probe") != "sparse") | pl.col("n_features").is_in([1, 16]))
probed = probed.with_columns(reads=pl.format("{}, {} numbers", "probe", "n_features"))
axes = {"label": "kind of token", "value": "AUROC on held-out problems"}
el.chart(probed, x="label", color="reads", kind="dots", title="What tells the kinds of token apart", labels=axes)

# %% [markdown]
# What a feature writes: the tokens that its row of `W_dec` raises most by the direct path to the logits.

# %%
chosen = best.unique("feature", keep="first", maintain_order=True).head(5)
raised = logit_effects(pair.base, sae, chosen["feature"].to_list(), n_tokens=3).filter(side="up")
raised = raised.group_by("feature", maintain_order=True).agg(pl.col("text").str.join("  ").alias("raises"))
raised.join(chosen.select("feature", pl.col("label").alias("finds")), on="feature", maintain_order="left")

# %% [markdown]
# The same features on whole texts. Choose a feature and a text; point at a token, or move the slider, to read
# its activation.

# %%
names = {feature: f"{feature}: {label}" for feature, label in chosen.select("feature", "label").iter_rows()}
el.token_strip(pair.base, sae, traces.gather_every(97).head(5), names)

# %% [markdown]
# ## Try next
#
# - Train at `blocks.3.hook_resid_post`, the last block, and see how the features turn from places in a text to tokens
#   that come next.
# - Fill a second store with `zero-rl` as the reader; `probes.scores.contexts` says which features tuning changed.
# - `el.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")` gets one of SAELens' releases.
