"""Calibration captions: the words of a calibration page that do not depend on its numbers, as trusted HTML."""

from elicitation.report.kit.document import guide
from elicitation.report.study.captions import Caption

HOW_TO_READ = guide(
    {
        "organism": "A pair of small models made so that the true share is known: how much of the tuned model's gain "
        "was already in its base.",
        "share": "The part of the gain from base to tuned model that was already in the base; 0 % is taught, 100 % was "
        "all there.",
        "estimator": "A way to estimate the share without being told it, named E1, E2 and so on.",
        "trial": "One estimator's answer on one organism, problem mix and seed.",
        "coverage": "How often an estimator's 95 % interval holds the true share.",
        "leak": "The share that is found where the true share is 0.",
        "refused": "An estimator may say that it cannot tell; that is no error, and is counted apart.",
    }
)
SHARES = Caption(
    head="<h2>Estimated against true share</h2>"
    "<p>One panel for each share of each estimator. On the dotted line an estimate is exact.</p>",
    says="Estimated share against true share, one panel an estimator; the tables below hold the numbers.",
    sees="See how close to the dotted line the filled marks lie, and whether their lines cross it.",
    key="Lines are 95 % intervals, resampling problems. Trials of nearly one truth are set slightly apart so that no "
    "interval hides another. Filled marks make the figures of the records; hollow ones do not: what was rare, in "
    "parts or sharpened is a harder question than what was locked, mixed or taught.",
)
RECORDS = (
    "<h2>The record of each estimator</h2>"
    "<p>Over LOCKED, MIXED and TAUGHT organisms; false alarms over PLACEBO and ABSENT. Bias is estimate minus truth. "
    "Replicas are bootstrap resamples of each trial's problems: they scatter around the estimate, not around the "
    "truth, so that an exact interval holds it in some 83 % of them.</p>"
)
KINDS = (
    "<h2>By kind of organism</h2>"
    "<p>The mean share over the trials that gave one, under the mean true share; how many were refused, where any "
    "were.</p>"
)
ALARMS = (
    "<h2>Where there is nothing to find</h2>"
    "<p>PLACEBO was pretrained further and not tuned: any share is a false alarm. ABSENT was tuned on a skill that its "
    "base never saw and gained nothing: a share above 0 is a false alarm.</p>"
)
AGREEMENT = (
    "<h2>Do the estimators agree?</h2>"
    "<p>The distance between two shares on the same trial, over organisms of every kind.</p>"
)
PATH = Caption(
    head="<h2>One round or many</h2>"
    "<p>The path test retrains a base on its own samples that the verifier accepted. What one round from the base "
    "reaches is selection among what it already wrote; what only many rounds reach was climbed to.</p>",
    says="Strict accuracy that each route of retraining reaches; the table below holds the numbers.",
    sees="See whether many rounds reach further than one: only that part was climbed to.",
    key="Lines are 95 % intervals, resampling problems.",
)
LEAKS = (
    "<h2>What each kind of help brings where there is nothing to bring out</h2>"
    "<p>The ladder of a study lifts a base model by many kinds of help. Each was tried on TAUGHT organisms, whose gain "
    "was all taught, so that an honest one recovers none of it, and on organisms without a gain. A report says beside "
    "each kind of help what it leaked here.</p>"
)
FORGETTING = Caption(
    head="<h2>What was forgotten</h2>"
    "<p>Whether a tuned model forgets more of an old task the further the tuning moved it on the new one.</p>",
    says="Accuracy lost on an old task against divergence on the new task; the table below holds the numbers.",
    sees="See whether the marks rise to the right: if so, tuning that moved a model further made it forget more.",
    key="One mark an organism, problem mix and seed. The dotted line is a least-squares fit; cases that share a base "
    "are not independent.",
)
COST = "<h2>What it costs</h2><p>Beyond sampling the two models, which every estimator needs.</p>"
WITHOUT_SCRIPTS = "The figures need JavaScript. Most of their numbers are in the tables under them, all in the files."
