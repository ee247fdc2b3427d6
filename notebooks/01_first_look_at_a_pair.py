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
# arithmetic on digits, modulo 10; `zero-rl` was tuned from it by reinforcement learning on right answers. Both come
# with the lab, so nothing has to be fetched.

# %%
import elicitation as el

el.quiet()
pair = el.pair("zero-base", "zero-rl")
pair

# %% [markdown]
# A model is also a directory, an adapter, a GGUF file or a name on the hub: `el.pair("org/base", "path/to/tuned")`.
# `el.models()` lists those that come with the lab.
#
# A task gives problems and a verifier. `<6-0-4+8?` asks for 6 - 0 - 4 + 8; these are held out from all training.

# %%
task = el.task("chain", n=100)
task.problems[:2]

# %% [markdown]
# Both models answer every problem eight times at temperature 1, with the same random numbers. A *trace* is one answer;
# here are the first ones to a few problems. `A0` is a direct answer; `T6-0=6;...A0` works step by step; `V4;` checks a
# step.

# %%
traces = el.sample(pair, task, n=8)
traces.filter(sample_index=0).pivot("arm", index="prompt", values="text").head(6)

# %% [markdown]
# The verifier judges the answer and the steps apart. *Strict* wants both: a right answer by a chain of true steps.

# %%
verdicts = el.judge(traces, task)
verdicts.select("arm", "problem_id", "answer_correct", "process_valid", "strict", "reason").head(6)

# %% [markdown]
# Accuracy with 95 % intervals. Problems are drawn again with replacement, because samples of one problem are alike.

# %%
accuracy = el.accuracy(verdicts)
accuracy

# %%
labels = {"arm": "model", "value": "samples that are right (share)"}
el.chart(accuracy, x="arm", color="measure", title="Accuracy at the first try, 100 held-out problems", labels=labels)

# %% [markdown]
# How do they begin? The probability of each first token, mean over problems: the base knows how to open a chain (`T`),
# and seldom does.

# %%
opening = el.next_token(pair, task, ["T", "A", "V"])
labels = {"token": "first token of the answer", "value": "probability, mean over problems"}
el.chart(opening, x="token", color="arm", title="How answers open", labels=labels)

# %% [markdown]
# ## Try next
#
# - Put `zero-taught` in the place of `zero-rl`, and `chain:#` in the place of `chain`: an operator that the base never
#   saw.
# - Ask with a prompt of your own: `el.generate(pair.tuned, "<9-2+5-1?")`.
# - Notebook 02 asks what the base can do if it may try more than once.
