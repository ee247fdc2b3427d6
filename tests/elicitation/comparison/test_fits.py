"""A fit on lessons is the vector that its method finds in them, or a reason why there is none."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from elicitation.comparison.config import ComparisonContext
from elicitation.comparison.fits import FIRST, ITSELF, N_SHUFFLES, Entry, TrainingPairs, entries, fit_stage
from elicitation.study.fits import DISAGREEMENTS
from lab.records.errors import VectorError
from lab.sampling.sample import sample
from lab.sampling.trace import TRACES, trace_table
from lab.scoring.scores import trace_rows
from probes.capture.capture import capture
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.fits.fit import Fit, Taught
from steering.fits.fits import DecoderRows
from steering.gate import EVERYWHERE
from steering.vector import SteeringVector

SITE = Site(1)


class Identity(nn.Module):
    """An SAE with a feature for each dimension, of decoder rows that are as long as their number plus one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(torch.diag(torch.arange(1.0, width + 1)), requires_grad=False)

    def encode(self, stream: torch.Tensor) -> torch.Tensor:
        return stream.relu()


def sae(width: int = 4) -> Sae:
    return Sae(name="sae", site=SITE, coder=Identity(width), trained_on=None, digest="0")


def test_features_are_those_whose_rows_move_the_stream_furthest_at_the_dose_of_their_difference():
    positive = torch.tensor([[4.0, 0.0, 2.0, 0.0], [6.0, 0.0, 2.0, 0.0]])
    negative = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    # Differences 4, 0, 2 and -1; times the rows' lengths 1 to 4: 4, 0, 6 and 4.
    vector = DecoderRows(sae(), 1).of_sides(positive, negative)
    assert vector.directions[SITE].tolist() == [0.0, 0.0, 6.0, 0.0]
    both = DecoderRows(sae(), 9).of_sides(positive, negative)
    assert both.directions[SITE].tolist() == [4.0, 0.0, 6.0, -4.0]
    lengths = torch.cat([positive, negative]).norm(dim=-1)
    assert both.residual_norms[SITE] == pytest.approx(float(lengths.mean()))
    assert "decoder rows of SAE sae" in both.description


@pytest.fixture(scope="module")
def with_sae(comparing) -> ComparisonContext:
    return replace(comparing, sae=sae(comparing.context.base.anatomy.d_model))


@pytest.fixture(scope="module")
def taught(comparing) -> TrainingPairs:
    context = comparing.context
    problems = context.fit_task.problems
    by_tuned, by_base = (
        trace_table("x", sample(model, problems, 1, comparing.context.study.decoding, seed=0))
        for model in (context.pair.tuned, context.base)
    )
    return TrainingPairs(
        positive=by_tuned,
        negative=by_base,
        decided=DISAGREEMENTS.frame([]),
        decided_in=by_tuned,
        problems={problem.id: problem for problem in problems},
        description="by both",
        digest="0",
    )


def streams(comparing, site, taught, traces) -> torch.Tensor:
    """One text at a time, where its first token has been read."""
    model, found = comparing.context.base, []
    for row in trace_rows(model, traces, taught.problems):
        tokens = torch.tensor([row.context + row.completion])
        found.append(capture(model, tokens, torch.ones_like(tokens).bool(), [site])[site][0, len(row.context)])
    return torch.stack(found)


def test_every_method_has_an_entry_at_every_layer_that_says_where_it_acts(with_sae):
    listed = {entry.name: (entry.tokens, entry.where) for entry in entries(with_sae)}
    assert listed == {
        "mean-0": ("every token", EVERYWHERE),
        "mean-1": ("every token", EVERYWHERE),
        "mean-first-0": ("first token", FIRST),
        "mean-first-1": ("first token", FIRST),
        "gradient-first-0": ("first token", FIRST),
        "gradient-first-1": ("first token", FIRST),
        "sae": ("first token", FIRST),
    }
    assert "sae" not in {entry.name for entry in entries(replace(with_sae, sae=None))}


def fit_on(comparing, entry, taught):
    return entry.fit.fit(comparing.context.base, entry.sites, taught, seed=comparing.context.study.seed)


def test_means_and_features_are_those_of_the_streams_after_the_first_token(with_sae, taught):
    by_name = {entry.name: entry for entry in entries(with_sae)}
    sides = [streams(with_sae, SITE, taught, traces) for traces in (taught.positive, taught.negative)]
    mean = fit_on(with_sae, by_name["mean-1"], taught)
    torch.testing.assert_close(mean.directions[SITE], sides[0].mean(0) - sides[1].mean(0), rtol=1e-4, atol=1e-5)
    features = fit_on(with_sae, by_name["sae"], taught)
    wanted = DecoderRows(with_sae.sae, with_sae.comparison.n_features).of_sides(*sides)
    torch.testing.assert_close(features.directions[SITE], wanted.directions[SITE], rtol=1e-4, atol=1e-5)


def test_lessons_that_teach_nothing_give_a_reason(with_sae, taught):
    by_name = {entry.name: entry for entry in entries(with_sae)}
    with pytest.raises(VectorError, match="nothing to learn from: no such text or decision among those by both"):
        fit_on(with_sae, by_name["gradient-first-1"], taught)
    with pytest.raises(VectorError, match="0 and 6 traces by both: want one at least on either side"):
        fit_on(with_sae, by_name["mean-1"], replace(taught, positive=TRACES.frame([])))


@dataclass(frozen=True, slots=True)
class Mode(Fit[Taught]):
    """The positive texts' most frequent first token's own embedding: a fit from outside."""

    length: float

    def fit(self, model, sites, lesson, *, seed):
        positive, _ = lesson.sides(model, sites[0])
        direction = torch.nn.functional.normalize(positive.mean(dim=0), dim=0)
        return SteeringVector({sites[0]: self.length * direction}, {sites[0]: 1.0}, f"mode, {lesson.description}")


def test_a_fit_from_outside_has_its_vector_and_its_controls_as_any_other(with_sae, taught):
    entry = Entry(name="mode-1", label="mode", fit=Mode(2.0), sites=(SITE,), where=FIRST)
    fitted = fit_stage(with_sae, entry, {ITSELF: taught})
    assert fitted.reasons == {}
    assert fitted.vector.description == "mode, by both"
    assert fitted.vector.norms[SITE] == pytest.approx(2.0, rel=1e-5)
    assert len(fitted.controls["shuffled-labels"]) == N_SHUFFLES
    assert all(control.norms[SITE] == pytest.approx(2.0, rel=1e-5) for control in fitted.controls["shuffled-labels"])
    other = Entry(name="mode-2", label="mode", fit=Mode(3.0), sites=(SITE,), where=FIRST)
    assert fit_stage(with_sae, other, {ITSELF: taught}).vector.norms[SITE] == pytest.approx(3.0, rel=1e-5)
