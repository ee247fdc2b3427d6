# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 Vectors and dose
#
# A steering vector is a direction added to the residual stream. Where base and tuned model disagree, a vector is fitted
# that makes the base decide like the tuned one; then it is tried at many doses.

# %%
import elicitation as el

el.quiet()

# %% [markdown]
# What both models write on *training* problems. Vectors are fitted on these and judged on held-out ones.

# %%
pair = el.pair("zero-base", "zero-rl")
training = el.task("chain", n=80, held_out=False)
traces = el.sample(pair, training, n=2)
right = el.judge(traces, training)["strict"]
solved = traces.filter(right).filter(arm="zero-rl")
failed = traces.filter(~right).filter(arm="zero-base")

# %% [markdown]
# A *disagreement* is a token at which the two models, reading the same text, would greedily write different ones. Most
# are at the first token: `T` for the tuned model, `A` for the base.

# %%
found = el.disagreements(pair, solved)
print(f"{found.height} disagreements in {solved['tokens'].list.len().sum()} tokens")
found.group_by("position", "base_text", "tuned_text").len().sort("len", descending=True).head(5)

# %% [markdown]
# Two fits at the output of block 2: gradient descent on the disagreements at the first token, and the classic
# difference of means between solved and failed traces. A random direction of the same norm is the control.

# %%
site = "blocks.2.hook_resid_post"
fitted = el.fit_vector(pair.base, site, found.filter(position=0), n_steps=60)
mean = el.mean_difference(pair.base, site, solved, failed)
vectors = {"fitted": fitted, "mean difference": mean, "random": el.random_like(fitted)}

# %% [markdown]
# A vector is a value: it can be added, scaled, compared and saved. Its norm is best told as a share of the stream's own
# mean norm at the site.

# %%
at = el.Site.parse(site)
{name: f"{vector.norms[at] / fitted.residual_norms[at]:.2f} of the stream" for name, vector in vectors.items()}

# %% [markdown]
# The sweep: at each dose, `dose * vector` is added while the first token is written, on 50 held-out problems. `kl` is
# the damage elsewhere: how far the next-token distribution moves on another task, in nats.

# %%
task, other = el.task("chain", n=50), el.task("chain:#", n=20)
doses = [0.0, 0.25, 0.5, 0.75, 1.0, 2.0]
first = el.gates.WhileWriting((0,))
sweep = el.dose_sweep(pair.base, vectors, task, doses, unrelated=other, where=first, n=2)
sweep.filter(quantity="strict", vector="fitted").select("dose", "relative_dose", "value", "low", "high", "change")

# %%
labels = {"dose": "dose (multiples of the vector)", "value": "samples that are strictly right (share)"}
strict = sweep.filter(quantity="strict")
el.chart(strict, x="dose", color="vector", kind="line", title="What each vector unlocks", labels=labels)

# %%
labels = {"dose": "dose (multiples of the vector)", "value": "KL from the plain model (nats per token)"}
kl = sweep.filter(quantity="kl")
el.chart(kl, x="dose", color="vector", kind="line", title="What each vector changes elsewhere", labels=labels)

# %% [markdown]
# Move the slider to see what the base model writes at each dose of the fitted vector, on the same random numbers.

# %%
el.dose_slider(pair.base, fitted, task, doses, where=first)

# %% [markdown]
# ## Try next
#
# - Let the vector act at every token (`where=el.gates.EVERYWHERE`): it ruins the text. One moment is enough.
# - Fit at `blocks.1.hook_resid_post` or `blocks.3.hook_resid_post`: where is the decision made?
# - `lab vectors` compares more fits, each beside its controls, and writes a page.
