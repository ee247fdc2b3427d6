"""Feature captions: the words of a page of features that do not depend on its numbers, as trusted HTML."""

from dataclasses import dataclass

import polars as pl

from elicitation.report.features.tables import FeatureTables, main_effects, ranked_differences
from elicitation.report.kit.canvas import Ruler, changes
from elicitation.report.kit.document import guide
from elicitation.report.kit.tokens import token_word
from elicitation.report.study.captions import below


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCaption:
    """The words around one part of the page."""

    title: str
    lead: str
    says: str = ""
    """Plain text, read aloud in place of the figure."""
    sees: str = ""
    """What to see in the figure, in one sentence, below it; empty where there is none."""
    key: str = ""
    """How to read its marks, after that."""

    @property
    def below(self) -> str:
        """All that stands below the figure."""
        return below(self.sees, self.key)

    def head(self, level: int) -> str:
        """Heading and lead; on a page of its own a part is of level 2, inside another report of level 3."""
        return f"<h{level}>{self.title}</h{level}><p>{self.lead}</p>"


_CHOSEN = (
    "Lines are 95 % intervals, resampling problems. These features were chosen among all by these same numbers; the "
    "intervals are not adjusted for that."
)
HOW_TO_READ = guide(
    {
        "SAE": "A sparse autoencoder: it writes each activation of a model as a sum of a few of its features.",
        "feature": "One direction that an SAE has found in a model's activations; how active it is at a token, is a "
        "number that is 0 or more.",
        "effect": "What a feature adds to a difference of logits, in nats: +0.69 doubles the odds.",
        "logit": "The score of a token before it becomes a probability.",
        "brackets": "95 % intervals, resampling problems.",
    }
)
SECTION = "<h2>What single features do</h2>"
QUALITY = FeatureCaption(
    title="How well the SAE reads the model",
    lead="What the features say can be trusted as far as the SAE keeps what the model uses.",
    key="<b>Dead</b>: features that were active nowhere. <b>L0</b>: how many features are active at once. <b>Explained "
    "variance</b>: how much of the activations' variance the reconstruction keeps; 100 % is all. <b>Cross-entropy "
    "recovered</b>: put in the activations' place, the reconstruction lets the model predict as well as it did (100 %) "
    "or as badly as with their mean (0 %). <b>KL</b>: how far it moves the prediction of the next token, in nats; 0 is "
    "not at all. All on held-out texts, in nats a token.",
)
INTERVENTIONS = FeatureCaption(
    title="Features switched off and on",
    lead="The same held-out problems, answered by the model as it is, with the chosen features acted on, and with as "
    "many random features: ones that fire about as often over all tokens, and, a harder test, <i>opening</i> ones that "
    "fire about as often at the last token of the prompt, where the answer begins. The rate is the probability that an "
    "answer opens so, at temperature 1, which is the share of samples to be expected.",
    says="Rate of the behaviour untouched, with the chosen features and with random ones; the table below holds the "
    "numbers.",
    sees="See whether the chosen features move the rate further from the dotted line than the hollow random ones do.",
    key="Lines are 95 % intervals, resampling problems; changes are paired by problem. Hollow marks are random "
    "features, drawn anew for every problem. A dotted line is the untouched model. Features that act beyond chance "
    "leave the random ones behind.",
)
EFFECTS = FeatureCaption(
    title="Which features push where",
    lead="Effect of each feature, summed over the tokens of a text and averaged over texts.",
    says="Effects of the strongest features with their intervals; the table below holds the numbers.",
    sees="See which features push furthest from 0, and whether their lines stay clear of it.",
    key=_CHOSEN,
)
SCATTER = FeatureCaption(
    title="Rare features and common ones",
    lead="One mark a feature. A feature that matters but is rare is a specialist; one that is active nearly everywhere "
    "acts like a constant.",
    says="Every feature by how often it fires and what it does; the cards below hold the numbers of the strongest.",
    sees="See which marks stand far from 0, and whether they are rare (left) or common (right).",
)
DIFFERENCES = FeatureCaption(
    title="What tuning changed",
    lead="Mean activation as the tuned model reads the texts, minus that as the base reads the same texts.",
    says="Change of mean activation of the features that changed most; the table below holds the numbers.",
    sees="See which features tuning turned up (right of 0) and which it turned down (left).",
    key=_CHOSEN,
)
PROBES = FeatureCaption(
    title="Can a few features tell what a token is?",
    lead="How well each kind of token is told from all others on held-out problems: by the whole stream, by a few "
    "features, and by a control.",
    says="Held-out AUROC of probes, by kind of token; the table below holds the numbers.",
    sees="See how close a few features come to the whole stream, and that the hollow control stays near 0.5.",
    key="AUROC: how often a token of the kind is ranked above one that is not; 0.5 is chance. Lines are 95 % "
    "intervals, resampling problems. Hollow marks are the shuffled control, which should be near 0.5.",
)
CARDS = FeatureCaption(
    title="The features one by one",
    lead="The strongest first. Each text is one of those in which the feature is most active; hover over a token for "
    "its activation.",
)
WITHOUT_SCRIPTS = (
    "The figures need JavaScript. Their numbers are in the tables under them; those of features that have no row there "
    "are only in the table files listed at the end."
)


_NAMED = 3


def method_words(method: str) -> str:
    """A way to an effect, such as `gradient`, in words that may follow `by`."""
    return "integrated gradients" if method == "integrated" else method


def feature_name(feature: int, logit_effects: pl.DataFrame) -> str:
    """`Feature 137 · raises T V`, plain text; a token's own spaces are ␣. Only the number where nothing is known."""
    raised = logit_effects.filter(pl.col("feature") == feature, pl.col("side") == "up").sort("rank")
    tokens = " ".join(token_word(text) for text in raised["text"].head(_NAMED))
    return f"Feature {feature} · raises {tokens}" if tokens else f"Feature {feature}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureNames:
    """Words for sentences and axes; each of them may come from anyone."""

    base: str
    tuned: str
    towards: str
    """What a feature of positive effect raises, such as `T`."""
    over: str
    """What it is weighed against, such as `A`."""
    behaviour: str
    """What the rate of an intervention is the rate of, such as `worked chains`."""


def effect_ruler(ledger: FeatureTables) -> Ruler:
    """For effects in nats, by any method."""
    return changes(main_effects(ledger.effects)["effect"].head(1))


def difference_ruler(ledger: FeatureTables) -> Ruler:
    """For mean activations and their differences."""
    return changes(ranked_differences(ledger.differences)["difference"].head(1))
