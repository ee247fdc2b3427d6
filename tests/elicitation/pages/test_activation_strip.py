import html.parser
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elicitation.pages.kit.tokens import ActivationStrip, activation_legend, activation_strip, token_body, token_word
from lab.records.errors import EstimateError

NASTY = (
    '<script>document.title="pwned"</script>',
    "</p></span><img src=x onerror=alert(1)>",
    '"\' onmouseover="alert(1)" x=\'',
    "a\u202eb\u2066",
    "\ud800",
    "\ufffd",
    "\r\n\t",
    "&lt;b&gt;",
    "",
    "   ",
    "\u00a0",
    "\u0301",
    "\u200d",
    "\U000e0041",
)
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=6))
VALUES = st.one_of(st.just(math.nan), st.just(0.0), st.floats(0, 50, width=32))
STRIPS = st.lists(st.tuples(TEXTS, VALUES), max_size=8)


class Strip(html.parser.HTMLParser):
    """Every element with its attributes and the text inside it, as a browser's parser would find them."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        if tag != "br":
            self.found.append((tag, dict(attrs)))
            self.texts.append("")

    def handle_data(self, data: str):
        self.texts[-1] += data


def strip(tokens: list[str], activations: list[float], scale: float = 50.0) -> ActivationStrip:
    return ActivationStrip(tokens=tuple(tokens), activations=tuple(activations), scale=scale)


@given(STRIPS)
@example([(text, 1.0) for text in NASTY])
def test_whatever_the_tokens_hold_a_strip_is_one_element_a_token(pairs: list[tuple[str, float]]):
    found = Strip(activation_strip(strip([t for t, _ in pairs], [a for _, a in pairs]))).found
    assert [tag for tag, _ in found[:1]] == ["p"]
    assert len(found) == 1 + len(pairs)
    assert {tag for tag, _ in found[1:]} <= {"span", "mark"}
    assert {name for _, attributes in found for name in attributes} <= {"class", "title", "style"}


@given(STRIPS)
def test_the_peak_is_the_only_mark_and_says_so(pairs: list[tuple[str, float]]):
    made = strip([t for t, _ in pairs], [a for _, a in pairs])
    found = Strip(activation_strip(made)).found[1:]
    marks = [place for place, (tag, _) in enumerate(found) if tag == "mark"]
    known = [value for _, value in pairs if value > 0]
    assert marks == ([] if made.peak is None else [made.peak])
    assert bool(marks) == bool(known)
    for place in marks:
        assert pairs[place][1] == max(known)
        assert "the peak of the text" in str(found[place][1]["title"])


@given(st.lists(st.floats(0, 50, width=32), min_size=2, max_size=8))
def test_shading_is_as_strong_as_the_activation(values: list[float]):
    found = Strip(activation_strip(strip(["x"] * len(values), values))).found[1:]
    shades = [float(str(at.get("style", "--a:0")).removeprefix("--a:")) for _, at in found]
    assert all((shade > 0) == (value > 0) and 0 <= shade <= 1 for shade, value in zip(shades, values, strict=True))
    ordered = [shade for _, shade in sorted(zip(values, shades, strict=True))]
    assert ordered == sorted(ordered)


def test_full_strength_is_the_scale_and_more_is_no_stronger():
    assert re.findall(r"--a:([\d.]+)", activation_strip(strip(list("abc"), [2.0, 4.0, 9.0], 4.0))) == [
        "0.57", "1.00", "1.00",
    ]  # fmt: skip


def test_each_token_carries_its_activation():
    text = activation_strip(strip(["T", "6", "-"], [0.0, 1.234, math.nan], 2.0))
    assert re.findall(r'title="(.*?)"', text) == [
        "“T” – activation 0",
        "“6” – activation 1.23, the peak of the text",
        "“-” – activation not stored",
    ]


def test_a_feature_that_never_fires_shades_nothing():
    text = activation_strip(strip(["a", "b"], [0.0, 0.0], 0.0))
    assert "--a" not in text
    assert "<mark" not in text


@given(TEXTS)
def test_a_token_is_always_seen_and_can_always_be_written(token: str):
    for shown in ("".join(Strip(f"<p>{token_body(token)}</p>").texts), token_word(token)):
        assert shown.strip()
        assert shown.encode("utf-8")
        assert not set("\u202e\u2066\u200b\x00\n\r\t") & set(shown)
    assert " " not in token_word(token)
    assert len(token_word(token)) <= 24


def test_a_line_feed_breaks_the_line_and_is_shown():
    assert token_body("\n") == "↵<br>"
    assert token_body("a\n\nb") == "a↵<br>↵<br>b"
    assert token_word(" so\n") == "␣so↵"


def test_spaces_alone_are_shown_and_spaces_of_a_word_are_kept():
    assert token_body("  ") == "␣␣"
    assert token_body(" the") == " the"
    assert token_word(" the") == "␣the"
    assert token_body("") == token_word("") == "∅"
    assert token_body("\u0301") == "⟨U+0301⟩"


def test_a_notebook_needs_no_script_and_no_network():
    shown = strip(["<script>", "b"], [1.0, 0.0], 1.0)._repr_html_()
    assert shown.startswith("<style>")
    assert activation_legend() in shown
    assert not re.search(r"<script|<link|src=|href=|url\(|@import|http", shown)
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    ("tokens", "activations", "scale", "said"),
    [
        (("a", "b"), (1.0,), 1.0, "2 tokens, 1 activations; want as many"),
        (("a",), (1.0,), math.nan, "full strength nan; want a finite number"),
        (("a",), (1.0,), -1.0, "full strength -1.0; want a finite number"),
        (("a",), (1.0,), math.inf, "full strength inf; want a finite number"),
    ],
)
def test_a_strip_without_sense_is_an_error(
    tokens: tuple[str, ...], activations: tuple[float, ...], scale: float, said: str
):
    with pytest.raises(EstimateError, match=said):
        ActivationStrip(tokens=tokens, activations=activations, scale=scale)
