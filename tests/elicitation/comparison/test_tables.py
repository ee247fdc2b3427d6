"""Fits are arms of a study, each beside its controls, and a table says what was found where."""

import math

import torch

from elicitation.comparison.fits import FIRST, Entry, Fitted
from elicitation.comparison.run import arms, fit_table
from elicitation.pages.vectors.tables import VECTOR_FITS
from lab.scoring.evidence import ArmKey, Control, Role
from probes.capture.site import Site
from steering.edit import Add, Edited
from steering.fits.fits import MeanDifference
from steering.vector import SteeringVector


def test_the_arms_of_a_fit_stand_between_the_models_and_are_the_same_decoded_greedily(comparing):
    vector = SteeringVector({Site(1): torch.ones(comparing.context.base.anatomy.d_model)}, {Site(1): 10.0}, "by hand")
    entry = Entry(name="v", label="vector", fit=MeanDifference(), sites=(Site(1),), where=FIRST)
    controls = {Control.SHUFFLED_LABELS: (vector, vector)}
    fitted = Fitted(entry=entry, vector=vector, controls=controls, reasons={}, digest="0")
    lost = Fitted(entry=entry, vector=None, controls={}, reasons={"itself": "nothing solved"}, digest="1")
    sampled, greedy = (list(arms(comparing.context, [fitted, lost], decoding)) for decoding in ("sampled", "greedy"))
    assert [arm.name for arm in sampled] == ["base", "v", "v.random-vectors", "v.shuffled-labels", "tuned"]
    assert [arm.name for arm in greedy] == [f"{arm.name}-greedy" for arm in sampled]
    assert [arm.method for arm in greedy] == [arm.method for arm in sampled]
    assert {arm.key.decoding for arm in greedy} == {"greedy"}
    _, mine, drawn, shuffled, _ = greedy
    assert mine.key == ArmKey(Role.VECTOR, "greedy")
    assert mine.method == Edited((Add(vector, where=FIRST),))
    assert (drawn.control, drawn.control_of, len(drawn.method.edits)) == (Control.RANDOM_VECTORS, mine.name, 256)
    assert shuffled.control_of == mine.name
    assert mine.label == "vector, greedy decoding"
    assert drawn.label == "random directions, for vector, greedy decoding"


def test_the_table_of_fits_has_a_row_a_site_and_a_reason_for_what_is_missing():
    sites = (Site(0), Site(1))
    directions = {sites[0]: torch.tensor([3.0, 4.0]), sites[1]: torch.tensor([0.0, 1.0])}
    vector = SteeringVector(directions, {sites[0]: 10.0, sites[1]: math.nan}, "by hand")
    entry = Entry(name="v", label="vector", fit=MeanDifference(), sites=sites, where=FIRST)
    fitted = Fitted(
        entry=entry,
        vector=vector,
        controls={Control.SHUFFLED_LABELS: (vector, vector)},
        reasons={"placebo-pair": "no trace"},
        digest="0",
    )
    lost = Fitted(entry=entry, vector=None, controls={}, reasons={"itself": "nothing solved"}, digest="1")
    table = VECTOR_FITS.checked(fit_table([fitted, lost]))
    assert table["control"].to_list() == [None, None, "shuffled-labels", "shuffled-labels", "placebo-pair", None]
    first = table.row(0, named=True)
    assert (first["norm"], first["relative_dose"], first["tokens"]) == (5.0, 0.5, "first token")
    assert math.isnan(table.row(1, named=True)["relative_dose"])
    assert table["reason"].to_list()[4:] == ["no trace", "nothing solved"]
    assert table["site"].to_list()[4:] == [None, None]
