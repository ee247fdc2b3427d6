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
# fine-tuning (SFT) on those of the base's own answers that were right. Both are short here; the models that ship with
# the lab were trained longer.

# %%
import elicitation as el
from lab.post_training.trainers import GrpoRun, SupervisedRun

el.quiet()

# %% [markdown]
# Short problems, so that it is quick: two to four operations. The base stays as it is; both ways give a new model.

# %%
base = el.load("zero-base")
training = el.task("chain:+-:3-5", n=200, held_out=False)
task = el.task("chain:+-:3-5", n=100)

# %% [markdown]
# **GRPO.** The reward looks at the final answer alone. Each step draws eight answers to each of eight problems, and
# makes those that did better than their siblings more likely.

# %%
run = GrpoRun(n_steps=12, n_prompts=8, n_rollouts=8, learning_rate=5e-4, warmup_steps=2, max_new_tokens=48)
reinforced = el.reinforce(base, training, run)
reinforced.model

# %% [markdown]
# Mean reward of each step, with an interval over the problems of the step.

# %%
labels = {"value": "right answers among rollouts (share)"}
el.chart(reinforced.rewards, x="step", kind="line", title="GRPO: reward of the rollouts", labels=labels)

# %% [markdown]
# **SFT** on the base's own successes, also called rejection sampling: draw answers, keep the strictly right ones, learn
# them. Nothing comes from outside, so whatever is gained was in the base.

# %%
traces = el.sample(base, training, n=4)
solved = traces.filter(el.judge(traces, training)["strict"])
print(f"{solved.height} of {traces.height} answers are kept, such as {solved['text'][0]}")
schedule = SupervisedRun(n_steps=12, batch_size=64, learning_rate=5e-4, warmup_steps=2, n_parts=2)
tuned = el.finetune(base, solved, schedule)

# %% [markdown]
# All on the same held-out problems, with the same random numbers.

# %%
models = [base, tuned, reinforced.model]
accuracy = el.accuracy(el.judge(el.sample(models, task, n=4), task))
labels = {"arm": "model", "value": "samples that are right (share)"}
el.chart(accuracy, x="arm", color="measure", title="Before and after, 100 held-out problems", labels=labels)

# %% [markdown]
# What changed? The first token says most of it: both learned to open with a worked chain.

# %%
opening = el.next_token(models, task, ["T", "A"])
labels = {"token": "first token of the answer", "value": "probability, mean over problems"}
el.chart(opening, x="token", color="arm", title="How answers open", labels=labels)

# %% [markdown]
# ## Try next
#
# - Reward *strict* answers: `reward=lambda problem, text: float(training.verify(problem, text).strict)`.
# - Train longer, or at twice the learning rate: what breaks first?
# - `reinforced.model.network.save_pretrained(DIR)`, the same of its tokenizer, and `lab study --pair zero-base DIR
#   --out runs/mine` measures it.
