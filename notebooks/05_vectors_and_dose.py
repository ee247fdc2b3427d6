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
# A steering vector is a direction added to the residual stream. Where base and tuned model decide differently, a vector
# is fitted that makes the base decide like the tuned one; then it is tried at many doses.

# %%
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(80)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}

# %% [markdown]
# What both models write on *training* problems. Vectors are fitted on these and judged on held-out ones.

# %%
from lab.models.load import load
from lab.models.pair import ModelPair
from lab.models.source import model_source
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import trace_table, verdict_table
from lab.tasks.source import open_task, task_source

CPU = torch.device("cpu")
base, tuned = (load(model_source(name), device=CPU, dtype=torch.float32) for name in ("zero-base", "zero-rl"))
training = open_task(task_source("chain"), n_problems=80, seed=0, held_out=False)
by_base, by_tuned = (
    trace_table(model.name, sample(model, training.problems, 2, Decoding(), seed=0, batch_size=1024))
    for model in (base, tuned)
)

# %% [markdown]
# A *decision* is a token at which the two models, reading the same text, would greedily write different ones. Most
# decisions are at the first token: `T` for the tuned model, `A` for the base.

# %%
from elicitation.study.disagreements import disagreements

by_id = {problem.id: problem for problem in training.problems}
solved = by_tuned.filter(verdict_table(by_tuned, training.problems, training.verify)["strict"])
failed = by_base.filter(~verdict_table(by_base, training.problems, training.verify)["strict"])
decided = disagreements(ModelPair(base=base, tuned=tuned), solved, by_id)
n_tokens, n_first = solved["tokens"].list.len().sum(), decided.filter(position=0).height
print(f"{decided.height} decisions in {n_tokens} tokens, {n_first} of them at the first token")

# %% [markdown]
# Two fits at `resid_post` of block 2: gradient descent on the first-token decisions, and the classic difference of
# means between solved and failed traces. A random direction of the same norm is the control.

# %%
from elicitation.study.disagreements import contexts, first_token_activations
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.controls import random_like
from steering.fits.gradient import GradientFit, fit_gradient
from steering.fits.mean_difference import mean_difference

site = Site(2, "resid_post")
opening = contexts(base, decided.filter(position=0), by_tuned, by_id)
fitted = fit_gradient(
    base, site, opening, GradientFit(n_steps=60), torch_generator(0, "fit"), description="first tokens"
)

# %%
streams, index = first_token_activations(base, site, {"positive": solved, "negative": failed}, by_id)
is_positive = torch.from_numpy((index["side"] == "positive").to_numpy())
mean = mean_difference(site, streams[is_positive], streams[~is_positive], description="solved minus failed")
random = random_like(fitted, torch_generator(0, "random"))

# %% [markdown]
# Norms as a share of the stream's own mean norm at the site, and how alike the directions are.

# %%
vectors = {"fitted": fitted, "mean difference": mean, "random": random}
directions = {name: vector.directions[site] for name, vector in vectors.items()}
norm = fitted.residual_norms[site]
pl.DataFrame(
    {
        "vector": list(vectors),
        "norm / stream norm": [round(float(one.norm()) / norm, 2) for one in directions.values()],
        "cosine with fitted": [
            round(torch.cosine_similarity(one, directions["fitted"], dim=0).item(), 2) for one in directions.values()
        ],
    }
)

# %% [markdown]
# The sweep: at each dose, `dose * vector` is added while the first token is written, on 50 held-out problems. `kl` is
# the damage elsewhere: how far the next-token distribution moves on another task, in nats.

# %%
from elicitation.comparison.dose import dose_sweep
from elicitation.comparison.evaluate import EvalSpec
from steering.gate import WhileWriting

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)
task = open_task(task_source("chain"), n_problems=50, seed=0)
other = open_task(task_source("chain:#"), n_problems=20, seed=0)
eval_spec = EvalSpec(task=task, n_samples=2, batch_size=1024)
unrelated = EvalSpec(task=other, n_samples=1, batch_size=1024)
first = WhileWriting((0,))
sweeps = {
    name: dose_sweep(base, vector, DOSES, eval_spec, unrelated, where=first, n_boot=500)
    for name, vector in vectors.items()
}

# %%
from elicitation.report.kit.palette import MUTED, RANKED
from elicitation.widgets.dose_slider import error_bars

inks = dict(zip(vectors, (RANKED[0], RANKED[1], MUTED), strict=True))


def by_dose(quantity: str, title: str, axis: str) -> go.Figure:
    figure = go.Figure()
    for name, sweep in sweeps.items():
        rows = sweep.filter(quantity=quantity)
        figure.add_scatter(x=rows["dose"], y=rows["value"], error_y=error_bars(rows), name=name, line_color=inks[name])
    figure.update_layout(height=380, title=title)
    figure.update_xaxes(title="dose (multiples of the vector)")
    return figure.update_yaxes(title=axis, rangemode="tozero")


by_dose("strict", "What each vector unlocks", "samples that are strictly right (share)")

# %%
by_dose("kl", "What each vector changes elsewhere", "KL from the plain model (nats per token)")

# %% [markdown]
# Move the slider to see what the base model writes at each dose of the fitted vector, on the same random numbers.

# %%
from elicitation.widgets.dose_slider import Dosed, DoseSlider
from lab.metrics.bootstrap import Interval
from steering.edit import Add, apply

problems = task.problems[:4]
strict = sweeps["fitted"].filter(quantity="strict")
rows = []
for dose, value, low, high in strict.select("dose", "value", "low", "high").iter_rows():
    with apply(base, Add(fitted, dose, first)):
        written = sample(base, problems, 1, Decoding(), seed=0)
    level = Interval(value=value, low=low, high=high, stderr=float("nan"))
    rows.append(Dosed(dose=dose, accuracy=level, texts=tuple(trace.text for trace in written)))
DoseSlider(prompts=tuple(problem.prompt for problem in problems), doses=tuple(rows))

# %% [markdown]
# ## Try next
#
# - Let the vector act at every token (`where=EVERYWHERE`): it ruins the text. One moment is enough.
# - Fit at `Site(1)` or `Site(3)`: where is the decision made?
# - `lab vectors` compares more fits, each beside its controls, and writes a page.
