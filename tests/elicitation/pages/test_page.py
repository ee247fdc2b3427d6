import dataclasses
import html
import json
import re
from collections.abc import Callable

import polars as pl
import pytest

from elicitation.calibration.record import LEAKS
from elicitation.pages.kit.markup import escaped, plotly_text, script_json
from elicitation.pages.study.ladder import ladder_table
from elicitation.pages.study.page import Page, render
from elicitation.pages.study.tables import SCHEMAS, ReportTables
from elicitation.pages.study.traces import TokenStrip, token_strip, truncation_warning
from lab.records.errors import EstimateError
from tests.elicitation.pages.opened import PAYLOADS, Elements, drawn, kinds, obeys_nothing, opened, unlinked
from tests.kinds import one_always


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return render(page)


@pytest.fixture(scope="module")
def unchecked(page: Page) -> str:
    """The page of a task whose process cannot be checked."""
    return render(dataclasses.replace(page, process_checked=False))


def test_equal_pages_give_equal_text(page: Page, text: str):
    assert render(page) == text


def test_sections_come_in_reading_order(text: str):
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "How far each kind of help lifts the base model",
        "What is recovered, and at what price",
        "Two published methods, by their formula and by ours",
        "What guessing alone would earn",
        "With more tries",
        "How reliably",
        "By kind of problem",
        "Where steering happened",
        "Where these numbers come from",
    ]


def test_a_table_without_rows_leaves_its_section_out(page: Page):
    empty = {schema.name: getattr(page.tables, schema.name).clear() for schema in SCHEMAS[1:]}
    bare = dataclasses.replace(page, tables=ReportTables(ladder=page.tables.ladder, **empty))
    assert len(re.findall(r"<h2>", render(bare))) == 3


UNCHECKED = "This task's process cannot be checked, so strict accuracy is answer accuracy."


def test_an_unchecked_process_is_never_said_to_be_valid(unchecked: str):
    text = html.unescape(opened(unchecked))
    assert UNCHECKED in text
    for claim in ("every step is valid", "Right by a valid process", "within its reach", "trust the strict"):
        assert claim.lower() not in text.lower().split("where these numbers come from")[0]
    assert '"text":"Answer"' in text
    assert "Answer only&" not in text
    assert '"text":"Answer only"' not in text


def test_a_checked_process_keeps_both_panels_and_says_what_strict_is(text: str):
    text = html.unescape(opened(text))
    assert UNCHECKED not in text
    assert "every step is valid" in text
    assert "the problem was within its reach" in text
    assert '"text":"Answer only"' in text


@pytest.mark.parametrize(
    "words",
    [
        "At k near the number of samples the estimate hangs on single samples",
        "Arms are paired by problem, and share random numbers for as many samples as both have",
        "held out from fitting the vectors; the lab cannot know what the models themselves were trained on",
        "not adjusted for that",
        "a random control gives every completion one of many random directions of the same norm",
        "those of the other figures are only in the table files",
        "On 200 held-out chain problems, at temperature 1, zero-rl solves",
    ],
)
def test_the_page_owns_up_to_its_limits(text: str, unchecked: str, words: str):
    assert words in unlinked(text)
    assert words in unlinked(unchecked)


def test_only_rungs_with_a_control_are_set_over_one(page: Page):
    table = ladder_table(page.tables.ladder, page.leaks)
    cells = re.findall(r'data-heading="Over its best control, points"><div>(.*?)</div>', table)
    assert len(cells) == 11
    assert [cell for cell in cells if cell != "–"] == [
        '+35.9 <span class="span">[32.8,\u00a039.0]</span>',
        '+36.1 <span class="span">[33.0,\u00a039.2]</span>',
    ]


def test_few_cut_completions_give_no_warning(page: Page, text: str):
    assert truncation_warning(page.tables.ladder) == ""
    assert '<p class="warning">' not in text


def test_many_cut_completions_give_a_warning_that_names_the_worst(page: Page):
    cuts = {"base": 0.06, "prompt": 0.3, "tuned": 0.121, "gate": 0.07, "vector": 0.05}
    share = pl.col("arm").replace_strict(cuts, default=0.0, return_dtype=pl.Float64)
    warning = truncation_warning(page.tables.ladder.with_columns(truncated=share))
    worst = "best of 12 prompts (30.0\u202f%), zero-rl (12.1\u202f%), tuned model decides when (7.0\u202f%)"
    assert f"{worst}, and 1 more arm. What is cut before its answer counts as wrong" in warning
    assert "--max-new-tokens" in warning
    wordy = dataclasses.replace(page.tables, ladder=page.tables.ladder.with_columns(truncated=share))
    text = render(dataclasses.replace(page, tables=wordy))
    assert text.index('<table class="sheet">') < text.index(warning) < text.index("<h2>What guessing alone")


def test_the_page_asks_the_network_for_nothing(text: str):
    text = opened(text)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert "@import" not in text
    assert "url(" not in text
    assert not {tag for tag, _ in Elements(text).found} & {"iframe", "object", "embed", "img", "base", "form"}


def test_the_policy_lets_only_our_own_scripts_run(text: str):
    policies = [at["content"] for tag, at in Elements(text).found if at.get("http-equiv")]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in str(policies[0]).split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]+' 'sha256-[\w+/=]+'", rules["script-src"])
    assert rules["style-src"] == "'unsafe-inline'"
    assert rules["img-src"] == "data:"


def test_everything_folds_and_unfolds_by_keyboard(text: str):
    found = Elements(opened(text)).found
    tags = [tag for tag, _ in found]
    assert tags.count("details") == tags.count("summary") == 15
    assert all(not any(name.startswith("on") for name in at) for _, at in found)


def test_provenance_lists_every_table_and_every_column(text: str):
    for schema in SCHEMAS:
        assert f"{schema.name}.parquet" in text
        assert all(f"<dt>{column.name} " in text for column in schema.columns)
    assert "lab study zero-chain --seed 7" in text
    assert "with uncommitted changes" in text


def test_every_section_of_numbers_leads_to_its_table(text: str):
    text = opened(text)
    links = [str(at["href"]) for tag, at in Elements(text).found if tag == "a" and "#table-" in str(at["href"])]
    folds = [str(at.get("id", "")) for tag, at in Elements(text).found if tag == "details"]
    places = [place for place in folds if place.startswith("table-")]
    assert {link.removeprefix("#") for link in links} <= set(places)
    assert set(places) == {f"table-{schema.name}" for schema in (*SCHEMAS, LEAKS)}
    assert {link.removeprefix("#table-") for link in links} == {
        "ladder", "leaks", "outcomes", "published_hybrids", "guess", "pass_at_k", "cover", "families", "examples",
    }  # fmt: skip


def test_a_table_of_the_labs_own_says_what_made_it_and_one_of_two_files_has_the_link(page: Page):
    files = (
        *page.origin.files,
        dataclasses.replace(page.origin.files[0], path="lab/calibration/shipped/x.parquet", command="lab calibrate"),
    )
    text = opened(render(dataclasses.replace(page, origin=dataclasses.replace(page.origin, files=files))))
    assert "<p>Made by <code>lab calibrate</code>.</p>" in text
    assert text.count('id="table-ladder"') == 1
    assert 'href="#table-ladder">ladder.parquet</a>' in text


@pytest.mark.parametrize("payload", one_always(PAYLOADS.values()), ids=PAYLOADS)
def test_hostile_text_makes_no_element(hostile: Callable[[str], Page], text: str, payload: str):
    # A page with refusals has a list that this one lacks.
    assert kinds(render(hostile(payload))) - kinds(text) <= {
        ("sup", ()),
        ("ol", ()),
        ("li", ()),
        ("br", ()),
    } | {("div", ("class",))}


@pytest.mark.parametrize("payload", one_always(PAYLOADS.values()), ids=PAYLOADS)
def test_hostile_text_runs_nothing_in_a_browser(
    hostile: Callable[[str], Page], dumped_dom: Callable[[str], str], payload: str
):
    page = hostile(payload)
    document = dumped_dom(render(page))
    assert f"<title>{plotly_text(page.title)}</title>" in document
    assert obeys_nothing(document)


def test_all_six_figures_are_drawn_under_the_policy(page: Page, dumped_dom: Callable[[str], str]):
    document = dumped_dom(render(page))
    assert drawn(document) == ["ladder", "recovery", "guess", "pass-at-k", "cover", "families"]
    assert sum("main-svg" in str(at.get("class")) for _, at in Elements(document).found) >= 6


def test_a_strip_shows_each_token_once_with_its_route_and_probability():
    strip = token_strip(TokenStrip(tokens=("T", "<b>", "\n"), routes=(1, 2, 0), logprobs=(-0.5, float("nan"), -1.0)))
    assert strip.count("<span") == 3
    assert 'class="tok r1" title="“T” – steered – log-prob -0.50, probability 60.7' in strip
    assert "&lt;b&gt;</span>" in strip
    assert "log-prob unknown" in strip
    assert "↵<br>" in strip


def test_a_notebook_shows_a_strip_with_its_own_style():
    shown = TokenStrip(tokens=("a",), routes=(0,), logprobs=(0.0,))._repr_html_()
    assert shown.startswith("<style>")
    assert "taken from the tuned model" in shown


@pytest.mark.parametrize(("routes", "logprobs"), [((0,), (0.0, 0.0)), ((0, 3), (0.0, 0.0)), ((0, 1), (0.0,))])
def test_a_strip_of_uneven_or_unknown_parts_is_an_error(routes: tuple[int, ...], logprobs: tuple[float, ...]):
    with pytest.raises(EstimateError):
        TokenStrip(tokens=("a", "b"), routes=routes, logprobs=logprobs)


@pytest.mark.parametrize("text", [*PAYLOADS.values(), "a\u202eb", "\x00\x1b[31m", "&amp;"])
def test_escaped_text_holds_no_markup_and_no_direction_marks(text: str):
    for safe in (escaped(text), plotly_text(text)):
        assert not set("<>\u202e\x00\x1b") & set(safe)
    assert not set("\"'") & set(escaped(text))


def test_script_json_holds_no_character_that_could_end_a_script():
    value = {"</script><!--": ["<script>", "&", "\u2028"]}
    assert not set("<>&\u2028") & set(script_json(value))
    assert json.loads(script_json(value)) == value
