"""reference: hybrids by their definition, one text at a time, without a cache and without a batch.

For every token the base model reads the whole text, and so does the tuned one where the hybrid needs it; an
intervention reads it again with its edit at the right positions, a sweep once for each candidate. Every decision comes
with its margin, so that a token which rounding may turn can be told from one that it may not.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from math import inf, log, log2
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.seeds import child_seed, uniforms
from lab.sampling.trace import Decoding, pick
from lab.tasks.problem import Problem
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, Intervention, Router
from steering.hybrid.interventions import (
    CANDIDATE,
    CATEGORY,
    LIKELY_TOKEN,
    Drawn,
    FirstChooser,
    LikelyToken,
    PerCategory,
    RandomCategory,
    RandomChooser,
    SecondChoice,
    Steer,
    Sweep,
    Takeover,
    TunedChooser,
    VectorTable,
)
from steering.hybrid.routers import (
    ROUTER_KEY,
    Always,
    AtRandom,
    AtSteps,
    BaseProbe,
    Disagreement,
    EntropyAbove,
    InCategories,
    LinearProbe,
    Never,
    Reranked,
    Scheduled,
)


class Written(NamedTuple):
    """One token, and all that a trace records of it."""

    token: int
    logprob: float
    route: int
    category: int
    content_bits: float
    margin: float
    """How far the closest decision behind the token was from another outcome, in the unit that it was made in."""


class Edited(NamedTuple):
    """An edit and the positions of the text at which it acts."""

    edit: Add
    positions: list[int]


class Reading(NamedTuple):
    """What a model makes of a text, at its last token."""

    logits: Float[Tensor, " d_vocab"]
    streams: dict[Site, Float[Tensor, " d_model"]]


class Choice(NamedTuple):
    """One of several things numbered from 0, and the margin by which it was chosen."""

    number: int
    margin: float


UNASKED = Choice(-1, inf)
"""No category was asked, and nothing was close."""


class Offer(NamedTuple):
    """What an intervention gives a token to be drawn from."""

    logits: Float[Tensor, " d_vocab"]
    route: int
    margin: float = inf
    category: int = -1
    choice_bits: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """All that a hybrid knows before it writes a token."""

    pair: ModelPair
    text: Sequence[int]
    key: np.uint64
    step: int
    kept: Sequence[Edited]
    """Edits that the base remembers."""
    base: Reading
    tuned: Reading | None
    """None where the hybrid does without."""

    @property
    def tuned_reading(self) -> Reading:
        """Of the tuned model, by a hybrid that needs it."""
        assert self.tuned is not None, "a hybrid that reads the tuned model needs it"
        return self.tuned


def write(
    pair: ModelPair,
    hybrid: Hybrid,
    problem: Problem,
    decoding: Decoding,
    *,
    seed: int,
    sample_index: int = 0,
) -> list[Written]:
    """One completion of `problem`, with arguments as `lab.sampling.sample.sample` has them."""
    ends, watched = pair.base.ends, sites_read(hybrid)
    key = np.uint64(child_seed(seed, problem.id, sample_index))
    text = list(pair.base.tokenizer(problem.prompt).input_ids)
    written: list[Written] = []
    kept: list[Edited] = []
    for step in range(decoding.max_new_tokens):
        base = read(pair.base, text, kept, watched)
        tuned = read(pair.tuned, text, (), watched) if hybrid.needs_tuned else None
        now = Moment(pair, tuple(text), key, step, tuple(kept), base, tuned)
        one = write_token(now, hybrid, decoding)
        if one.route and isinstance(hybrid.intervention, Steer) and hybrid.intervention.memory == "kept":
            kept.append(edit_here(hybrid.intervention.table, now)[0])
        written.append(one)
        text.append(one.token)
        if one.token in ends:
            break
    return written


def write_token(now: Moment, hybrid: Hybrid, decoding: Decoding) -> Written:
    """The next token."""
    away, asked = routed(hybrid.router, now)
    offer = acted(hybrid.intervention, now) if away else Offer(now.base.logits, 0)
    drawn, logprob = drawn_from(offer.logits, now, decoding)
    bits = offer.choice_bits
    if offer.route == 2:
        bits = -float(now.base.logits.double().log_softmax(dim=0)[drawn.number]) / log(2)
    category = offer.category
    if away and category == -1 and isinstance(hybrid.router, InCategories):
        category = asked.number
    return Written(drawn.number, logprob, offer.route, category, bits, min(asked.margin, offer.margin, drawn.margin))


def acted(intervention: Intervention, now: Moment) -> Offer:
    """What happens at a routed token."""
    match intervention:
        case Steer(table=table):
            here, category = edit_here(table, now)
            return Offer(read(now.pair.base, now.text, [*now.kept, here]).logits, 1, category.margin, category.number)
        case Sweep():
            return swept(intervention, now)
        case Takeover():
            return Offer(now.tuned_reading.logits, 2)
        case SecondChoice():
            ordered = now.base.logits.sort(descending=True)
            return Offer(certain(now, int(ordered.indices[1])), 1, smallest_step(ordered.values[:3]))
        case LikelyToken(top=top):
            ordered = now.base.logits.sort(descending=True)
            place = int(random_number(now.key ^ LIKELY_TOKEN, now.step) * top)
            return Offer(certain(now, int(ordered.indices[place])), 1, smallest_step(ordered.values[: top + 1]))


def swept(sweep: Sweep, now: Moment) -> Offer:
    """A pass for each dose and window, and a chosen one of their most likely tokens."""
    edit, category = looked_up(sweep.table, now)
    candidates = []
    for dose in sweep.doses:
        for window in sweep.windows:
            positions = range(len(now.text) if window is None else min(window, len(now.text)))
            scaled = Edited(replace(edit, dose=dose * edit.dose), [len(now.text) - 1 - back for back in positions])
            candidates.append(highest(read(now.pair.base, now.text, [scaled]).logits))
    tokens = [candidate.number for candidate in candidates]
    margin, bits = min(category.margin, *(candidate.margin for candidate in candidates)), 0.0
    match sweep.chooser:
        case TunedChooser():
            different = list(dict.fromkeys(tokens))
            best = highest(now.tuned_reading.logits[different])
            token, margin, bits = different[best.number], min(margin, best.margin), log2(len(different))
        case RandomChooser():
            token = tokens[int(random_number(now.key ^ CANDIDATE, now.step) * len(tokens))]
        case FirstChooser():
            token = tokens[0]
    return Offer(certain(now, token), 1, margin, category.number, bits)


def routed(router: Router, now: Moment) -> tuple[bool, Choice]:
    """Whether the next token is taken from the base; the margin, beside the category where the router asks for one."""
    match router:
        case Never():
            return False, UNASKED
        case Always():
            return True, UNASKED
        case AtSteps(steps=steps):
            return now.step in steps, UNASKED
        case AtRandom(rate=rate):
            return random_number(now.key ^ ROUTER_KEY, now.step) < rate, UNASKED
        case Scheduled(rates=rates):
            return random_number(now.key ^ ROUTER_KEY, now.step) < rates[min(now.step, len(rates) - 1)], UNASKED
        case EntropyAbove(nats=nats):
            shares = now.base.logits.double().softmax(dim=0)
            above = float(-(shares * shares.log()).sum()) - nats
            return above > 0, Choice(-1, abs(above))
        case BaseProbe(probe=probe):
            score = float(now.base.streams[probe.site].double() @ probe.weight.double()) + probe.bias
            return score > 0, Choice(-1, abs(score))
        case Disagreement():
            ours, theirs = highest(now.base.logits), highest(now.tuned_reading.logits)
            return ours.number != theirs.number, Choice(-1, min(ours.margin, theirs.margin))
        case Reranked(top=top):
            wanted = highest(now.tuned_reading.logits)
            ahead = now.base.logits - now.base.logits[wanted.number]
            # The first is the token itself.
            closest = float(ahead.abs().sort().values[1])
            return 0 < int((ahead > 0).sum()) < top, Choice(-1, min(wanted.margin, closest))
        case InCategories(taxonomy=taxonomy, categories=categories):
            found = category_of(taxonomy, now.tuned_reading)
            return found.number in categories, found


def looked_up(table: VectorTable, now: Moment) -> tuple[Add, Choice]:
    """The edit of the next token, and the category that named it."""
    match table:
        case Drawn(edits=edits):
            return plain(edits[int(now.key) % len(edits)]), UNASKED
        case RandomCategory(edits=edits):
            return plain(edits[int(random_number(now.key ^ CATEGORY, now.step) * len(edits))]), UNASKED
        case PerCategory(taxonomy=taxonomy, reader=reader, edits=edits):
            found = category_of(taxonomy, now.base if reader == "base" else now.tuned_reading)
            return plain(edits[found.number]), found


def edit_here(table: VectorTable, now: Moment) -> tuple[Edited, Choice]:
    """The edit of the next token at the last token of the text, and the category that named it."""
    edit, category = looked_up(table, now)
    return Edited(edit, [len(now.text) - 1]), category


def plain(edit: object) -> Add:
    """The one kind of edit that the reference knows: a vector added wherever it acts."""
    assert isinstance(edit, Add)
    return edit


def category_of(taxonomy: Taxonomy, reading: Reading) -> Choice:
    """The category in which a model's stream at its last token falls."""
    stream = reading.streams[taxonomy.site]
    return Choice(int(taxonomy.category(stream)), highest(taxonomy.scores(stream)).margin)


def sites_read(hybrid: Hybrid) -> set[Site]:
    """Where the hybrid looks at a stream."""
    sites: set[Site] = set()
    match hybrid.router:
        case BaseProbe(probe=LinearProbe(site=site)) | InCategories(taxonomy=Taxonomy(site=site)):
            sites.add(site)
        case _:
            pass
    match hybrid.intervention:
        case Steer(table=PerCategory(taxonomy=taxonomy)) | Sweep(table=PerCategory(taxonomy=taxonomy)):
            sites.add(taxonomy.site)
        case _:
            pass
    return sites


@torch.inference_mode()
def read(model: Model, text: Sequence[int], edited: Sequence[Edited] = (), watched: Set[Site] = frozenset()) -> Reading:
    """One pass over all of `text`, with edits at some of its positions."""
    streams: dict[Site, Tensor] = {}

    def hooked(site: Site) -> RemovableHandle:
        block = model.anatomy.blocks[site.layer]

        def changed(stream: Tensor) -> Tensor:
            stream = stream.clone()
            for edit, positions in edited:
                if site in edit.vector.directions:
                    stream[0, positions] += edit.dose * edit.vector.directions[site].to(stream.device)
            streams[site] = stream[0, -1]
            return stream

        match site.stream:
            case "resid_pre":

                def before(_: Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                    return changed(args[0]), *args[1:]

                return block.register_forward_pre_hook(before)
            case "resid_post":

                def after(_: Module, __: tuple[Tensor, ...], stream: Tensor) -> Tensor:
                    return changed(stream)

                return block.register_forward_hook(after)

    handles = [hooked(site) for site in watched | {site for edit, _ in edited for site in edit.vector.sites}]
    try:
        logits = model.network(torch.tensor([text], device=model.device), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return Reading(logits[0, -1], streams)


def highest(scores: Float[Tensor, " option"]) -> Choice:
    """The first of the highest scores, and its lead over the next one."""
    leading = scores.sort(descending=True).values[:2]
    return Choice(int(scores.argmax()), smallest_step(leading))


def smallest_step(falling: Float[Tensor, " number"]) -> float:
    """The smallest difference of neighbours; infinite for a single number."""
    return float(-falling.diff().max()) if len(falling) > 1 else inf


def drawn_from(logits: Float[Tensor, " d_vocab"], now: Moment, decoding: Decoding) -> tuple[Choice, float]:
    """A token and its log-probability.

    The margin is the token's lead when greedy, else how far the random number is from the end of any token's share.
    """
    number = random_number(now.key, now.step)
    picked = pick(logits[None], torch.tensor([number], dtype=torch.float64), decoding)
    if decoding.temperature == 0:
        margin = highest(logits).margin
    else:
        borders = (logits.double() / decoding.temperature).softmax(dim=0).cumsum(dim=0)[:-1]
        margin = float((borders - number).abs().min())
    return Choice(int(picked.tokens[0]), margin), float(picked.logprobs[0])


def random_number(key: np.uint64, step: int) -> float:
    """The number in [0, 1) of `key` at `step`."""
    return float(uniforms(np.array([key], dtype=np.uint64), step)[0])


def certain(now: Moment, token: int) -> Float[Tensor, " d_vocab"]:
    """Logits with all probability on `token`."""
    return torch.full_like(now.base.logits, -inf).index_fill(0, torch.tensor([token], device=now.base.logits.device), 0)
