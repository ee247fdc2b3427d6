"""opened: a page as a test reads it: its packed figures unpacked, its elements, and text that would harm it."""

import base64
import gzip
import html.parser
import re

from plotly.offline import get_plotlyjs

PAYLOADS = {
    "script": '<script>document.title="pwned"</script>',
    "closing": '</script><script>document.title="pwned"</script><!--<script>',
    "attribute": "\"' onmouseover=\"document.title='pwned'\" autofocus onfocus='document.title=1' x=\"",
    "plotly": '<img src=x onerror="document.title=1"><a href="javascript:document.title=1">x</a><b onclick="x">'
    "%{customdata} $\\href{x}{y}$ &lt;img&gt;</b>",
    "direction": "a\u202eb\u2066\n\x00\ufffd",
}
"""Text that a page must show and never obey."""
_PACKED = re.compile(r'<script type="text/plain" id="([^"]*)">([^<]*)</script>')


def opened(page: str) -> str:
    """The HTML of a page, each packed figure replaced by its JSON, without links to the glossary."""
    return _PACKED.sub(_unpacked, unlinked(page))


def unlinked(page: str) -> str:
    """`page` without links to the glossary."""
    return re.sub(r'<a class="word" href="#[^"]*">(.*?)</a>', r"\1", page)


def undressed(document: str) -> str:
    """The same for what a browser made of a page: without the plotly that its script unpacked either."""
    return opened(document.replace(f"<script>{get_plotlyjs()}</script>", ""))


def _unpacked(found: re.Match[str]) -> str:
    if found[1] == "plotly":
        return ""
    return gzip.decompress(base64.b64decode(found[2])).decode()


class Elements(html.parser.HTMLParser):
    """Tags and attributes as a browser's parser would find them."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.found.append((tag, dict(attrs)))


def kinds(text: str) -> set[tuple[str, tuple[str, ...]]]:
    """Every kind of element of a page, by its tag and the names of its attributes."""
    return {(tag, tuple(sorted(attributes))) for tag, attributes in Elements(opened(text)).found}


def plain(text: str) -> str:
    """`text` with ordinary spaces."""
    return text.replace("\u202f", " ").replace("\u00a0", " ")


def obeys_nothing(document: str) -> bool:
    """Whether what a browser made of a page holds no element and no attribute that a payload asked for."""
    found = Elements(undressed(document)).found
    tags = {tag for tag, _ in found}
    links = [str(at.get("href", "")) + str(at.get("xlink:href", "")) for _, at in found]
    return (
        not tags & {"img", "iframe", "object", "embed"}
        and [tag for tag, _ in found].count("script") == 2
        and not any(name.startswith("on") for _, at in found for name in at)
        and not any("javascript:" in link for link in links)
    )


def drawn(document: str) -> list[str | None]:
    """The figures that a browser drew."""
    found = Elements(undressed(document)).found
    return [at["id"] for tag, at in found if tag == "div" and "js-plotly-plot" in str(at.get("class"))]
