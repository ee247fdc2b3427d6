"""opened: a page with its packed figures unpacked and plotly itself left out, so that a test can read all of it."""

import base64
import gzip
import re

from plotly.offline import get_plotlyjs

_PACKED = re.compile(r'<script type="text/plain" id="([^"]*)">([^<]*)</script>')


def opened(page: str) -> str:
    """The HTML of a page, each packed figure replaced by its JSON."""
    return _PACKED.sub(_unpacked, page)


def undressed(document: str) -> str:
    """The same for what a browser made of a page: without the plotly that its script unpacked either."""
    return opened(document.replace(f"<script>{get_plotlyjs()}</script>", ""))


def _unpacked(found: re.Match[str]) -> str:
    if found[1] == "plotly":
        return ""
    return gzip.decompress(base64.b64decode(found[2])).decode()
