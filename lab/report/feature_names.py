"""Feature names: what the models, the contrast and the behaviour of a page of features are called."""

from dataclasses import dataclass


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
