"""Document: a body as one HTML file that needs nothing else: no network, no fonts, no server."""

import base64
import hashlib
from importlib import resources

from plotly.offline import get_plotlyjs

from lab.report.activation_strip import activation_css
from lab.report.markup import escaped, script_json
from lab.report.palette import DARK
from lab.report.tokens import strip_css


def document(title: str, body: str, without_scripts: str) -> str:
    """`body` and `without_scripts`, which stands where scripts do not run, are trusted HTML; `title` is not.

    Scripts run only if their hash is in the policy, so even text that escaped escaping would stay text.
    """
    ours = resources.files("lab.report")
    style = ours.joinpath("page.css").read_text(encoding="utf-8") + strip_css() + activation_css()
    plotly, script = get_plotlyjs(), ours.joinpath("page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">'
        f'<title>{escaped(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><main>{body}</main>"
        f"<noscript><p>{without_scripts}</p></noscript>"
        f'<script type="application/json" id="dark-inks">{script_json(dict(DARK))}</script>'
        f"<script>{plotly}</script><script>{script}</script></body></html>\n"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
