# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 First look at a pair
#
# A *pair* is a base model and a model that was tuned from it. `zero-base` is a small Llama that learned left-to-right
# arithmetic on digits, modulo 10; `zero-rl` was tuned from it by reinforcement learning on right answers.

# %%
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

logging.disable_progress_bar()
pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_fmt_str_lengths(90)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}

# %% [markdown]
# `load` takes organisms by name, and also directories, adapters and GGUF files. `ModelPair` checks that the two models
# have the same shape and read the same tokens.

# %%
from lab.models.load import Model, load
from lab.models.pair import ModelPair
from lab.models.source import model_source


def opened(name: str) -> Model:
    return load(model_source(name), device=torch.device("cpu"), dtype=torch.float32)


pair = ModelPair(base=opened("zero-base"), tuned=opened("zero-rl"))
anatomy = pair.base.anatomy
print(f"{anatomy.family}: {anatomy.n_layers} blocks, d_model {anatomy.d_model}, d_vocab {anatomy.d_vocab}")

# %% [markdown]
# A task gives problems and a verifier. `<6-0-4+8?` asks for 6 - 0 - 4 + 8; these are held out from all training.

# %%
from lab.tasks.source import open_task, task_source

task = open_task(task_source("chain"), n_problems=100, seed=0)
pl.DataFrame([{"prompt": problem.prompt, "answer": problem.answer} for problem in task.problems[:5]])

# %% [markdown]
# Both models answer every problem eight times at temperature 1, with the same random numbers.

# %%
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample

N_SAMPLES = 8
written = {
    name: sample(model, task.problems, N_SAMPLES, Decoding(), seed=0, batch_size=1024)
    for name, model in (("zero-base", pair.base), ("zero-rl", pair.tuned))
}

# %% [markdown]
# The first answer to the first problems. `A0.` is a direct answer; `T6-0=6;...A0.` works step by step; `V4;` checks a
# step.

# %%
pl.DataFrame(
    {
        "prompt": [problem.prompt for problem in task.problems[:6]],
        **{name: [trace.text for trace in traces[: 6 * N_SAMPLES : N_SAMPLES]] for name, traces in written.items()},
    }
)

# %% [markdown]
# The verifier judges the answer and the steps apart. *Strict* wants both: a right answer by a chain of true steps.

# %%
import numpy as np

verdicts = {
    name: [task.verify(task.problems[i // N_SAMPLES], trace.text) for i, trace in enumerate(traces)]
    for name, traces in written.items()
}
strict, answer = (
    {
        name: np.array([getattr(one, measure) for one in found]).reshape(-1, N_SAMPLES)
        for name, found in verdicts.items()
    }
    for measure in ("strict", "answer_correct")
)

# %% [markdown]
# Accuracy with 95 % intervals. Problems are drawn again with replacement, because samples of one problem are alike.

# %%
from elicitation.widgets.dose_slider import error_bars
from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.records.seeds import numpy_generator

weights = resamples(len(task.problems), 1000, numpy_generator(0, "bootstrap"))
names = list(written)
levels = {
    "strict": pl.DataFrame([accuracy(strict[name], weights) for name in names]),
    "answer only": pl.DataFrame([accuracy(answer[name], weights) for name in names]),
}

# %%
from elicitation.report.kit.palette import MUTED, STEERED

figure = go.Figure()
for (measure, table), ink in zip(levels.items(), (STEERED, MUTED), strict=True):
    figure.add_bar(x=names, y=table["value"], error_y=error_bars(table), name=measure, marker_color=ink)
figure.update_layout(height=380, title="Accuracy at the first try, 100 held-out problems")
figure.update_yaxes(title="samples that are right (share)", range=[0, 1])
figure.update_xaxes(title="model")

# %% [markdown]
# How do they begin? The probability of each first token, mean over problems: the base knows how to open a chain (`T`),
# and seldom does.

# %%
from lab.metrics.bootstrap import mean_interval
from lab.sampling.decoder import left_padded

prompts = left_padded(pair.base, [pair.base.tokenizer(problem.prompt).input_ids for problem in task.problems])
opening = {}
for name, model in (("zero-base", pair.base), ("zero-rl", pair.tuned)):
    with torch.no_grad():
        logits = model.network(prompts.tokens, attention_mask=prompts.mask.long()).logits[:, -1]
    opening[name] = logits.softmax(dim=-1).double().numpy()

# %%
from elicitation.report.kit.palette import BASE, TUNED

tokens = ["T", "A", "V"]
ids = [pair.base.tokenizer.convert_tokens_to_ids(token) for token in tokens]
figure = go.Figure()
for (name, chances), ink in zip(opening.items(), (BASE, TUNED), strict=True):
    table = pl.DataFrame([mean_interval(chances[:, token], weights) for token in ids])
    figure.add_bar(x=tokens, y=table["value"], error_y=error_bars(table), name=name, marker_color=ink)
figure.update_layout(height=380, title="How answers open")
figure.update_xaxes(title="first token of the answer")
figure.update_yaxes(title="probability, mean over problems", range=[0, 1])

# %% [markdown]
# ## Try next
#
# - Put `zero-taught` in the place of `zero-rl`, and `chain:#` in the place of `chain`: an operator that the base never
#   saw.
# - `lab organisms list` names all the models that come with the lab.
# - Notebook 02 asks what the base can do if it may try more than once.
