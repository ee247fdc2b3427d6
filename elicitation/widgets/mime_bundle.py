"""mime_bundle: how a notebook shows a value, live or else as HTML; the door to anywidget, which need not be there."""

from collections.abc import Mapping
from pathlib import Path

SCRIPTS = Path(__file__).parent


def mime_bundle(script: str, data: Mapping[str, object], *, html: str, words: str) -> dict[str, object]:
    """What IPython's `_repr_mimebundle_` wants: MIME type -> content.

    `script` names a JavaScript module of this package, which draws `data`, a value of plain JSON. `html` is shown where
    anywidget is absent and in exported pages, `words` where nothing can be drawn.
    """
    plain: dict[str, object] = {"text/plain": words, "text/html": html}
    try:
        return {**_live(script, data), **plain}
    except ImportError:
        return plain


def _live(script: str, data: Mapping[str, object]) -> dict[str, object]:
    """The view of a new widget that runs `script`. Raises ImportError without anywidget."""
    import anywidget
    import traitlets

    class Live(anywidget.AnyWidget):
        _esm = (SCRIPTS / script).read_text(encoding="utf-8")
        data = traitlets.Dict().tag(sync=True)

    shown = Live(data=dict(data))._repr_mimebundle_()
    # With it may come metadata, which nobody reads.
    return dict((shown[0] if isinstance(shown, tuple) else shown) or {})
