"""TokenStrip: every token of every text is on the page, escaped, the darker the more active."""

import json
import math
import re
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elicitation.pages.kit.tokens import token_word
from elicitation.widgets.live import ReadText, TokenStrip
from lab.records.errors import EstimateError

WIDGET = "application/vnd.jupyter.widget-view+json"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The tags of some HTML, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def one(tokens, **activations) -> TokenStrip:
    return TokenStrip(texts=(ReadText(name="a text", tokens=tuple(tokens), activations=activations),))


def strengths(html: str) -> list[float]:
    """The shade of every token of the strips, legend left out; 0 where it has none."""
    strips = "".join(re.findall(r'<p class="strip">(.*?)</p>', html, flags=re.DOTALL))
    spans = re.findall(r"<(?:span|mark) class=[^>]*>", strips)
    return [float(found[1]) if (found := re.search(r"--a:([\d.]+)", span)) else 0.0 for span in spans]


@given(tokens=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1), min_size=1))
def test_every_token_appears_and_none_becomes_a_tag(tokens):
    page = Page(one(tokens, f=tuple([1.0] * len(tokens)))._repr_html_())
    assert "".join(tokens) in page.text
    assert set(page.tags) <= {"style", "p", "span", "mark", "details", "summary", "div"}


@given(values=st.lists(st.floats(min_value=0, max_value=1e6), min_size=1))
def test_a_more_active_token_is_never_paler(values):
    drawn = strengths(one(["x"] * len(values), f=tuple(values))._repr_html_())
    by_value = sorted(zip(values, drawn, strict=True))
    assert [shade for _, shade in by_value] == sorted(drawn)


def test_all_features_of_all_texts_stand_on_a_page_without_scripts():
    texts = tuple(
        ReadText(name=name, tokens=("a", "b"), activations={"one": (0.0, 1.0), "two": (3.0, 0.5)})
        for name in ("first", "second")
    )
    page = Page(TokenStrip(texts=texts)._repr_html_())
    assert page.tags.count("details") == 2
    assert page.text.count("first") == page.text.count("second") == 2


def test_a_feature_has_full_strength_at_its_largest_activation_in_any_text():
    texts = tuple(
        ReadText(name=str(value), tokens=("a",), activations={"f": (value,)}) for value in (1.0, 4.0, math.nan)
    )
    strip = TokenStrip(texts=texts)
    assert strip.scale("f") == 4.0
    assert strengths(strip._repr_html_()) == [0.36, 1.0, 0.0]


def test_a_feature_that_never_fires_has_no_strength():
    assert one(["a", "b"], f=(0.0, math.nan)).scale("f") == 0.0


def test_text_of_a_model_is_escaped_wherever_it_stands():
    strip = TokenStrip(texts=(ReadText(name=EVIL, tokens=(EVIL,), activations={EVIL: (1.0,)}),))
    page = strip._repr_html_()
    assert "<script" not in page
    # In the text's name, the feature's, the token and the token's title.
    assert page.count("&lt;script&gt;") == 4


def test_a_notebook_gets_the_widget_and_the_page():
    bundle = one(["a"], f=(1.0,))._repr_mimebundle_()
    assert {WIDGET, "text/html", "text/plain"} <= set(bundle)
    assert bundle["text/plain"] == "Token strip: 1 texts, 1 features"


def test_without_anywidget_a_notebook_gets_the_page_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    strip = one(["a"], f=(1.0,))
    assert strip._repr_mimebundle_() == {
        "text/plain": "Token strip: 1 texts, 1 features",
        "text/html": strip._repr_html_(),
    }


def test_the_script_is_given_the_words_the_numbers_and_null_for_what_is_not_known(monkeypatch):
    monkeypatch.setattr("elicitation.widgets.live.mime_bundle", lambda script, data, **_: data)
    sent = one([" a", "\n"], f=(2.0, math.nan))._repr_mimebundle_()
    assert json.loads(json.dumps(sent["texts"], allow_nan=False)) == [
        {"name": "a text", "tokens": [token_word(" a"), token_word("\n")], "activations": [[2.0, None]]}
    ]
    assert sent["scales"] == [2.0]
    assert sent["features"] == ["f"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "want at least one text and one feature"),
        ((ReadText(name="a", tokens=("a",), activations={}),), "want at least one text and one feature"),
        ((ReadText(name="a", tokens=("a", "b"), activations={"f": (1.0,)}),), "'a' wants one activation a token"),
        (
            (
                ReadText(name="a", tokens=("a",), activations={"f": (1.0,)}),
                ReadText(name="b", tokens=("a",), activations={"g": (1.0,)}),
            ),
            r"'b' has the features \['g'\], and the first text \['f'\]",
        ),
    ],
)
def test_texts_that_do_not_fit_together_are_refused(texts, message):
    with pytest.raises(EstimateError, match=message):
        TokenStrip(texts=texts)
