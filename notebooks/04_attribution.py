# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 Attribution
#
# `zero-rl` opens almost every answer with `T`, a worked chain; `zero-base` often with `A`, a guess. Which features push
# towards `T`? Attribution says what each feature adds to the log-odds of `T` against `A`.

# %%
import polars as pl

import elicitation as el
from probes.capture.site import AllTokens

el.quiet()

# %% [markdown]
# Features first: a small SAE of the base model's stream behind the last block, as in notebook 03, here of prompts and
# answers.

# %%
pair = el.pair("zero-base", "zero-rl")
training = el.task("chain", n=200, held_out=False)
traces = el.sample(pair.tuned, training, n=2)
store = el.store(pair.base, traces, "blocks.3.hook_resid_post", positions=AllTokens())
sae = el.train_sae(store, architecture="topk:16", d_sae=256, n_tokens=120_000, batch_size=512)

# %% [markdown]
# The question is asked at the prompts of problems that the SAE has not seen. *Ablation* takes one feature at a time out
# of the stream, at each token, and runs the blocks above: it is exact. Effects are summed over the tokens of a prompt
# and averaged over prompts, with 95 % intervals over problems.

# %%
task = el.task("chain", n=60)
exact = el.attribute(pair.tuned, sae, task, toward="T", against="A", method="ablation")
exact.head(8)

# %% [markdown]
# Two cheaper ways to the same number. *Gradient* is the first-order guess, and *integrated* gradients follow the path
# from no feature to all, so they also count what features do only together.

# %%
cheap = [el.attribute(pair.tuned, sae, task, toward="T", against="A", method=m) for m in ("integrated", "gradient")]
top = exact.head(8).select("feature").join(pl.concat([exact, *cheap]), on="feature", maintain_order="left_right")
labels = {"effect": "effect on T against A (nats of log-odds)"}
el.chart(top, x="feature", y="effect", color="method", title="What pushes towards opening with T", labels=labels)

# %% [markdown]
# Do the cheap methods rank all features as the exact one does? Every dot is a feature; on a rising line they agree.

# %%
pairs = pl.concat(cheap).join(exact.select("feature", pl.col("effect").alias("exact")), on="feature")
pairs = pairs.select("exact", "effect", "method")
labels = {"exact": "effect by ablation (nats)", "effect": "effect by the cheap method (nats)"}
el.chart(pairs, x="exact", y="effect", color="method", kind="dots", title="Cheap against exact", labels=labels)

# %% [markdown]
# Does it matter? `el.top_features` keeps those whose interval lies above 0. They are taken out of `zero-rl` as it reads
# the prompts, beside as many random features that are as often active at a prompt's last token, in five draws.

# %%
strongest = el.top_features(pair.tuned, sae, task, toward="T", against="A", n=8)
draws = el.matched_features(strongest, n_draws=5)
sets = {"none": (), "strongest": strongest.top} | {f"draw {number}": draw for number, draw in enumerate(draws, 1)}
rates = [
    el.next_token(
        pair.tuned, task, ["T"], edits=[el.ClampFeature(sae, feature, 0.0) for feature in features]
    ).with_columns(pl.lit(name).alias("taken out"))
    for name, features in sets.items()
]

# %% [markdown]
# `zero-rl` hardly misses them: mind the axis.

# %%
labels = {"value": "probability of T, mean over prompts"}
el.chart(
    pl.concat(rates), x="taken out", kind="dots", title="How probable is an answer that opens with T?", labels=labels
)

# %% [markdown]
# Where the strongest features are active in the prompts.

# %%
el.token_strip(pair.tuned, sae, task.problems[:6], strongest.top[:5])

# %% [markdown]
# ## Try next
#
# - Ask `pair.base` in the place of `pair.tuned`: the same features push, less.
# - `probes.attribution.contrast.answer_contrasts` asks about the answer itself, at the token where a trace states it.
# - `lab attribute` does the same in shards, on many texts.
