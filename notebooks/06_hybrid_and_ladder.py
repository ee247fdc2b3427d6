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
# A *hybrid* is a base model that is helped at some tokens: a router says when, an act says what. A *ladder* of such
# hybrids, each beside its control, shows how much help recovers how much of the tuned model's gain.

# %%
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}

# %% [markdown]
# The pair, and a vector fitted on the first-token decisions of training problems, as in notebook 05.

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
pair = ModelPair(base=base, tuned=tuned)
training = open_task(task_source("chain"), n_problems=80, seed=0, held_out=False)
traces = trace_table("tuned", sample(tuned, training.problems, 2, Decoding(), seed=0, batch_size=1024))
solved = traces.filter(verdict_table(traces, training.problems, training.verify)["strict"])

# %%
from elicitation.study.disagreements import contexts, disagreements
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.controls import random_like
from steering.fits.gradient import GradientFit, fit_gradient

by_id = {problem.id: problem for problem in training.problems}
first = disagreements(pair, solved, by_id).filter(position=0)
examples = contexts(base, first, traces, by_id)
vector = fit_gradient(
    base,
    Site(2, "resid_post"),
    examples,
    GradientFit(n_steps=60),
    torch_generator(0, "fit"),
    description="first tokens",
)
randoms = tuple(random_like(vector, torch_generator(0, "random", draw)) for draw in range(64))

# %% [markdown]
# Hybrids are values: `Hybrid(router, act)`. `Steer` adds the vector for one token; `Takeover` lets the tuned model
# write it. Each rung has a control that leaves out one thing: the direction, or the place.

# %%
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Steer, Takeover
from steering.hybrid.routers import AtRandom, AtSteps, Disagreement
from steering.hybrid.vector_table import Drawn

steer = Steer(Drawn((Add(vector),)))
by_chance = Steer(Drawn(tuple(map(Add, randoms))))
hybrids = {
    "vector": ("+ vector, first token", None, Hybrid(AtSteps((0,)), steer)),
    "random-vector": ("random vectors, first token", "vector", Hybrid(AtSteps((0,)), by_chance)),
    "disagreement": ("+ vector, at disagreement", None, Hybrid(Disagreement(), steer)),
    "random-place": ("vector at random tokens", "disagreement", Hybrid(AtRandom(0.05), steer)),
    "takeover": ("+ token takeover, at disagreement", None, Hybrid(Disagreement(), Takeover())),
    "random-takeover": ("takeover at random tokens", "takeover", Hybrid(AtRandom(0.05), Takeover())),
}

# %% [markdown]
# All arms answer the same 60 problems with the same random numbers, so they are paired sample by sample.

# %%
from steering.hybrid.open_hybrid import open_hybrid

task = open_task(task_source("chain"), n_problems=60, seed=0)
settings = {"seed": 0, "batch_size": 1024}
written = {model.name: sample(model, task.problems, 4, Decoding(), **settings) for model in (base, tuned)}
for name, (_, _, hybrid) in hybrids.items():
    written[name] = sample(base, task.problems, 4, Decoding(), **settings, open_rows=open_hybrid(pair, hybrid))

# %% [markdown]
# Who wrote which token? The first answers of two hybrids to the same problem.

# %%
from elicitation.report.kit.tokens import TokenStrip


def routed(name: str, number: int) -> TokenStrip:
    trace = written[name][4 * number]
    words = tuple(base.tokenizer.decode([token]) for token in trace.tokens)
    return TokenStrip(tokens=words, routes=trace.routes, logprobs=trace.logprobs)


routed("vector", 2)

# %%
routed("takeover", 2)

# %% [markdown]
# What crossed from the tuned model is counted in bits, as a code would: nothing for a vector at a fixed step, the gate
# for a vector at disagreement, the gate and the tokens for takeover.

# %%
import numpy as np

from elicitation.report.study.tables import Family
from elicitation.study.findings import Answered, routed_share
from elicitation.study.tables import problem_bits
from lab.scoring.evidence import ArmKey, Control, Role

keys = {
    "vector": ArmKey(Role.VECTOR_FIRST_TOKEN),
    "random-vector": ArmKey(Role.VECTOR_FIRST_TOKEN, control=Control.RANDOM_VECTORS),
    "disagreement": ArmKey(Role.VECTOR_DISAGREEMENT),
    "random-place": ArmKey(Role.VECTOR_DISAGREEMENT, control=Control.RANDOM_TOKENS),
    "takeover": ArmKey(Role.TAKEOVER),
    "random-takeover": ArmKey(Role.TAKEOVER, control=Control.RANDOM_TOKENS),
}
families: dict[str, Family] = {"vector": "vector", "random-vector": "vector"}
families |= {"disagreement": "tuned router", "random-place": "tuned router", "zero-base": "end", "zero-rl": "end"}


def bits_of(name: str, hybrid: Hybrid) -> np.ndarray:
    found = problem_bits(trace_table(name, written[name]), hybrid)
    return found.group_by("problem_id", maintain_order=True).agg(pl.col("bits").mean())["bits"].to_numpy()


# %%
def arm(name: str, label: str, key: ArmKey, control_of: str | None, bits: np.ndarray) -> Answered:
    table = trace_table(name, written[name])
    return Answered(
        name=name,
        label=label,
        key=key,
        control_of=control_of,
        family=families.get(name, "takeover"),
        traces=table,
        verdicts=verdict_table(table, task.problems, task.verify),
        steered_share=routed_share(table),
        bits=bits,
        cost=1.0,
    )


# %%
none, all_of_them = np.zeros(len(task.problems)), np.full(len(task.problems), np.inf)
between = [
    arm(name, label, keys[name], control_of, bits_of(name, hybrid))
    for name, (label, control_of, hybrid) in hybrids.items()
]
arms = [
    arm("zero-base", "zero-base", ArmKey(Role.BASE), None, none),
    *between,
    arm("zero-rl", "zero-rl", ArmKey(Role.TUNED), None, all_of_them),
]

# %% [markdown]
# The ladder as a table: `share` is the part of the gain that a rung recovers, `over_control` what it has beyond its
# control, both with 95 % intervals.

# %%
from elicitation.study.findings import ladder_table
from lab.metrics.bootstrap import resamples
from lab.records.seeds import numpy_generator

weights = resamples(len(task.problems), 1000, numpy_generator(0, "bootstrap"))
ladder = ladder_table(arms, weights)
strict = ladder.filter(measure="strict")
shown = ("accuracy", "share", "share_low", "share_high", "over_control", "bits_per_token")
strict.select("arm", *(pl.col(name).round(3) for name in shown))

# %% [markdown]
# And as the figure of a report: the base at the bottom, the tuned model at the top.

# %%
from elicitation.report.study.figures import ladder_figure

ladder_figure(ladder)

# %% [markdown]
# Accuracy against what it cost in bits from the tuned model. One vector, fitted beforehand, takes nothing while it
# answers.

# %%
from elicitation.widgets.dose_slider import error_bars

figure = go.Figure()
for number, row in enumerate(strict.filter(pl.col("kind") != "end").iter_slices(1)):
    bars = error_bars(row, "accuracy")
    figure.add_scatter(x=row["bits_per_token"], y=row["accuracy"], error_y=bars, name=row["label"][0])
    figure.data[-1].marker.symbol = number
figure.update_traces(mode="markers", marker_size=11)
figure.update_layout(height=380, title="What is recovered, and what crossed for it")
figure.update_xaxes(title="bits from the tuned model per token", range=[-0.02, 0.45])
figure.update_yaxes(title="samples that are strictly right (share)", range=[0, 1])

# %% [markdown]
# ## Try next
#
# - `EntropyAbove(nats)` routes by the base's own doubt, and asks the tuned model nothing.
# - Decode greedily (`Decoding(temperature=0.0)`): how much of what is missing is the noise of sampling?
# - `lab study --pair zero-base zero-rl --out runs/study` builds the whole ladder, with its report.
