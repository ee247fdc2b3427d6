# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Hybrid and ladder
#
# A *hybrid* is a base model that is helped at some tokens: a router says when, an intervention says what. A *ladder* of
# such hybrids, each beside its control, shows how much help recovers how much of the tuned model's gain.

# %%
import polars as pl

import elicitation as el

el.quiet()

# %% [markdown]
# The pair, and a vector fitted on the disagreements at the first token of training problems, as in notebook 05.

# %%
pair = el.pair("zero-base", "zero-rl")
training = el.task("chain", n=80, held_out=False)
traces = el.sample(pair.tuned, training, n=2)
solved = traces.filter(el.judge(traces, training)["strict"])
first = el.disagreements(pair, solved).filter(position=0)
vector = el.fit_vector(pair.base, "blocks.2.hook_resid_post", first, n_steps=60)
randoms = [el.random_like(vector, seed=seed) for seed in range(64)]

# %% [markdown]
# Hybrids are values. `el.steer` adds the vector for one token; `Takeover` lets the tuned model write it. Each rung has
# a control that leaves out one thing: the direction, or the place.

# %%
steer, takeover = el.steer(vector), el.interventions.Takeover()
opening, disagreement, anywhere = el.routers.AtSteps((0,)), el.routers.Disagreement(), el.routers.AtRandom(0.05)
hybrids = {
    "vector, first token": el.Hybrid(opening, steer),
    "random vectors, first token": el.Hybrid(opening, el.steer(*randoms)),
    "vector, at disagreement": el.Hybrid(disagreement, steer),
    "vector, random tokens": el.Hybrid(anywhere, steer),
    "takeover, at disagreement": el.Hybrid(disagreement, takeover),
    "takeover, random tokens": el.Hybrid(anywhere, takeover),
}
names = list(hybrids)
controls = dict(zip(names[1::2], names[::2], strict=True))

# %% [markdown]
# All arms answer the same 60 problems with the same random numbers, so they are paired sample by sample.

# %%
task = el.task("chain", n=60)
traces = el.sample(pair, task, n=4, hybrids=hybrids)

# %% [markdown]
# Who wrote which token? The first answers of two hybrids to the same problem.

# %%
third = traces.filter(sample_index=0, problem_id=task.problems[2].id)
el.route_strip(pair.base, third.filter(arm="vector, first token"))

# %%
el.route_strip(pair.base, third.filter(arm="takeover, at disagreement"))

# %% [markdown]
# The ladder as a table: `share` is the part of the gain that a rung recovers, with its 95 % interval, and
# `over_control` what it has beyond its control. What crossed from the tuned model is counted in bits, as a code would:
# nothing for a vector at a fixed step, the gate for a vector at disagreement, the gate and the tokens for takeover.

# %%
ladder = el.ladder(pair, task, traces, hybrids, controls)
strict = ladder.filter(measure="strict")
strict.select("arm", "accuracy", "share", "share_low", "share_high", "over_control", "bits_per_token")

# %% [markdown]
# And as the figure of a report: the base at the bottom, the tuned model at the top.

# %%
el.ladder_figure(ladder)

# %% [markdown]
# Accuracy against what it cost in bits from the tuned model. One vector, fitted beforehand, takes nothing while it
# answers.

# %%
labels = {
    "bits_per_token": "bits from the tuned model per token",
    "accuracy": "samples that are strictly right (share)",
}
between = strict.filter(pl.col("kind") != "end")
title = "What is recovered, and what crossed for it"
el.chart(between, x="bits_per_token", y="accuracy", color="arm", kind="dots", title=title, labels=labels)

# %% [markdown]
# ## Try next
#
# - `el.routers.EntropyAbove(nats)` routes by the base's own doubt, and asks the tuned model nothing.
# - Decode greedily (`decoding=el.Decoding(temperature=0.0)`): how much of what is missing is the noise of sampling?
# - `lab study --pair zero-base zero-rl --out runs/study` builds the whole ladder, with its report.
