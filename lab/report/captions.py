"""Captions: the words of a report that do not depend on its numbers, as trusted HTML."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """The words around one figure."""

    head: str
    """Heading and lead, above it."""
    says: str
    """Plain text, read aloud in place of the figure."""
    key: str
    """How to read its marks, below it; may be empty."""


HOW_TO_READ = (
    '<p class="how"><b>Strict</b> counts an answer only if every step is valid; brackets are 95 % intervals.<br>'
    "A <b>share</b> is the part of the base-to-tuned gain that a method recovers: trust what exceeds its control.</p>"
)
LADDER = Caption(
    head="<h2>How far each kind of help lifts the base model</h2>"
    "<p>The base model is at the bottom, the tuned model at the top. Every rung between is the base model with one "
    "kind of help; the shaded stretch is the gain to be explained.</p>",
    says="Strict accuracy of every rung; the table below holds the numbers.",
    key="Lines are 95 % intervals, resampling problems and pairing arms on the same problems and random numbers. "
    "Hollow marks are controls of the rung right above them. Pink rungs use information from the tuned model at "
    "test time; rungs of other inks use none.",
)
GUESS = Caption(
    head="<h2>What guessing alone would earn</h2>"
    "<p>Answers scored against the gold answers of <em>other</em> problems. Answer-only accuracy means something only "
    "above this floor.</p>",
    says="Answer-only accuracy that guessing alone would earn, for each way of answering.",
    key="",
)
PASS_AT_K = Caption(
    head="<h2>With more tries</h2>"
    "<p>Share of problems solved at least once in k samples. Where the base catches up with the tuned model, the skill "
    "was within its reach. Answer-only curves also rise by lucky guesses, so trust the strict ones.</p>",
    says="Share of problems solved within k tries, strict and answer only.",
    key="",
)
COVER = Caption(
    head="<h2>How reliably</h2>"
    "<p>Share of problems whose samples are right at least a fraction τ of the time. A curve that stays high to the "
    "right is a model that is right always, not now and then.</p>",
    says="Share of problems solved at least a fraction tau of the time, strict and answer only.",
    key="",
)
FAMILIES = Caption(
    head="<h2>By kind of problem</h2><p>Accuracy at the first try, split by family.</p>",
    says="Accuracy at the first try inside each family of problems, strict and answer only.",
    key="Bars are 95 % intervals. Points of one family are set slightly apart so that no bar hides another.",
)
TRACES = (
    "<h2>Where steering happened</h2>"
    "<p>Example completions, token by token. Hover over a token for its route and log-probability.</p>"
)
PROVENANCE = "<h2>Where these numbers come from</h2>"
