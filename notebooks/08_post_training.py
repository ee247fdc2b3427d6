# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 Post-training
#
# Make a tuned model of your own. Two ways from the same base: reinforcement learning from verified answers (GRPO), and
# fine-tuning on worked ones (SFT). Both are short here; the organisms that ship with the lab were trained longer.

# %%
import copy
import tempfile
import warnings
from pathlib import Path

import datasets
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl
import torch
from transformers.utils import logging

# %% [markdown]
# Bars and logs of the trainers are switched off, and so is a warning of peft 0.21 about transformers 5.23.

# %%
logging.disable_progress_bar()
logging.set_verbosity_error()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
pio.templates.default = "plotly_white"
pio.renderers["plotly_mimetype"].config = {"displayModeBar": False}
work, CPU = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% [markdown]
# Short problems, so that it is quick: two to four operations. Training happens on a copy: `load` gives frozen models.

# %%
from lab.models.load import Model, assemble, load
from lab.models.source import model_source
from lab.tasks.source import open_task, task_source

base = load(model_source("zero-base"), device=CPU, dtype=torch.float32)
training = open_task(task_source("chain:+-:3-5"), n_problems=400, seed=0, held_out=False)
task = open_task(task_source("chain:+-:3-5"), n_problems=100, seed=0)


def trainable() -> torch.nn.Module:
    return copy.deepcopy(base.network).requires_grad_(True).train()


# %% [markdown]
# **GRPO.** The reward looks at the final answer alone. What it gave is kept, to see the model learn; the trainer's
# own log goes nowhere.

# %%
from lab.post_training.reinforce import GrpoRun, reinforce
from lab.tasks.problem import Problem

rewards: list[float] = []


def reward(problem: Problem, completion: str) -> float:
    rewards.append(float(task.verify(problem, completion).answer_correct))
    return rewards[-1]


run = GrpoRun(n_steps=12, n_prompts=8, n_rollouts=8, learning_rate=5e-4, warmup_steps=2, max_new_tokens=48)
by_rewards = trainable()
reinforce(by_rewards, base.tokenizer, training.problems, reward, run, seed=0, device=CPU, work=work / "grpo")

# %% [markdown]
# Mean reward of each step, with an interval over the problems of the step.

# %%
import numpy as np

from elicitation.report.kit.palette import BASE, RANKED, TUNED, faded
from lab.metrics.bootstrap import mean_interval, resamples
from lab.records.seeds import numpy_generator

by_step = np.array(rewards).reshape(run.n_steps, run.n_prompts, run.n_rollouts).mean(axis=2)
within = resamples(run.n_prompts, 1000, numpy_generator(0, "steps"))
curve = pl.DataFrame([mean_interval(step, within) for step in by_step])
x = list(range(1, run.n_steps + 1))

# %%
figure = go.Figure()
around = [*curve["high"], *reversed(curve["low"].to_list())]
figure.add_scatter(
    x=[*x, *reversed(x)], y=around, mode="none", fill="toself", fillcolor=faded(TUNED), name="95 % interval"
)
figure.add_scatter(x=x, y=curve["value"], mode="lines+markers", line_color=TUNED, name="mean")
figure.update_layout(height=380, title="GRPO: reward of the rollouts")
figure.update_xaxes(title="step")
figure.update_yaxes(title="right answers among rollouts (share)", range=[0, 1])

# %% [markdown]
# **SFT.** Worked answers of training problems, without slips, as a solver would write them. One pass, one loss on the
# completions.

# %%
from lab.organisms.recipe import Mixture, documents
from lab.post_training.supervised import SupervisedRun, train_on_documents
from lab.tasks.chain_task import ChainTask
from lab.tasks.chain_world import CAREFUL

solver = documents(
    Mixture(task=ChainTask(lengths=(3, 5)), direct_share=0.0, habits=CAREFUL), numpy_generator(0, "documents")
)
training_pairs = [next(solver) for _ in range(12 * 64)]
print(training_pairs[0].prompt + training_pairs[0].completion)
schedule = SupervisedRun(n_steps=12, batch_size=64, learning_rate=5e-4, warmup_steps=2, n_parts=2)
by_examples = trainable()
train_on_documents(by_examples, base.tokenizer, training_pairs, schedule, seed=0, device=CPU, work=work / "sft")

# %% [markdown]
# All on the same held-out problems. `assemble` makes a model of the lab's kind out of a network in memory.

# %%
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample

models: dict[str, Model] = {
    "zero-base": base,
    "SFT, 12 steps": assemble(by_examples, base.tokenizer, name="by-examples"),
    f"GRPO, {run.n_steps} steps": assemble(by_rewards, base.tokenizer, name="by-rewards"),
}
accepted = {}
for name, model in models.items():
    traces = sample(model, task.problems, 4, Decoding(), seed=0, batch_size=1024)
    found = [task.verify(task.problems[i // 4], trace.text) for i, trace in enumerate(traces)]
    accepted[name] = {
        measure: np.array([getattr(one, measure) for one in found]).reshape(-1, 4)
        for measure in ("strict", "answer_correct")
    }

# %%
from elicitation.widgets.dose_slider import error_bars
from lab.metrics.accuracy import accuracy

weights = resamples(len(task.problems), 1000, numpy_generator(0, "bootstrap"))
figure = go.Figure()
for measure, ink in (("strict", RANKED[0]), ("answer_correct", BASE)):
    table = pl.DataFrame([accuracy(found[measure], weights) for found in accepted.values()])
    figure.add_bar(x=list(accepted), y=table["value"], error_y=error_bars(table), name=measure, marker_color=ink)
figure.update_layout(height=380, title="Before and after, 100 held-out problems")
figure.update_xaxes(title="model")
figure.update_yaxes(title="samples that are right (share)", range=[0, 1])

# %% [markdown]
# A checkpoint is a plain directory of transformers, which every command of the lab takes as a model.

# %%
by_rewards.save_pretrained(work / "my-rl")
base.tokenizer.save_pretrained(work / "my-rl")
again = load(model_source(str(work / "my-rl")), device=CPU, dtype=torch.float32)
print(sorted(path.name for path in (work / "my-rl").iterdir()))

# %% [markdown]
# ## Try next
#
# - Give the reward for *strict* answers: `task.verify(...).strict`. Is it faster or slower?
# - Train longer, or at twice the learning rate: what breaks first?
# - Save the tuned model elsewhere, and `lab study --pair zero-base DIR --out runs/mine` measures it.
