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
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}
work, CPU = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% [markdown]
# Features first: a small SAE of the base model's stream behind the last block, as in notebook 03, here of prompts and
# answers.

# %%
from lab.models.load import load
from lab.models.source import model_source
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import trace_table
from lab.tasks.problem import problem_table
from lab.tasks.source import open_task, task_source
from probes.capture.texts import texts

base, tuned = (load(model_source(name), device=CPU, dtype=torch.float32) for name in ("zero-base", "zero-rl"))
training = open_task(task_source("chain"), n_problems=200, seed=0, held_out=False)
traces = trace_table("zero-rl", sample(tuned, training.problems, 2, Decoding(), seed=0, batch_size=1024))
read = texts(base, traces, problem_table(training.problems))

# %%
from lab.records.provenance import provenance
from probes.capture.positions import AllTokens
from probes.capture.site import Site
from probes.storage.fill import fill
from probes.storage.plan import plan

site = Site(3, "resid_post")
planned = plan(base, read, (site,), AllTokens())
made_by = provenance("capture", planned, {"model": base.digest}, device="cpu", dtype=planned.weights, seed=0)
store = fill(base, read, planned, work / "store", made_by)

# %%
from probes.sae.architecture import TopK
from probes.sae.grid import grid, train_unit
from probes.sae.load import load_sae
from probes.sae.recipe import Training

recipe = Training(n_tokens=150_000, batch_size=512)
(unit,) = grid(store.path, [site], [TopK(16)], [256], recipe, work / "saes", device=CPU)
train_unit(unit)
sae = load_sae(unit.path, device=CPU)

# %% [markdown]
# The question as a table of *contrasts*: a text, the tokens on the one side, the tokens on the other. The texts are the
# prompts of problems that the SAE has not seen.

# %%
from probes.attribution.contrast import opening_contrasts

task = open_task(task_source("chain"), n_problems=60, seed=0)
contrasts = opening_contrasts(tuned, task.problems, toward=["T"], against=["A"])
print(f"{len(contrasts)} prompts, the first is {task.problems[0].prompt}")

# %% [markdown]
# Three ways to the same number. *Ablation* takes one feature at a time out of the stream and runs the blocks above: it
# is exact. *Gradient* is its first-order guess, and *integrated* gradients follow the path from none to all.

# %%
from probes.attribution.attribute import attribute
from probes.attribution.effects import Ablation, Gradient, Integrated

methods = {"ablation": Ablation(), "integrated": Integrated(16), "gradient": Gradient()}
found = {name: attribute(tuned, sae, contrasts, method, batch=256) for name, method in methods.items()}

# %% [markdown]
# Effects are summed over the tokens of a prompt and averaged over prompts, with 95 % intervals over problems.

# %%
from lab.metrics.bootstrap import resamples
from lab.records.seeds import numpy_generator
from probes.attribution.feature_effects import feature_effects

weights = resamples(len(contrasts), 1000, numpy_generator(0, "bootstrap"))
effects = {name: feature_effects(found[name].effects, contrasts, method, weights) for name, method in methods.items()}
exact = effects["ablation"].sort("effect", descending=True)
top = exact["feature"].head(8).to_list()
exact.head(8).select("feature", *(pl.col(name).round(3) for name in ("effect", "low", "high")), "n_texts")

# %%
from elicitation.report.kit.palette import BASE, RANKED
from elicitation.widgets.dose_slider import error_bars

figure = go.Figure()
for (name, table), ink in zip(effects.items(), (BASE, *RANKED), strict=False):
    shown = pl.DataFrame({"feature": top}).join(table, on="feature", how="left", maintain_order="left")
    bars = error_bars(shown, "effect")
    figure.add_bar(x=[str(i) for i in top], y=shown["effect"], error_y=bars, name=name, marker_color=ink)
figure.update_layout(height=400, title="The features that push most towards opening with T")
figure.update_xaxes(title="feature", type="category")
figure.update_yaxes(title="effect on T against A (nats of log-odds)")

# %% [markdown]
# Do the cheap methods rank all features as the exact one does? Spearman's rank correlation with ablation, with its
# interval. Integrated gradients start from no feature at all, so they also count what features do only together.

# %%
from probes.attribution.agreement import feature_agreement

exact_effects = found["ablation"].effects
agreed = {
    name: feature_agreement(found[name].effects, exact_effects, contrasts, weights)
    for name in ("integrated", "gradient")
}
for name, rank in agreed.items():
    print(f"{name:11s} {rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]")

# %% [markdown]
# Does it matter? The eight strongest features are taken out of `zero-rl` as it reads the prompts, beside as many random
# features that fire as often at the last token of a prompt. `zero-rl` hardly misses them: mind the axis.

# %%
import numpy as np

from elicitation.features.interventions import first_token_rates
from elicitation.features.top_features import frequency_matched, top_features

prompts = contrasts["tokens"].to_list()
strongest = top_features(tuned, sae, contrasts, n_top=8, n_boot=200, seed=0)
drawn = frequency_matched(strongest.top, strongest.first_token_share, len(prompts), numpy_generator(0, "matched"))
sets = {"8 strongest": np.tile(strongest.top, (len(prompts), 1)), "8 random, as often active": drawn}
opening = base.tokenizer.convert_tokens_to_ids("T")

# %%
from lab.metrics.bootstrap import mean_interval


def rates_without(chosen: np.ndarray) -> np.ndarray:
    def silenced(features: torch.Tensor, rows: list[int]) -> torch.Tensor:
        return features.scatter(2, torch.from_numpy(chosen[rows])[:, None].expand(-1, features.shape[1], -1), 0.0)

    return first_token_rates(tuned, prompts, [opening], sae, silenced)


# %%
rates = {"zero-rl as it is": first_token_rates(tuned, prompts, [opening])}
rates |= {f"without {name}": rates_without(chosen) for name, chosen in sets.items()}
table = pl.DataFrame([mean_interval(rate, weights) for rate in rates.values()])
figure = go.Figure(
    go.Scatter(x=table["value"], y=list(rates), error_x=error_bars(table), mode="markers", marker={"size": 11})
)
figure.update_layout(height=260, title="How probable is an answer that opens with T?", margin={"l": 200})
figure.update_xaxes(title="probability of T, mean over prompts")
figure.update_yaxes(title="", autorange="reversed")

# %% [markdown]
# Where the strongest features are active in the prompts.

# %%
from elicitation.widgets.token_strip import ReadText, TokenStrip
from lab.models.padding import left_padded
from probes.capture.capture import capture


def read_prompt(tokens: list[int]) -> ReadText:
    padded = left_padded(tuned, [tokens])
    with torch.no_grad():
        active = sae.encode(capture(tuned, padded.tokens, padded.mask, [site])[site][0])
    words = tuple(tuned.tokenizer.decode([token]) for token in tokens)
    shown = {f"feature {feature}": tuple(active[:, feature].tolist()) for feature in top[:5]}
    return ReadText(name="".join(words), tokens=words, activations=shown)


TokenStrip(texts=tuple(map(read_prompt, prompts[:6])))

# %% [markdown]
# ## Try next
#
# - Ask `base` in the place of `tuned`: the same features push, less.
# - `answer_contrasts` asks about the answer itself, at the token where a trace states it.
# - `lab attribute` does the same in shards, on many texts.
