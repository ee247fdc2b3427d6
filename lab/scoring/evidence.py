"""Evidence: what was measured on one pair of models and one task, as tables; all that an estimator may look at.

An arm is one way of answering. What it is called is its study's affair: estimators and pages ask for it by its
`ArmKey`, that is by its role, how it was decoded, and what it controls for.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import polars as pl

from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema
from lab.sampling.trace import VERDICTS


class Role(StrEnum):
    """What an arm is there for: a model alone, or one kind of help. A control has the role of the rung it stands by."""

    BASE = "base"  # The base model alone.
    TUNED = "tuned"  # The tuned model alone.
    COMPANION = "companion"  # A further model alone; a study may have several.
    READING = "reading"  # The base model's own completions, written on and read for their first answer.
    FORMAT = "format"  # Another prompt format, such as the tuned model's template; a study may have several.
    PROMPT = "prompt"  # The best of some listed prompts.
    TEMPERATURE = "temperature"  # The best of some temperatures.
    SELF_CONSISTENCY = "self-consistency"  # The answer that most of several completions end with.
    COT_DECODING = "cot-decoding"  # The branch of the surest answer, of several first tokens.
    POWER_SAMPLING = "power-sampling"  # Samples of the distribution over whole completions, sharpened.
    LETTER = "letter"  # Of a choice, the letter that is likeliest at once.
    MEAN_DIFFERENCE = "mean-difference"  # The difference of mean activations, at the first token.
    VECTOR_FIRST_TOKEN = "vector-first-token"  # The vector fitted on first tokens, at the first token.
    VECTOR_ALWAYS = "vector-always"  # The vector fitted on all disagreements, at every token.
    VECTOR_SCHEDULE = "vector-schedule"  # The same where a schedule says so.
    VECTOR_ENTROPY = "vector-entropy"  # The same where the base model is unsure.
    VECTOR_PROBE = "vector-probe"  # The same where a probe of the base model says so.
    VECTOR_DISAGREEMENT = "vector-disagreement"  # The same where the tuned model would write another token.
    CATEGORIES_PROBE = "categories-probe"  # Vectors of categories chosen by the base's stream, where the probe says so.
    CATEGORIES_DISAGREEMENT = "categories-disagreement"  # Chosen by the tuned model's, where it would differ.
    VECTOR = "vector"  # Some other vector; a comparison has several.
    RERANKED = "reranked"  # The tuned model's token where it is another one among the base model's first choices.
    TAKEOVER = "takeover"  # The tuned model's token wherever it is another one.
    P1 = "P1"  # The first published hybrid, as published.
    P1_SWITCHED = "P1-switched"  # The same with one of its faults switched; a study may have several.
    P1_MENDED = "P1-mended"  # The same with every fault mended.
    P2 = "P2"  # The second published hybrid, as published.
    P2_SWITCHED = "P2-switched"  # The same with one of its faults switched.


class Control(StrEnum):
    """What a control leaves to chance or leaves out of its rung, and keeps otherwise."""

    ONE_VOTE = "one-vote"  # A single completion where several vote.
    ONE_BRANCH = "one-branch"  # The first branch alone where several are tried.
    NO_MOVES = "no-moves"  # Single tokens sharpened, without the moves that sharpen completions.
    RANDOM_VECTORS = "random-vectors"  # Random directions of the same norm.
    NORM_ONE = "norm-one"  # Random directions of norm 1.
    ALL_RANDOM = "all-random"  # Random directions for the vector of all tokens, too.
    SHUFFLED_LABELS = "shuffled-labels"  # Fitted with the labels of the examples shuffled.
    OTHER_TASK = "other-task"  # Fitted on another task.
    PLACEBO_PAIR = "placebo-pair"  # Fitted on a pair whose tuning taught nothing.
    BIAS_ONLY = "bias-only"  # The vector of all tokens alone, without those of categories.
    RANDOM_TOKENS = "random-tokens"  # The same at random tokens, as often.
    OTHER_CATEGORIES = "other-categories"  # Every category's vector exchanged for that of another.
    RANDOM_CATEGORIES = "random-categories"  # The vector of a random category.
    SECOND_CHOICE = "second-choice"  # The base model's second choice in place of the tuned model's first.
    RANDOM_CHOICE = "random-choice"  # A random one among what there is to choose from.


DecodingName: TypeAlias = Literal["sampled", "greedy"]
"""`sampled`: as the study samples; `greedy`: one completion at temperature 0."""


@dataclass(frozen=True, slots=True)
class ArmKey:
    """Which arm is meant, whatever it is called."""

    role: Role
    decoding: DecodingName = "sampled"
    control: Control | None = None
    """What it controls for; None for the rung itself."""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.role, self.control, self.decoding)))


ARMS = Schema(
    "arms",
    (
        Column("arm", pl.String, "short unique name of one way of answering"),
        Column("label", pl.String, "the arm in human words"),
        Column("role", pl.String, "what it is there for, as `Role` lists; a control has the role of its rung"),
        Column("decoding", pl.String, "sampled: as the study samples; greedy: one completion at temperature 0"),
        Column("control", pl.String, "what it controls for, as `Control` lists; null for a model or a rung"),
        Column("control_of", pl.String, "for a control, the arm of its rung; else null"),
    ),
)
"""The arms of a study."""


def arm_row(name: str, key: ArmKey, *, label: str = "", control_of: str | None = None) -> dict[str, object]:
    """A row of `ARMS`; an arm without a label goes by its name."""
    named = {"arm": name, "label": label or name, "control_of": control_of}
    return named | {"role": key.role, "decoding": key.decoding, "control": key.control}


TWO_MODELS = ARMS.frame([arm_row(role, ArmKey(role)) for role in (Role.BASE, Role.TUNED)])
"""The arms `base` and `tuned`: what has been sampled from a pair alone."""

_WRITER = Column("writer", pl.String, "whose completion it is: base or tuned")
_PROBLEM = Column("problem_id", pl.String, "the problem it answers")
_SAMPLE = Column("sample_index", pl.Int32, "number of the sample of this problem, from 0")

SCORES = Schema(
    "scores",
    (
        _WRITER,
        _PROBLEM,
        _SAMPLE,
        Column("n_tokens", pl.Int32, "tokens of the completion, its end token included"),
        Column("logp_base", pl.Float64, "nats: log-probability of the completion under the base model, temperature 1"),
        Column("logp_tuned", pl.Float64, "nats: the same under the tuned model"),
        Column(
            "token_kl",
            pl.Float64,
            "nats: sum over tokens of the divergence of the writer's next-token distribution from the other model's",
        ),
    ),
)
"""Samples of either model at temperature 1 without top-p, read by both."""

RANKS = Schema(
    "ranks",
    (
        _WRITER,
        _PROBLEM,
        _SAMPLE,
        Column("position", pl.Int32, "token of the completion that is at stake, from 0"),
        Column("rank", pl.Int32, "rank of the tuned model's first choice among the base model's; 1: they agree"),
        Column("entropy", pl.Float64, "nats: entropy of the base model's next-token distribution"),
    ),
)
"""Every token of some completions, and what either model would have written there."""

PROCESS = Schema(
    "process",
    (
        Column("reader", pl.String, "who goes on from the steps: base or tuned"),
        _PROBLEM,
        _SAMPLE,
        Column("step", pl.Int32, "steps of the tuned model's completion that were read, from 0"),
        Column("n_steps", pl.Int32, "steps that the whole completion has"),
        Column("logp_answer", pl.Float64, "nats: log-probability of the gold answer, asked for after those steps"),
        Column("leaked", pl.Boolean, "one of those steps states the gold answer"),
        Column("early_correct", pl.Boolean, "asked for the answer after those steps, the reader gives the gold one"),
        Column(
            "followed",
            pl.Boolean,
            "with the last of those steps falsified, the reader ends with what follows from it; null at step 0",
        ),
    ),
)
"""Completions of the tuned model, cut after each step."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """The tables of one pair and task; `scores`, `ranks`, `process` or `old_verdicts` may have no rows."""

    arms: pl.DataFrame
    """`ARMS`: the base, the tuned model, and every arm of the ladder."""
    verdicts: pl.DataFrame
    """`VERDICTS` of these arms, all on the same problems."""
    scores: pl.DataFrame
    """`SCORES`, for the same samples as the verdicts of base and tuned model, or the first few of each problem."""
    ranks: pl.DataFrame
    """`RANKS`."""
    process: pl.DataFrame
    """`PROCESS`."""
    old_verdicts: pl.DataFrame
    """`VERDICTS` of `Role.BASE` and `Role.TUNED`, called so, on a task that the tuning was not about."""

    def __post_init__(self) -> None:
        for schema in (ARMS, VERDICTS, SCORES, RANKS, PROCESS):
            schema.checked(getattr(self, schema.name))
        VERDICTS.checked(self.old_verdicts)
        for name in ("verdicts", "old_verdicts"):
            verdicts = getattr(self, name)
            n_problems = verdicts["problem_id"].n_unique()
            for arm, n_mine in verdicts.group_by("arm").agg(pl.col("problem_id").n_unique()).iter_rows():
                if n_mine < n_problems:
                    raise EstimateError(
                        f"in {name} the arm {arm!r} has {n_mine} of {n_problems} problems: want every arm on the same "
                        "problems"
                    )
        named, judged = self.arms["arm"].to_list(), {*self.verdicts["arm"]}
        if len(named) != len(judged) or {*named} != judged:
            raise EstimateError(f"arms {sorted(named)}, but verdicts of {sorted(judged)}: want the same, each once")
        known = self.verdicts["problem_id"].unique().to_list()
        for name in ("scores", "ranks", "process"):
            strangers = getattr(self, name).filter(~pl.col("problem_id").is_in(known))["problem_id"]
            if len(strangers):
                raise EstimateError(f"{name} has rows of {strangers[0]!r}, a problem without verdicts: give both")


def arm_of(evidence: Evidence, key: ArmKey) -> str | None:
    """What the arm that `key` means is called; None where there is none, EstimateError where there are several."""
    same = (
        (pl.col("role") == key.role) & (pl.col("decoding") == key.decoding) & pl.col("control").eq_missing(key.control)
    )
    names = evidence.arms.filter(same)["arm"].to_list()
    if len(names) > 1:
        raise EstimateError(f"{', '.join(names)} are all {key}: an estimator needs to know which")
    return names[0] if names else None
