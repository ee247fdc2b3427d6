"""The special words of a page lead to its glossary, which is the one of the documentation."""

import re
from pathlib import Path

import pytest

from elicitation.pages.kit.document import entries, linked
from elicitation.pages.kit.markup import PAGES
from elicitation.pages.study.page import Page, render

ROOT = Path(__file__).parents[3]


def test_the_pages_carry_the_glossary_of_the_documentation():
    carried = (PAGES / "glossary.md").read_text(encoding="utf-8")
    assert carried == (ROOT / "docs" / "GLOSSARY.md").read_text(encoding="utf-8")
    assert [entry.word for entry in entries()] == [
        word.replace("`", "") for word in re.findall(r"^- \*\*(.+?)\*\*", carried, flags=re.MULTILINE)
    ]
    assert len({entry.place for entry in entries()}) == len(entries())


def test_the_first_use_of_a_word_in_each_section_is_linked():
    section = "<section><h2>Leaks</h2><p>A leak, another Leak, and two leaks.</p></section>"
    link = '<a class="word" href="#word-leak">leak</a>'
    assert linked(section * 2) == section.replace("A leak", f"A {link}") * 2


@pytest.mark.parametrize(
    "text",
    [
        "<h2>leak</h2>",
        "<table><tr><td><p>leak</p></td></tr></table>",
        "<p><code>leak</code> <a href='#x'>leak</a></p>",
        '<article><p class="strip"><span>leak</span></p></article>',
        '<figure><div aria-label="leak"></div></figure>',
        "<p>leaky, leak-proof, non-leak</p>",
        "<p>runs/leak, leak/runs, leak.jsonl</p>",
    ],
)
def test_no_word_is_linked_in_headings_tables_code_and_what_models_wrote(text: str):
    assert linked(text) == text


def test_every_link_of_a_page_leads_to_an_entry_at_its_end(page: Page):
    main = render(page).split("<main")[1]
    body, end = main.split('<details class="glossary"')
    links = re.findall(r'<a class="word" href="#(.*?)">(.*?)</a>', body)
    assert {place for place, _ in links} <= {entry.place for entry in entries()}
    assert {word.lower() for _, word in links} >= {"rung", "control", "leak", "organisms", "arms"}
    assert all(f'<div id="{entry.place}"><dt>' in end for entry in entries())


def test_the_kit_of_the_pages_has_no_word_of_what_they_are_about():
    domain = re.compile(r"\b(arms?|estimators?|elicit\w*|ladders?|rungs?|famil(y|ies)|published|taught|organisms?)\b")
    found = [
        f"{path.name}:{number}: {line}"
        for path in sorted((PAGES / "kit").glob("*.*"))
        if path.suffix in (".py", ".html")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if domain.search(re.sub(r"elicitation\.pages|font-family|\"family\"", "", line).lower())
    ]
    assert found == []
