"""DoseSlider: every dose with its interval and its texts, escaped."""

import math

import pytest

from elicitation.widgets.live import Dosed, DoseSlider
from lab.metrics.bootstrap import Interval
from lab.records.errors import EstimateError

EVIL = "<img src=x onerror=alert(1)>"


def dosed(dose: float, value: float, *texts: str) -> Dosed:
    level = Interval(value=value, low=value - 0.1, high=value + 0.1, stderr=math.nan)
    return Dosed(dose=dose, accuracy=level, texts=texts)


def test_a_page_without_scripts_has_every_dose_its_interval_and_its_texts():
    slider = DoseSlider(prompts=("2+2?",), doses=(dosed(0.0, 0.25, "A5"), dosed(0.5, 0.75, "T2+2=4;A4")))
    page = slider._repr_html_()
    assert page.count('<th scope="row">') == 2
    for words in ("2+2?", "A5", "T2+2=4;A4", "25.0", "[15.0,\xa035.0]", "75.0", "[65.0,\xa085.0]", ">0.5<"):
        assert words in page


def test_text_of_a_model_is_escaped_wherever_it_stands():
    page = DoseSlider(prompts=(EVIL,), doses=(dosed(1.0, 0.5, EVIL),))._repr_html_()
    assert "<img" not in page
    assert page.count("&lt;img") == 2


def test_a_notebook_gets_the_widget_and_the_page():
    slider = DoseSlider(prompts=("p",), doses=(dosed(1.0, 0.5, "t"),))
    bundle = slider._repr_mimebundle_()
    assert bundle["text/plain"] == "Dose slider: 1 doses, 1 prompts"
    assert bundle["text/html"] == slider._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize(
    ("prompts", "doses", "message"),
    [
        (("p",), (), "want at least one dose"),
        (("p", "q"), (dosed(1.0, 0.5, "t"),), "2 prompts; want as many texts at every dose"),
    ],
)
def test_doses_that_do_not_fit_their_prompts_are_refused(prompts, doses, message):
    with pytest.raises(EstimateError, match=message):
        DoseSlider(prompts=prompts, doses=doses)
