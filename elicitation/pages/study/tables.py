"""Report tables: what a study's report is drawn from, each table with a declared schema."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema

_ARM = Column("arm", pl.Utf8, "Short unique name of one way of answering, such as `base` or `vector.random`.")
_LABEL = Column("label", pl.Utf8, "The arm in human words.")
_MEASURE = Column(
    "measure",
    pl.Utf8,
    "`strict`: right answer by a valid process (right answer, where no process can be checked); `answer`: right "
    "answer only.",
)
_CURVE = (_ARM, _LABEL, _MEASURE)


def _ends(of: str, name: str = "", how: str = "; problems are resampled", *, pair: str = "") -> tuple[Column, Column]:
    """Both ends of the interval of the column `name`, or of a table's main value; `pair` is `paired `, if it is."""
    low, high = (f"{end} end of the {pair}95 % interval of {of}" for end in ("Lower", "Upper"))
    return Column(f"{name}low", pl.Float64, f"{low}{how}."), Column(f"{name}high", pl.Float64, f"{high}.")


_VALUE = _ends("the value")

Family = Literal[
    "end", "prompt", "decoding", "vector", "own router", "tuned router", "selector", "takeover", "published"
]
"""Which kind of help a rung is, in the order of the ladder; a control is of its rung's family, a model an `end`."""

LADDER = Schema(
    "ladder",
    (
        _ARM,
        _LABEL,
        Column(
            "kind", pl.Utf8, "`end`: the base or the tuned model; `rung`: one kind of help; `control`: its placebo."
        ),
        Column(
            "role",
            pl.Utf8,
            "What the arm is there for, as `lab.scoring.evidence.Role` lists: `base`, `tuned`, or one kind of help, "
            "which a control shares with its rung.",
        ),
        Column("decoding", pl.Utf8, "`sampled`: as the study samples; `greedy`: one completion at temperature 0."),
        Column(
            "control",
            pl.Utf8,
            "What it controls for, as `lab.scoring.evidence.Control` lists; null for what is no control.",
        ),
        Column("control_of", pl.Utf8, "For a control, the arm of its rung; else null."),
        Column(
            "family",
            pl.Utf8,
            "Kind of help: `prompt` (or how it is read), `decoding`, `vector` (everywhere, or at fixed tokens), `own "
            "router` (the base says when), `tuned router` (the tuned model does), `selector` (it picks among "
            "candidates), `takeover` (it writes the token), `published` (a published method); `end` for both models.",
        ),
        Column("order", pl.Int32, "Place on the ladder; the base is lowest, the tuned model highest."),
        _MEASURE,
        Column("accuracy", pl.Float64, "Pass@1, a fraction: the mean over problems of the mean over samples."),
        *_ends("the accuracy"),
        Column("gain", pl.Float64, "Accuracy minus the base's on the same problems, a fraction."),
        *_ends("the gain", "gain_", "", pair="paired "),
        Column("share", pl.Float64, "Gain over the tuned model's gain; NaN where undefined or refused."),
        *_ends("the share", "share_", ""),
        Column(
            "over_control",
            pl.Float64,
            "Accuracy minus that of the rung's best control on the same problems, a fraction; NaN where there is none.",
        ),
        *_ends("that difference", "over_control_", "", pair="paired "),
        Column("refusal", pl.Utf8, "Why no share is given; null where it is given or has no meaning."),
        Column("steered_share", pl.Float64, "Fraction of emitted tokens at which the arm intervened."),
        Column("bits_per_token", pl.Float64, "Information from the tuned model at test time; infinite for itself."),
        *_ends("the bits per token", "bits_"),
        Column("bits_per_problem", pl.Float64, "Bits that one completion took, averaged over problems."),
        *_ends("the bits per problem", "bits_per_problem_", ""),
        Column("cost", pl.Float64, "Tokens generated for an answer, as a multiple of the base's single sample."),
        Column("truncated", pl.Float64, "Fraction of completions that reached the token limit."),
        Column("n_problems", pl.Int32, "Problems answered."),
        Column("n_samples", pl.Int32, "Samples of each problem."),
    ),
)
OUTCOME_SHARES = Schema(
    "outcomes",
    (
        _ARM,
        _LABEL,
        Column("right", pl.Float64, "Fraction of completions whose answer is right."),
        Column("wrong", pl.Float64, "Fraction that state another answer."),
        Column("no_answer", pl.Float64, "Fraction that ended by themselves and state none."),
        Column("cut", pl.Float64, "Fraction not right and ended by the token limit, or inside a thought."),
        Column(
            "lenient",
            pl.Float64,
            "Right answers where the same completions are read for the first one that they state; NaN where no such "
            "reading is known, or it was not tried.",
        ),
        Column("n_completions", pl.Int32, "Completions in all."),
    ),
)
PASS_AT_K = Schema(
    "pass_at_k",
    (
        *_CURVE,
        Column("k", pl.Int32, "Number of tries."),
        Column("value", pl.Float64, "Probability that at least one of k samples is right, averaged over problems."),
        *_VALUE,
    ),
)
COVER = Schema(
    "cover",
    (
        *_CURVE,
        Column("tau", pl.Float64, "Reliability asked for: a fraction of the samples of one problem."),
        Column("value", pl.Float64, "Fraction of problems whose success rate is at least tau."),
        *_VALUE,
    ),
)
FAMILIES = Schema(
    "families",
    (
        *_CURVE,
        Column("family", pl.Utf8, "Group of problems, such as the number of steps; rows come in display order."),
        Column("value", pl.Float64, "Pass@1 inside the family, a fraction."),
        *_VALUE,
        Column("n_problems", pl.Int32, "Problems in the family."),
    ),
)
PUBLISHED = Schema(
    "published_hybrids",
    (
        Column("published", pl.Utf8, "Which published method: `P1` or `P2`."),
        _ARM,
        _LABEL,
        Column("fault", pl.Utf8, "Which fault of the published method is switched, in words; null as published."),
        Column("theirs", pl.Float64, "Gap recovered by the method's own formula, a fraction; it has no interval."),
        Column("share", pl.Float64, "Gain over the tuned model's gain; NaN where refused."),
        *_ends("the share", "share_", ""),
        Column("refusal", pl.Utf8, "Why no share is given; null where it is given."),
        Column("accuracy", pl.Float64, "Strict pass@1 of the arm, a fraction."),
        *_ends("the accuracy"),
        Column("gap", pl.Float64, "Strict pass@1 of the tuned model minus the base's, a fraction."),
        Column("truth", pl.Float64, "True share of an organism; NaN where it is not known."),
        Column("n_problems", pl.Int32, "Problems answered."),
    ),
)
GUESS = Schema(
    "guess",
    (
        _ARM,
        _LABEL,
        Column("value", pl.Float64, "Answer-only accuracy against the gold answers of other problems, a fraction."),
        *_VALUE,
    ),
)
EXAMPLES = Schema(
    "examples",
    (
        _ARM,
        _LABEL,
        Column("problem_id", pl.Utf8, "Identity of the problem in its task."),
        Column("prompt", pl.Utf8, "The exact text that was continued."),
        Column("gold", pl.Utf8, "Gold answer."),
        Column("text", pl.Utf8, "The completion."),
        Column("tokens", pl.List(pl.Utf8), "The completion, token by token."),
        Column(
            "routes",
            pl.List(pl.UInt8),
            "Per token: 0 the base alone, 1 steered, 2 from the tuned model (all of its own).",
        ),
        Column("logprobs", pl.List(pl.Float32), "Per token: natural log-probability under the emitting distribution."),
        Column("answer_correct", pl.Boolean, "The final answer equals the gold answer."),
        Column("process_valid", pl.Boolean, "Every step is true and used; null where it cannot be checked."),
        Column("reason", pl.Utf8, "`ok`, or the first fault found."),
    ),
)
FORMATS = Schema(
    "formats",
    (
        Column("model", pl.Utf8, "`base` or `tuned`."),
        Column("format", pl.Utf8, "How it was asked: raw text, worked examples, or a chat template; whose, if told."),
        Column("own", pl.Boolean, "Whether the study asks it so."),
        Column("best", pl.Boolean, "Whether most samples were right so, the first of equals."),
        Column("shared", pl.Boolean, "Whether the sum over both models is highest so, the first of equals."),
        Column("strict", pl.Float64, "Strict pass@1 on training problems, a fraction; NaN where it was left out."),
        *_ends("that accuracy"),
        Column("n_problems", pl.Int32, "Training problems it was tried on; none of them is measured elsewhere."),
        Column("n_samples", pl.Int32, "Samples of each; null where it was left out."),
        Column("left_out", pl.Utf8, "Why it was not tried; null where it was."),
        Column("example", pl.Utf8, "What the model is shown for the first of them, special tokens as text."),
    ),
)
COMPARISONS = Schema(
    "comparisons",
    (
        Column("comparison", pl.Utf8, "How the two models were asked, in words."),
        Column("base_format", pl.Utf8, "How the base was asked, as `formats` lists."),
        Column("tuned_format", pl.Utf8, "How the tuned model was asked."),
        Column("base", pl.Float64, "Strict pass@1 of the base on held-out problems, a fraction."),
        *_ends("that accuracy", "base_"),
        Column("base_cut", pl.Float64, "Fraction of its completions that were cut before an answer."),
        Column("tuned", pl.Float64, "Strict pass@1 of the tuned model on the same problems, a fraction."),
        *_ends("that accuracy", "tuned_"),
        Column("tuned_cut", pl.Float64, "Fraction of its completions that were cut before an answer."),
        Column("gain", pl.Float64, "The difference, a fraction."),
        *_ends("the gain", "gain_", "", pair="paired "),
        Column("n_problems", pl.Int32, "Held-out problems."),
    ),
)
SCHEMAS = (LADDER, OUTCOME_SHARES, PUBLISHED, GUESS, PASS_AT_K, COVER, FAMILIES, EXAMPLES)
"""Every table of a report, in reading order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportTables:
    """All that a report says of one study. A table without rows leaves its section out; the ladder may not be empty."""

    ladder: pl.DataFrame
    outcomes: pl.DataFrame
    published_hybrids: pl.DataFrame
    guess: pl.DataFrame
    pass_at_k: pl.DataFrame
    cover: pl.DataFrame
    families: pl.DataFrame
    examples: pl.DataFrame

    def __post_init__(self) -> None:
        for schema in SCHEMAS:
            schema.checked(getattr(self, schema.name))


def rungs(ladder: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Rows of one measure from the base up, each rung's controls right under it; EstimateError if ends are missing."""
    rows = ladder.filter(pl.col("measure") == measure)
    ends = rows.filter(pl.col("kind") == "end")
    if ends.height != 2:
        raise EstimateError(
            f"ladder: {ends.height} {measure} rows of kind 'end'; want two, the base and the tuned model"
        )
    mains = rows.filter(pl.col("kind") != "control")
    controls = rows.filter(pl.col("kind") == "control")
    lost = controls.filter(~pl.col("control_of").fill_null("").is_in(mains["arm"].to_list()))["arm"].to_list()
    if lost:
        raise EstimateError(f"ladder: controls {lost} belong to no arm; let control_of name an arm of the ladder")
    place = mains.select(_main=pl.col("arm"), _place=pl.col("order"))
    return (
        rows.with_columns(_main=pl.col("control_of").fill_null(pl.col("arm")), _top=pl.col("kind") != "control")
        .join(place, on="_main", how="left", maintain_order="left")
        .sort("_place", "_main", "_top", "order", maintain_order=True)
        .drop("_main", "_top", "_place")
    )
