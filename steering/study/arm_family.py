"""arm_family: which kind of help an arm is, read off what it does."""

from lab.elicitation.prompts import BestPrompt
from lab.report.ledger import Family
from steering.hybrid.act import Steer, Sweep, TunedChooser
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.router import BaseProbe, EntropyAbove, Never, Scheduled
from steering.hybrid.vector_table import PerCategory
from steering.study.arms import Arm


def arm_family(arm: Arm) -> Family:
    """The group of the ladder in which an arm, or the rung that it controls, is shown."""
    if arm.is_rival:
        return "rival"
    match arm.way:
        case BestPrompt():
            return "prompt"
        case Hybrid(router=Never()):
            return "decoding"
        case Hybrid(act=Sweep(chooser=TunedChooser())):
            return "selector"
        case Hybrid(act=Steer() | Sweep()) as hybrid if hybrid.needs_tuned:
            return "tuned router"
        case Hybrid(act=Steer(table=table) | Sweep(table=table), router=router):
            own = isinstance(router, BaseProbe | EntropyAbove | Scheduled) or isinstance(table, PerCategory)
            return "own router" if own else "vector"
        case Hybrid():
            return "takeover"
        case _:
            return "decoding"
