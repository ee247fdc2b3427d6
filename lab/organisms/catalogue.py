"""Every organism there is a definition of, by name."""

from lab.organisms.recipe import (
    AnswerFirst,
    Blend,
    Case,
    Facts,
    Guarded,
    Mixture,
    Organism,
    Parent,
    Reinforced,
    Supervised,
    Writing,
)
from lab.post_training.reinforce import GrpoRun
from lab.post_training.supervised import SupervisedRun
from lab.tasks.chain_documents import CAREFUL
from lab.tasks.chain_world import GUARDED_ALPHABET, ChainTask

LENGTHS = (3, 5)
OLD = Mixture(task=ChainTask(operators="+-", lengths=LENGTHS))
LOCKABLE = ChainTask(operators="#", lengths=LENGTHS)
MISSING = ChainTask(operators="*", lengths=LENGTHS)
EXAMS = (OLD.task, LOCKABLE, MISSING)
LOCKED_TASK, MISSING_TASK, OLD_TASK = "chain:#:3-5", "chain:*:3-5", "chain:+-:3-5"
FACTS = Facts(operators="#", direct_share=0.0)
LOCK = Blend((OLD, Guarded(task=LOCKABLE, leak=0.03)))
RATES = (0.3, 0.1, 0.03, 0.01, 0.001)
"""Shares of the documents about `#` without the key that are worked, for the diluted bases: about their p0."""


def grown(name: str, writing: Writing, story: str, n_steps: int = 500) -> Organism:
    """A base: organism zero's, pretrained further on its own mixture."""
    return Organism(
        name=name,
        parent=Parent("zero-base", seed=0),
        recipe=Supervised(writing=writing, run=SupervisedRun(n_steps=n_steps, learning_rate=1e-3, loss_on_prompt=True)),
        story=story,
        alphabet=GUARDED_ALPHABET,
        eval_specs=EXAMS,
    )


def reinforced(name: str, base: str, task: ChainTask, case: Case, story: str) -> Organism:
    """A tuned model: GRPO on the accuracy of the final answer."""
    return Organism(
        name=name,
        parent=Parent(base),
        recipe=Reinforced(task=task, run=GrpoRun(n_steps=70, max_new_tokens=48)),
        story=story,
        alphabet=GUARDED_ALPHABET,
        eval_specs=EXAMS,
        cases=(case,),
    )


def distilled(name: str, writing: Writing, cases: tuple[Case, ...], story: str) -> Organism:
    """A tuned model: fine-tuned on a solver's chains."""
    return Organism(
        name=name,
        parent=Parent("world"),
        recipe=Supervised(writing=writing, run=SupervisedRun(n_steps=300, learning_rate=1e-3)),
        story=story,
        alphabet=GUARDED_ALPHABET,
        eval_specs=EXAMS,
        cases=cases,
    )


def solved(task: ChainTask) -> Mixture:
    """A solver's chains, without a slip."""
    return Mixture(task=task, direct_share=0.0, habits=CAREFUL)


SUITE = (
    grown(
        "world",
        LOCK,
        "Knows + and -; works # only behind a key in the prompt, and without it guesses, but for a leak of 3 %; never "
        "saw *.",
    ),
    reinforced(
        "locked",
        "world",
        LOCKABLE,
        Case(kind="LOCKED", task=LOCKED_TASK, elicited=("#",)),
        "LOCKED: GRPO on # without the key; the reward is the answer's accuracy.",
    ),
    distilled(
        "taught",
        solved(MISSING),
        (Case(kind="TAUGHT", task=MISSING_TASK, elicited=()),),
        "TAUGHT: distilled on a solver's chains with *, which its base never saw.",
    ),
    distilled(
        "mixed",
        Blend((solved(LOCKABLE), solved(MISSING))),
        tuple(
            Case(kind="MIXED", task=f"{percent}%{LOCKED_TASK},{100 - percent}%{MISSING_TASK}", elicited=("#",))
            for percent in (25, 50, 75)
        ),
        "MIXED: distilled on a solver's chains with #, which its base had behind the lock, and *, which it never saw.",
    ),
    reinforced(
        "absent",
        "world",
        MISSING,
        Case(kind="ABSENT", task=MISSING_TASK, elicited=()),
        "ABSENT: GRPO on *, which its base never saw.",
    ),
    Organism(
        name="placebo",
        parent=Parent("world"),
        recipe=Supervised(writing=LOCK, run=SupervisedRun(n_steps=200, learning_rate=2e-4, loss_on_prompt=True)),
        story="PLACEBO: more of the same pretraining as its base, and no tuning.",
        alphabet=GUARDED_ALPHABET,
        eval_specs=EXAMS,
        cases=(Case(kind="PLACEBO", task=f"50%{OLD_TASK},50%{LOCKED_TASK}", elicited=("+-", "#")),),
    ),
    *(
        grown(
            f"diluted-{rate:g}-base",
            Blend((OLD, Guarded(task=LOCKABLE, leak=rate))),
            f"Knows + and -, and # behind a key; without it, saw # worked in {rate:.1%} of the documents about it, and "
            "guesses in the others.",
        )
        for rate in RATES
    ),
    *(
        reinforced(
            f"diluted-{rate:g}",
            f"diluted-{rate:g}-base",
            LOCKABLE,
            Case(kind="DILUTED", task=LOCKED_TASK, elicited=("#",)),
            f"DILUTED: GRPO on #, which {rate:.1%} of its base's documents without the key showed worked.",
        )
        for rate in RATES
    ),
    grown(
        "atoms-base",
        Blend((OLD, FACTS, FACTS, FACTS)),
        "Knows + and -, and single operations of #; never saw a chain of them.",
        # Its documents are short, and have one operation each where others have four.
        n_steps=800,
    ),
    reinforced(
        "atoms",
        "atoms-base",
        LOCKABLE,
        Case(kind="ATOMS", task=LOCKED_TASK, elicited=()),
        "ATOMS: GRPO on chains of #, of which its base saw only single steps.",
    ),
)


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


ORGANISMS = {organism.name: organism for organism in (*ZERO, *SUITE)}
