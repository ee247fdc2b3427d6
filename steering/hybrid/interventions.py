"""Interventions: what happens at a token that is routed away from the base model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lab.models.pair import ModelPair
from steering.edit import apply_each
from steering.hybrid.hybrid import Intervention, Reads, Routed, Written, insisting
from steering.hybrid.sweep import Sweep
from steering.hybrid.vector_table import LIKELY_TOKEN, Tabled, VectorTable, draws, placed_table, start
from steering.hybrid.watched_decoder import begun_at, n_below


@dataclass(frozen=True, slots=True)
class Steer(Tabled):
    """The base model writes under an edit, such as a vector added, of the position it reads last.

    The base's cache then holds that position as it was without the edit ("forgotten": no later token sees the edit
    unless it is routed too), or as it is with the edit ("kept": all later tokens see it).
    """

    table: VectorTable
    memory: Literal["forgotten", "kept"] = "forgotten"

    @property
    def reads(self) -> Reads:
        """At the last position alone."""
        return self.reads_back(1)

    def placed(self, pair: ModelPair) -> "Steer":
        """With a table that fits the models."""
        return replace(self, table=placed_table(pair, self.table))

    def write(self, here: Routed) -> Written:
        """The base's own distribution, with its last position computed again under each row's edit."""
        site, base = start(self.table), here.base
        run = base.cached.revise if self.memory == "kept" else base.cached.again
        with (
            begun_at(base.model, site, base.streams[site][here.rows, -1:]),
            apply_each(base.model, self.table.edits, self.edits(here)),
        ):
            return Written(run(here.rows, first_layer=n_below(site)), "steered")


@dataclass(frozen=True, slots=True)
class Takeover(Intervention):
    """The tuned model's own distribution is used."""

    @property
    def reads(self) -> Reads:
        """The tuned model's logits."""
        return Reads(tuned={})

    def write(self, here: Routed) -> Written:
        """The tuned model's own distribution."""
        return Written(here.tuned_logits, "tuned")


@dataclass(frozen=True, slots=True)
class SecondChoice(Intervention):
    """The base model's own second choice is written: a control of what the gate alone does."""

    def write(self, here: Routed) -> Written:
        """All probability on the second choice."""
        logits = here.logits
        return Written(insisting(logits, logits.topk(2, dim=-1).indices[:, 1]), "steered")


@dataclass(frozen=True, slots=True)
class LikelyToken(Intervention):
    """A uniform draw from the base model's first choices is written: a control."""

    top: int = 5
    """How many first choices."""

    def write(self, here: Routed) -> Written:
        """All probability on the token that the row's key and the step draw."""
        logits = here.logits
        first = logits.topk(min(self.top, logits.shape[1]), dim=-1).indices
        place = draws(LIKELY_TOKEN, here.keys, here.now.step, first.shape[1], first.device)
        return Written(insisting(logits, first.gather(1, place[:, None])[:, 0]), "steered")


INTERVENTIONS: Mapping[str, type[Intervention]] = {
    "steer": Steer,
    "sweep": Sweep,
    "takeover": Takeover,
    "second-choice": SecondChoice,
    "likely-token": LikelyToken,
}
"""Every kind by its name."""
