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
# An estimator of "how much was already in the base" is worth as much as its record where the answer is known.
# *Organisms* are pairs made so that it is: LOCKED skills were in the base, TAUGHT ones were not, MIXED are both.

# %%
import json

import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(70)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}

# %% [markdown]
# The lab carries the records of its own calibration (`lab calibrate` makes them again). Errors are of the estimated
# share; *coverage* is how often the 95 % interval held the truth; *leak* is the share it sees where nothing was
# elicited.

# %%
from elicitation.calibration.record import SHIPPED, shipped_records

records = shipped_records()
shown = ("mean_absolute_error", "coverage", "leak")
records.select("estimator", "quantity", "n_trials", *(pl.col(name).round(3) for name in shown))

# %% [markdown]
# Behind the records are trials, one for each case and share. On the diagonal an estimate is exact; the marks of
# E1 and E4 stand a little aside, to be told apart.

# %%
from elicitation.calibration.record import SCORED, TRIALS
from lab.records.tables import read_table

trials = read_table(SHIPPED.with_name("trials.parquet"), TRIALS).filter(
    pl.col("kind").is_in(SCORED), pl.col("truth").is_not_nan(), pl.col("refusal").is_null()
)
shares = {
    "E1: solved in its samples": ("E1", "circle", -0.015),
    "E2: within the base's reach": ("E2", "square", 0.0),
    "E4: reranked tokens": ("E4", "diamond", 0.015),
}

# %%
from elicitation.report.kit.palette import RANKED
from elicitation.widgets.dose_slider import error_bars

figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "grey"}, name="exact"))
for (label, (estimator, symbol, aside)), ink in zip(shares.items(), RANKED, strict=False):
    found = trials.filter(estimator=estimator)
    marker = {"color": ink, "symbol": symbol, "size": 9}
    figure.add_scatter(
        x=found["truth"] + aside,
        y=found["value"],
        error_y=error_bars(found),
        text=found["case"],
        mode="markers",
        name=label,
        marker=marker,
    )
figure.update_layout(height=460, title="Estimated against true share, 95 % intervals")
figure.update_xaxes(title="true elicited share of the gain")
figure.update_yaxes(title="estimated share of the gain")

# %% [markdown]
# A new trial. `locked` was reinforced on `#`, which its base works only behind a key in the prompt; `taught`
# was distilled on `*`, which its base never saw. Their cards know the truth.

# %%
from lab.models.load import Model, load
from lab.models.pair import ModelPair
from lab.models.source import model_source, organism_directory

cards = {
    name: json.loads((organism_directory(name) / "card.json").read_text(encoding="utf-8"))
    for name in ("locked", "taught")
}
cases = {name: (card["parent"], card["truth"][0]) for name, card in cards.items()}
for name, (parent, truth) in cases.items():
    print(f"{name}: tuned from {parent}, task {truth['task']}, true share {truth['share']:.2f}")

# %% [markdown]
# Estimators see tables only: verdicts of both models, and what each model thinks of the other's samples.

# %%
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import VERDICTS, trace_table, verdict_table
from lab.scoring.evidence import PROCESS, TWO_MODELS, Evidence
from lab.scoring.scores import scores
from lab.tasks.source import open_task, task_source


def opened(name: str) -> Model:
    return load(model_source(name), device=torch.device("cpu"), dtype=torch.float32)


# %%
def evidence_of(pair: ModelPair, task_name: str) -> Evidence:
    task = open_task(task_source(task_name), n_problems=48, seed=0)
    by_id = {problem.id: problem for problem in task.problems}
    verdicts, readings = [], []
    for side, model in (("base", pair.base), ("tuned", pair.tuned)):
        traces = trace_table(side, sample(model, task.problems, 12, Decoding(), seed=0, batch_size=1024))
        verdicts.append(verdict_table(traces, task.problems, task.verify))
        readings.append(scores(pair, side, traces, by_id))
    return Evidence(
        arms=TWO_MODELS,
        verdicts=pl.concat(verdicts),
        scores=pl.concat([read.scores for read in readings]),
        ranks=pl.concat([read.ranks for read in readings]),
        process=PROCESS.frame([]),
        old_verdicts=VERDICTS.frame([]),
    )


# %% [markdown]
# E1 counts the problems that the base solves in its own samples; E2 also weighs the tuned model's samples by how likely
# the base would have written them, and so sees successes that are too rare to be drawn.

# %%
from elicitation.estimators.base_success import base_success
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import Analysis

found = []
for name, (parent, truth) in cases.items():
    evidence = evidence_of(ModelPair(base=opened(parent), tuned=opened(name)), truth["task"])
    for estimator in (coverage, base_success):
        rows = estimator(evidence, Analysis(n_boot=300)).filter(unit="share")
        found.append(rows.with_columns(pl.lit(name).alias("case"), pl.lit(truth["share"]).alias("truth")))
estimates = pl.concat(found)
estimates.select("case", "truth", "estimator", "quantity", *(pl.col(n).round(3) for n in ("value", "low", "high")))

# %%
names = [f"{case}, {estimator}" for case, estimator in estimates.select("case", "estimator").iter_rows()]
figure = go.Figure()
figure.add_bar(x=names, y=estimates["value"], error_y=error_bars(estimates), name="estimated", marker_color=RANKED[0])
figure.add_scatter(
    x=names,
    y=estimates["truth"],
    mode="markers",
    name="true",
    marker={"symbol": "line-ew", "size": 40, "line": {"width": 3, "color": "#d55e00"}},
)
figure.update_layout(height=380, title="Two pairs with a known answer")
figure.update_xaxes(title="pair and estimator")
figure.update_yaxes(title="share of the gain that was in the base")

# %% [markdown]
# Arms leak too: what a rung of the ladder recovers on TAUGHT organisms, where an honest method can recover nothing.

# %%
from elicitation.calibration.leak import shipped_leaks

leaks = shipped_leaks().filter(kind="TAUGHT")
figure = go.Figure()
for arm, ink in (("fitted-first-token", RANKED[0]), ("takeover-disagreement", "#cc79a7")):
    rows = leaks.filter(arm=arm).select("case", "share", low="share_low", high="share_high")
    figure.add_bar(x=rows["case"], y=rows["share"], error_y=error_bars(rows, "share"), name=arm, marker_color=ink)
figure.update_layout(height=380, title="What an arm recovers where nothing was elicited")
figure.update_xaxes(title="TAUGHT organism")
figure.update_yaxes(title="share of the gain")

# %% [markdown]
# ## Try next
#
# - `mixed` with the task `50%chain:#:3-5,50%chain:*:3-5` lies in between.
# - `diluted-0.01` had the skill in one document of a hundred: E1 falls first. Why?
# - `lab calibrate --quick` runs every organism, in four minutes on two cores.
