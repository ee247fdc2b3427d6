"""Every page as a browser shows it: wide and narrow, by day and by night, on paper and by keyboard."""

from itertools import pairwise
from pathlib import Path

import pytest

from elicitation.calibration.record import LEAKS, TRIALS
from elicitation.pages.calibration.page import render_calibration
from elicitation.pages.features.page import render_features
from elicitation.pages.kit.palette import DARK, PAPER
from elicitation.pages.study.page import render
from elicitation.pages.vectors.page import render_vectors
from tests.elicitation.pages import test_calibration_page, test_feature_page, test_vector_page
from tests.elicitation.pages.browser import Browser
from tests.elicitation.pages.conftest import example_rows, leak_rows, made_page, made_tables

QUESTION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM.<|im_end|>\n<|im_start|>user\n"
    f"Let x be \"3\" & <b>y</b> = '{'9' * 80}'. {'What is 12 + 33? ' * 60}<|im_end|>\n<|im_start|>assistant\n"
)
SPOKEN = (" 12", " +", " 33", " =", " 4", "5", "\n\n", " <b>", '"', "&", " https://example.org/" + "a" * 120, "\t", "é")
PAGES = ("study", "spoken", "calibration", "features", "vectors")
LARGEST = 3_000_000
"""Bytes of a page that is kept in a repository."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The four pages, and a study of models that speak: long prompts, tokens that hold anything."""
    spoken = [row for _ in range(40) for row in example_rows(QUESTION, SPOKEN * 9)]
    calibration = test_calibration_page.made(TRIALS.frame(test_calibration_page.trial_rows()))
    calibration = test_calibration_page.dataclasses.replace(calibration, leaks=LEAKS.frame(leak_rows()))
    made = {
        "study": render(made_page(made_tables())),
        "spoken": render(made_page(made_tables(examples=spoken))),
        "calibration": render_calibration(calibration),
        "features": render_features(test_feature_page.page_of(test_feature_page.made(test_feature_page.rows()))),
        "vectors": render_vectors(test_vector_page.made_page(test_vector_page.made())),
    }
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in made}
    for name, text in made.items():
        paths[name].write_text(text, encoding="utf-8")
    return paths


def test_the_pages_named_are_those_made(pages: dict[str, Path]):
    assert tuple(pages) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small_enough_to_be_kept(pages: dict[str, Path], name: str):
    assert pages[name].stat().st_size < LARGEST


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_asks_for_nothing(browser: Browser, pages: dict[str, Path], name: str, width: int):
    browser.open(pages[name], width)
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.value("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    past = "[...document.querySelectorAll('p, li, pre, summary, figcaption, svg, span')].filter((item) => "
    past += (
        "!item.closest('.scroll') && item.getBoundingClientRect().right > innerWidth + 1).map((item) => item.outerHTML)"
    )
    assert browser.value(past) == []
    assert browser.value("document.querySelectorAll('.plot:not(.js-plotly-plot)').length") == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_found_through_without_eyes(browser: Browser, pages: dict[str, Path], name: str):
    browser.open(pages[name], 1280)
    ids = browser.value(
        "[...document.querySelectorAll('main [id], header [id]')].filter((item) => "
        "!item.closest('.js-plotly-plot .plot-container')).map((item) => item.id)"
    )
    assert len(ids) == len(set(ids))
    links = browser.value("[...document.querySelectorAll('a[href^=\"#\"]')].map((link) => link.hash.slice(1))")
    assert set(links) <= set(ids) | {"main"}
    levels = browser.value("[...document.querySelectorAll('h1, h2, h3, h4')].map((head) => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.value(
        "[...document.querySelectorAll('.plot')].every((plot) => plot.ariaLabel.length > 20 && "
        "document.getElementById(plot.getAttribute('aria-describedby')).innerText.startsWith('See '))"
    )
    assert browser.value(
        "[...document.querySelectorAll('th')].every((head) => head.scope === 'col' || head.scope === 'row')"
    )


def test_a_report_is_drawn_within_two_seconds_of_work(browser: Browser, pages: dict[str, Path]):
    """In time of the page's own thread, which other work on the machine does not lengthen."""
    browser.call("Performance.enable", timeDomain="threadTicks")
    browser.open(pages["spoken"], 1280)
    worked = {metric["name"]: metric["value"] for metric in browser.call("Performance.getMetrics")["metrics"]}
    browser.call("Performance.disable")
    assert 0 < worked["TaskDuration"] < 2


def test_figures_follow_the_colour_scheme_while_the_page_is_open(browser: Browser, pages: dict[str, Path]):
    paper = "document.querySelector('.plot').layout.paper_bgcolor"
    browser.open(pages["study"], 1280, night=True)
    assert browser.value(paper) == DARK[PAPER]
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
    day = {"name": "prefers-color-scheme", "value": "light"}
    browser.call("Emulation.setEmulatedMedia", media="screen", features=[day])
    # Told after the page has painted, which may take some frames.
    look = f"n && {paper} !== '{PAPER}' ? requestAnimationFrame(() => look(n - 1)) : done({paper})"
    turned = f"(done) => {{ const look = (n) => {look}; look(300); }}"
    assert browser.value(f"new Promise({turned})") == PAPER


def test_nothing_on_a_page_moves(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["study"], 1280)
    assert browser.value("document.getAnimations().length") == 0
    assert browser.value("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert "transition" not in browser.value("document.querySelector('style').textContent")


def test_paper_is_white_under_a_dark_screen_and_folded_tables_are_open(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["study"], 1280, night=True)
    folded = "document.querySelectorAll('details.numbers:not([open])').length"
    paper = "document.querySelector('.plot').layout.paper_bgcolor"
    n_folded = browser.value(folded)
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert (browser.value(folded), browser.value(paper)) == (0, PAPER)
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert (browser.value(folded), browser.value(paper)) == (n_folded, DARK[PAPER])
    assert n_folded > 0


def pressed(browser: Browser, key: str, code: int, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


def test_the_keyboard_reaches_the_results_first_and_then_the_contents(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["study"], 1280)
    pressed(browser, "Tab", 9)
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().top >= 0")
    pressed(browser, "Tab", 9)
    assert browser.value("document.activeElement.tagName") == "SUMMARY"
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    pressed(browser, "Tab", 9)
    assert browser.value("document.activeElement.closest('nav').ariaLabel") == "On this page"
    pressed(browser, "Enter", 13, "\r")
    assert browser.value("location.hash") == "#part-how-far-each-kind-of-help-lifts-the-base-model"


def test_a_link_to_a_folded_table_unfolds_it(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["study"], 1280)
    browser.value("document.querySelector('a[href=\"#table-guess\"]').click()")
    assert browser.value("new Promise(requestAnimationFrame).then(() => document.getElementById('table-guess').open)")
