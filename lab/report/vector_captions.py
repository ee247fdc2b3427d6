"""Vector captions: the words of a page of steering vectors that do not depend on its numbers, as trusted HTML."""

from lab.report.feature_captions import FeatureCaption
from lab.report.guide import guide

HOW_TO_READ = guide(
    {
        "steering vector": "A direction that is added to what a model computes; no weight changes.",
        "share": "The part of the gain from base to tuned model that a vector recovers, at the same decoding. Trust "
        "what exceeds the best of its controls.",
        "strict": "An answer counts only if every step is valid, where the task's steps can be checked.",
        "control": "The same procedure where it cannot teach the same, such as a random direction of the same length.",
        "brackets": "95 % intervals, resampling problems; comparisons are paired by problem.",
    }
)
SAMPLED = FeatureCaption(
    title="At temperature 1",
    lead="Strict accuracy on problems that no fit has seen. Each fit stands above its controls: the same procedure "
    "where it cannot teach the same, stretched to the fit's length.",
    says="Strict accuracy of every fit and control at temperature 1; the table below holds the numbers.",
    sees="See which fits reach into the shaded stretch, and whether their hollow controls stay behind at the base.",
    key="Hollow marks are controls. <b>Random directions</b>: each problem has one of many of its own. <b>Shuffled "
    "labels</b>: the same texts with their sides forgotten (for means), with tokens from other places as what comes "
    "next (for gradients), or with rewards for other problems' answers (for the policy gradient). <b>Another task</b> "
    "and <b>placebo pair</b>: fitted on all that two models wrote there, solved or not; for the policy gradient, on "
    "the other task's rewards.",
)
GREEDY = FeatureCaption(
    title="Greedily",
    lead="The same with the most likely token at each step, and so with another base and another gain: what a vector "
    "does to the first choice, without what sampling loses at every step.",
    says="Strict accuracy of every fit and control, decoded greedily; the table below holds the numbers.",
    sees="See which fits change the model's first choice, and whether any hollow control does as well.",
)
FITS = FeatureCaption(
    title="How long the vectors are",
    lead="Norm of each direction beside the mean norm of the model's own stream at the site.",
)
DOSES = FeatureCaption(
    title="Stronger and weaker",
    lead="The same vectors times a dose, at temperature 1.",
    says="Accuracy by dose for every fit; the table below holds the numbers.",
    sees="See at which dose each curve is highest, and how soon it breaks down beyond.",
)
TRANSFERS = FeatureCaption(
    title="Elsewhere, and backwards",
    lead="A vector that carries the skill takes the gain from the tuned model where it is subtracted, acts on a base "
    "of the same kind, and helps no model that has nothing to elicit. At temperature 1.",
    key="Beside random vectors of the same norm, which share the samples. Taking away proves little: random vectors "
    "may break a model as well.",
)
WITHOUT_SCRIPTS = "The figures need JavaScript. Their numbers are in the tables under them."
