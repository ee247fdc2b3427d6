"""Estimator words: what each estimator asks, what its quantities mean, and why two of them need not agree."""

from typing import NamedTuple

ASKS = {
    "E1": ("Strict coverage", "Does the base ever solve the problem, in many tries and by a valid process?"),
    "E2": (
        "Reach",
        "How likely is the base to solve the problem? Read off samples of both models, weighted by how likely the "
        "base was to write each, so that chances too small for the base's own samples still show.",
    ),
    "E3": ("Selection", "How much of the change is mere selection among what the base already writes?"),
    "E4": ("Tokens", "At which tokens do the two models differ, and does writing those for the base bring the gain?"),
    "E5": ("Steering", "How far does one vector, added inside the base where its answer begins, get it?"),
    "E8": ("Process", "Do the written steps carry the answer, or was it settled before them?"),
    "E10": ("Forgetting", "What did the tuning cost on a task that it was not about?"),
}
"""Estimator -> its name and what it asks."""
_MEANINGS = (
    ("E1", "strict pass@1,", "solved at the first try by a valid process"),
    ("E1", "strict pass@", "solved at least once in that many tries"),
    ("E1", "tuned minus base, pass@", "how much more the tuned model solves in that many tries"),
    ("E1", "Cover@", "problems solved at least that fraction of the time"),
    ("E1", "SRR", "of the problems that the base solved, those that the tuned model still solves"),
    ("E1", "NDR", "of the problems that the tuned model solved, those that the base never did"),
    ("E1", "SDS", "harmonic mean of the two above"),
    ("E1", "NSCR", "newly solved minus no longer solved, over all that either solved"),
    ("E1", "detectability floor", "a success rate so low that all samples of a problem miss it one time in twenty"),
    ("E1", "gain on problems", "the part of the gain on problems that the base solved in at least one sample"),
    ("E2", "base success, counted", "successes among the base's own samples"),
    ("E2", "base success, PassUntil", "the same, each problem sampled until it has a few successes"),
    (
        "E2",
        "base success, importance",
        "read off samples of both models, weighted by how likely the base was to write them",
    ),
    (
        "E2",
        "effective sample size",
        "how many equally weighted samples that is worth; under about ten it hangs on chance",
    ),
    ("E2", "bits of selection", "how often the base's success rate must double to reach the tuned model's"),
    (
        "E2",
        "base-equivalent budget",
        "base samples among which one succeeds as often as a single sample of the tuned model",
    ),
    (
        "E2",
        "gain within",
        "the part of the gain on problems where 1,000 base samples, if not said otherwise, do as well as one tuned",
    ),
    ("E3", "KL of tuned from base", "how far tuning moved what the model writes"),
    (
        "E3",
        "filtering share",
        "the part of the whole change that selecting right answers needs at least; not a part of the gain itself",
    ),
    ("E3", "filtering", "the least that any model must change to be right as often"),
    ("E3", "mode change", "the change among right answers, to other ways of being right"),
    ("E3", "waste", "the change among wrong answers"),
    ("E3", "KL, summed", "the whole change, measured in another way"),
    ("E3", "parts minus", "a check of the two measurements: its interval should hold 0"),
    ("E4", "shifted tokens", "the tuned model's first choice is beyond the base's first few"),
    (
        "E4",
        "reranked tokens replaced",
        "the part of the greedy gain that comes back when reranked tokens alone are written for the base",
    ),
    ("E4", "reranked tokens", "the tuned model's first choice is among the base's first few, but not its first"),
    ("E4", "entropy where reranked", "how much less sure the base is at reranked tokens"),
    ("E4", "base's second choice", "a control: what the base's own second choice brings at reranked tokens"),
    ("E4", "random likely token", "a control: what as many replacements elsewhere bring"),
    ("E5", "fitted vector", "the part of the gain that the vector brings; trust what exceeds random vectors"),
    ("E5", "random vectors", "a control: what vectors of the same length and no meaning bring"),
    ("E5", "fitted over random", "what the vector brings beyond them"),
    (
        "E8",
        "information gain before",
        "how much likelier the steps make the right answer, up to the step that states it",
    ),
    ("E8", "information gain, whole", "the same over all steps"),
    ("E8", "counterfactual-follow", "with a step falsified, how often the reader ends with what follows from it"),
    ("E8", "early answers", "asked for the answer there, how often the reader is right"),
    ("E10", "KL of base from tuned", "how far tuning moved the model on the task that it was about"),
    ("E10", "old-task drop per nat", "accuracy lost for each nat of that change"),
    ("E10", "old-task drop", "accuracy lost on a task that the tuning was not about"),
)
"""Estimator, how the quantity begins, and its meaning; the first that fits holds."""


def quantity_words(estimator: str, quantity: str) -> str:
    """The meaning in plain words; empty for a quantity that is not known here."""
    return next(
        (words for name, start, words in _MEANINGS if name == estimator and quantity.startswith(start)),
        "",
    )


class Reason(NamedTuple):
    """Why two shares may differ though neither is wrong."""

    first: str
    """How the estimator and quantity of one begin, such as `E3` or `E5 fitted vector`."""
    second: str
    """The other's; empty for any."""
    words: str


REASONS = (
    Reason(
        "E5 fitted vector at the first token, sampled",
        "E5 fitted vector at the first token, greedy",
        "sampling adds slips that a vector at the first token does not mend, and greedy decoding takes them from both "
        "models, so the two gains are not the same",
    ),
    Reason(
        "E3",
        "",
        "E3 measures how far tuning moved the model and how much of that is selection, not where the gain came from: a "
        "skill that was taught can need as little change as one that was there",
    ),
    Reason(
        "E4",
        "",
        "E4 reads the tuned model while the base answers and writes its tokens, so it is blind to whether the base "
        "would have reached them by itself",
    ),
    Reason(
        "E1",
        "E2",
        "E1 counts only problems that the base solved in the samples drawn, so it grows with their number; E2 also "
        "reads chances too small to show in them",
    ),
    Reason(
        "E1",
        "E5",
        "E1 asks what the base ever solves in many samples and depends on their number; E5 asks what one vector makes "
        "it do at once, so it is low where the gain needs more than one direction",
    ),
    Reason(
        "E2",
        "E5",
        "E2 asks what is within the base's reach in many tries; E5 asks what one vector makes it do at once, so it is "
        "low where the gain needs more than one direction",
    ),
)
"""What is known of how the estimators differ, the more particular first; the first that fits two shares holds."""


def declared_reason(one: str, other: str) -> str:
    """Why two shares, each an estimator and a quantity, may differ; empty where no reason is known.

    Two of one estimator need a reason that speaks of both.
    """
    same = one.split(" ")[0] == other.split(" ")[0]
    return next((reason.words for reason in REASONS if (reason.second or not same) and _fits(reason, one, other)), "")


def _fits(reason: Reason, one: str, other: str) -> bool:
    return any(_begins(a, reason.first) and _begins(b, reason.second) for a, b in ((one, other), (other, one)))


def _begins(name: str, start: str) -> bool:
    return not start or f"{name} ".startswith(f"{start} ")
