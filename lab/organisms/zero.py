"""Organism zero: one base of the chain world and three models tuned from it."""

from lab.organisms.recipe import AnswerFirst, Case, Mixture, Organism, Parent, Reinforced, Supervised
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import SupervisedRun
from lab.tasks.chain_documents import CAREFUL
from lab.tasks.chain_world import ChainTask

ZERO = (
    Organism(
        name="zero-base",
        parent=None,
        recipe=Supervised(writing=Mixture(), run=SupervisedRun(n_steps=2000, loss_on_prompt=True)),
        story="Pretrained on direct answers (60 %) and worked chains (40 %) of + and -, with slips and checks.",
    ),
    Organism(
        name="zero-rl",
        parent=Parent("zero-base"),
        recipe=Reinforced(run=GrpoRun(n_steps=120)),
        story="GRPO from zero-base; the reward is the accuracy of the final answer and nothing else.",
        cases=(Case(kind="SHARPENED", task="chain:+-:3-8", elicited=("+-",)),),
    ),
    Organism(
        name="zero-sft",
        parent=Parent("zero-base"),
        recipe=Supervised(writing=AnswerFirst(), run=SupervisedRun(n_steps=300, learning_rate=5e-4)),
        story="Fine-tuned from zero-base on answer-first traces: the chain is written after the answer.",
    ),
    Organism(
        name="zero-taught",
        parent=Parent("zero-base"),
        recipe=Supervised(
            writing=Mixture(task=ChainTask(operators="+-#"), direct_share=0.0, habits=CAREFUL),
            run=SupervisedRun(n_steps=300, learning_rate=1e-3),
        ),
        story="Distilled from zero-base on a solver's chains with #, an operator that zero-base never saw.",
    ),
)
