# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 Calibration
#
# An estimator of "how much was already in the base" is worth as much as its record where the answer is known. Some
# models of the lab are made so that it is: LOCKED skills were in the base, TAUGHT ones were not, MIXED are both.

# %%
import polars as pl

import elicitation as el
from elicitation.calibration.record import shipped_trials

el.quiet()
known = el.models().filter(pl.col("share").is_not_null())
known.select("name", "parent", "kind", "task", "share").head(8)

# %% [markdown]
# The lab carries the records of its own calibration (`el.calibrate` makes them again). Errors are of the estimated
# share; *coverage* is how often the 95 % interval held the truth; *leak* is the share it sees where nothing was
# elicited.

# %%
el.shipped_records().select("estimator", "quantity", "n_trials", "mean_absolute_error", "coverage", "leak")

# %% [markdown]
# Behind the records are trials, one for each case and share. Here are those on LOCKED, MIXED and TAUGHT models: an
# exact estimator would have them on the diagonal. E1 reads too low; E3 hardly tells the kinds apart.

# %%
trials = shipped_trials().filter(
    pl.col("kind").is_in(["LOCKED", "MIXED", "TAUGHT"]),
    pl.col("estimator").is_in(["E1", "E2", "E3"]),
    pl.col("truth").is_not_nan() & pl.col("refusal").is_null(),
)
labels = {"truth": "true elicited share of the gain", "value": "estimated share of the gain"}
title = "Estimated against true share, 95 % intervals"
figure = el.chart(trials, x="truth", color="estimator", kind="dots", title=title, labels=labels)
figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line={"dash": "dot", "color": "grey"})

# %% [markdown]
# A new trial. `locked` was reinforced on `#`, which its base works only behind a key in the prompt; `taught` was
# distilled on `*`, which its base never saw. Estimators see tables only: verdicts of both models, and what each model
# thinks of the other's samples.

# %%
locked = el.evidence(el.pair("world", "locked"), el.task("chain:#:3-5", n=48), n=12)
taught = el.evidence(el.pair("world", "taught"), el.task("chain:*:3-5", n=48), n=12)
locked.scores.head(4)

# %% [markdown]
# E1 counts the problems that the base solves in its own samples; E2 also weighs the tuned model's samples by how likely
# the base would have written them, and so sees successes that are too rare to be drawn. The true shares are 1 and 0.

# %%
found = [
    el.estimate(evidence).select(pl.lit(name).alias("pair"), pl.all())
    for name, evidence in {"locked": locked, "taught": taught}.items()
]
estimates = pl.concat(found).filter(unit="share").filter(pl.col("estimator").is_in(["E1", "E2"]))
estimates.select("pair", "estimator", "quantity", "value", "low", "high")

# %%
labels = {"value": "share of the gain that was in the base"}
el.chart(estimates, x="pair", color="estimator", title="Two pairs with a known answer", labels=labels)

# %% [markdown]
# An estimator that lacks its evidence refuses, and says what it wants.

# %%
refused = pl.concat(found).filter(pl.col("refusal").is_not_null()).unique("estimator", maintain_order=True)
refused.select("pair", "estimator", "refusal").head(4)

# %% [markdown]
# Arms leak too: what a rung of the ladder recovers on TAUGHT models, where an honest method can recover nothing.

# %%
leaks = el.shipped_leaks().filter(
    pl.col("kind") == "TAUGHT", pl.col("arm").is_in(["fitted-first-token", "takeover-disagreement"])
)
leaks = leaks.select("arm", "case", value="share", low="share_low", high="share_high")
labels = {"case": "TAUGHT model", "value": "share of the gain"}
el.chart(leaks, x="case", color="arm", title="What an arm recovers where nothing was elicited", labels=labels)

# %% [markdown]
# ## Try next
#
# - `mixed` with the task `50%chain:#:3-5,50%chain:*:3-5` lies in between.
# - `diluted-0.01` had the skill in one document of a hundred: E1 falls first. Why?
# - `el.calibrate("quick", "runs/calibration")` runs every model with a known answer; `lab calibrate` is the same.
