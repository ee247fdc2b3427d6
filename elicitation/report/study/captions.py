"""Captions: the words of a report that do not depend on its numbers, as trusted HTML."""

from dataclasses import dataclass

from elicitation.report.kit.document import guide


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """The words around one figure."""

    head: str
    """Heading and lead, above it."""
    says: str
    """Plain text, read aloud in place of the figure."""
    sees: str
    """What to see in it, in one sentence, below it."""
    key: str = ""
    """How to read its marks, after that."""

    @property
    def below(self) -> str:
        """All that stands below the figure."""
        return below(self.sees, self.key)


def below(sees: str, key: str) -> str:
    """The caption of a figure: what to see, then how to read its marks, either of which may be empty."""
    return " ".join(part for part in (f'<span class="sees">{sees}</span>' if sees else "", key) if part)


LADDER = Caption(
    head="<h2>How far each kind of help lifts the base model</h2>"
    "<p>The base model is at the bottom, the tuned model at the top. Every rung between is the base model with one "
    "kind of help; the shaded stretch is the gain to be explained.</p>",
    says="Strict accuracy of every rung; the table below holds the numbers.",
    sees="See which rungs reach into the shaded stretch, and whether their hollow controls stay behind at the base.",
    key="Lines are 95 % intervals, resampling problems. Arms are paired by problem, and share random numbers for as "
    "many samples as both have. The best rung was chosen among the others by these same numbers; its interval is not "
    "adjusted for that. Hollow marks are controls of the rung right above them; a random control gives every "
    "completion one of many random directions of the same norm. Pink rungs use information from the tuned model at "
    "test time, violet ones are published methods that do so too; rungs of other inks use none.",
)
RECOVERY = Caption(
    head="<h2>What is recovered, and at what price</h2>"
    "<p>Help that takes nothing from the tuned model while it answers stands in the strip at the left: what is "
    "recovered there was in the base model, if the arm does not leak. Further right, more is told by the tuned model, "
    "in bits a token, and at last it writes the answer itself.</p>",
    says="Share of the gain of every rung against bits per token from the tuned model; the table holds the numbers.",
    sees="See how high the marks at the left edge stand above their hollow diamonds: only that speaks for the base.",
    key="Lines are 95 % intervals both ways, resampling problems; marks in the strip are set beside each other only to "
    "be seen, and the axis right of it is logarithmic. A hollow diamond tied to a mark is the arm's leak: what it "
    "brings on organisms whose gain was all taught, where an honest method brings nothing. Its interval is that of the "
    "same organisms with other problems.",
)
LEAK = (
    '<p class="note">The <b>leak</b> is the mean share that the arm recovers on TAUGHT organisms, whose gain was all '
    "taught, so that an honest method recovers none. The line under its interval is the largest gain, in points, over "
    "the arm's control on an organism whose base lacks the skill. Leaks were measured by the calibration, on other "
    "models than these.</p>"
)
GUESS = Caption(
    head="<h2>What guessing alone would earn</h2>"
    "<p>Answers scored against the gold answers of <em>other</em> problems. Answer-only accuracy means something only "
    "above this floor.</p>",
    says="Answer-only accuracy that guessing alone would earn, for each way of answering.",
    sees="See whether these marks lie far below the answer-only accuracies above; if not, those may be luck.",
)
TRACES = (
    "<h2>Where steering happened</h2>"
    "<p>Example completions, token by token. Hover over a token for its route and log-probability.</p>"
)
PROVENANCE = "<h2>Where these numbers come from</h2>"
WITHOUT_SCRIPTS = (
    "The figures need JavaScript. The numbers of the ladder are in the table under it; those of the other figures are "
    "only in the table files listed at the end."
)
_UNCHECKED = "This task's process cannot be checked, so strict accuracy is answer accuracy."


def how_to_read(*, process_checked: bool) -> str:
    """What the words of a report mean."""
    strict = "An answer counts only if every step is valid." if process_checked else _UNCHECKED
    return guide(
        {
            "strict": strict,
            "share": "The part of the gain from base to tuned model that a kind of help recovers: trust what exceeds "
            "its control.",
            "control": "The same help with its point taken out, such as a random vector of the same length; what it "
            "brings, anything would.",
            "leak": "What a kind of help brings on models whose gain was all taught, where it should bring nothing.",
            "held-out": "Problems held out from fitting the vectors; the lab cannot know what the models themselves "
            "were trained on.",
            "pass@k": "How many problems are solved at least once in k tries; pass@1 is plain accuracy.",
            "E1, E2 …": "The lab's estimators: each is one way to tell how much of the gain was already in the base.",
            "organism": "A small model trained so that the true share is known; estimators are tested on these.",
            "bits per token": "How much the tuned model tells the base while it answers; 0 is nothing.",
            "brackets": "95 % intervals, resampling problems.",
        }
    )


def pass_at_k(*, process_checked: bool) -> Caption:
    """Words around the curves of solving at least once."""
    reach = (
        "Where the base catches up with the tuned model on the strict curves, the problem was within its reach. "
        "Answer-only curves also rise by lucky guesses, so trust the strict ones."
        if process_checked
        else "These curves count answers alone and also rise by lucky guesses, so a base that catches up with the "
        "tuned model may only have guessed."
    )
    return Caption(
        head="<h2>With more tries</h2>"
        f"<p>Share of problems solved at least once in k samples. {reach} At k near the number of samples the estimate "
        "hangs on single samples.</p>",
        says=f"Share of problems solved within k tries, {_measures(process_checked)}.",
        sees="See whether the base's curve reaches the tuned model's at the right edge, and at how many tries.",
        key="Bands are 95 % intervals, resampling problems.",
    )


def cover(*, process_checked: bool) -> Caption:
    """Words around the curves of solving reliably."""
    return Caption(
        head="<h2>How reliably</h2>"
        "<p>Share of problems whose samples are right at least a fraction τ of the time. A curve that stays high to "
        "the right is a model that is right always, not now and then.</p>",
        says=f"Share of problems solved at least a fraction tau of the time, {_measures(process_checked)}.",
        sees="See how far to the right each curve stays up: the further, the steadier the model.",
        key="Bands are 95 % intervals, resampling problems.",
    )


def families(*, process_checked: bool) -> Caption:
    """Words around accuracy by family."""
    return Caption(
        head="<h2>By kind of problem</h2><p>Accuracy at the first try, split by family.</p>",
        says=f"Accuracy at the first try inside each family of problems, {_measures(process_checked)}.",
        sees="See whether the gain is spread over all kinds of problem or sits in a few.",
        key="Bars are 95 % intervals. Points of one family are set slightly apart so that no bar hides another.",
    )


def _measures(process_checked: bool) -> str:
    return "strict and answer only" if process_checked else "by answer"
