"""Live: what a notebook shows to choose and to turn: texts shaded by a feature, doses of a vector; else plain HTML."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from elicitation.pages.kit.markup import escaped, markup, visible
from elicitation.pages.kit.numerals import interval, percent
from elicitation.pages.kit.tokens import (
    ActivationStrip,
    activation_legend,
    activation_strip,
    strip_css,
    token_word,
)
from lab.metrics.bootstrap import Interval
from lab.records.errors import EstimateError

SCRIPTS = Path(__file__).parent


def mime_bundle(script: str, data: Mapping[str, object], *, html: str, words: str) -> dict[str, object]:
    """What IPython's `_repr_mimebundle_` wants: MIME type -> content.

    `script` names a JavaScript module of this package, which draws `data`, a value of plain JSON. `html` is shown where
    anywidget is absent and in exported pages, `words` where nothing can be drawn.
    """
    plain: dict[str, object] = {"text/plain": words, "text/html": html}
    try:
        import anywidget
        import traitlets
    except ImportError:
        return plain

    class Live(anywidget.AnyWidget):
        _esm = (SCRIPTS / script).read_text(encoding="utf-8")
        data = traitlets.Dict().tag(sync=True)

    shown = Live(data=dict(data))._repr_mimebundle_()
    # With it may come metadata, which nobody reads.
    return {**((shown[0] if isinstance(shown, tuple) else shown) or {}), **plain}


_STYLE = (
    ".lab-doses{border-collapse:collapse}.lab-doses th,.lab-doses td{padding:.25em .8em;text-align:left;"
    "vertical-align:top;border-bottom:1px solid rgba(128,128,128,.35)}"
    ".lab-doses code{overflow-wrap:anywhere;white-space:pre-wrap}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dosed:
    """One dose."""

    dose: float
    accuracy: Interval
    """In [0, 1]."""
    texts: tuple[str, ...]
    """What the model wrote for each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseSlider:
    """Doses that were measured beforehand; a notebook moves through them, a page without scripts is a table of all."""

    prompts: tuple[str, ...]
    doses: tuple[Dosed, ...]

    def __post_init__(self) -> None:
        if not self.doses:
            raise EstimateError("dose slider: want at least one dose")
        if any(len(row.texts) != len(self.prompts) for row in self.doses):
            raise EstimateError(f"dose slider: {len(self.prompts)} prompts; want as many texts at every dose")

    def _repr_html_(self) -> str:
        prompts = "".join(f'<th scope="col"><code>{escaped(prompt)}</code></th>' for prompt in self.prompts)
        rows = (
            f'<tr><th scope="row">{row.dose:g}</th><td>{_accuracy(row)}</td>'
            + "".join(f"<td><code>{escaped(text)}</code></td>" for text in row.texts)
            + "</tr>"
            for row in self.doses
        )
        return (
            f'<style>{_STYLE}</style><table class="lab-doses"><thead><tr><th scope="col">dose</th>'
            f'<th scope="col">accuracy, 95 % interval</th>{prompts}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        doses = [
            {
                "dose": f"{row.dose:g}",
                "accuracy": _accuracy(row),
                "bar": [row.accuracy.low, row.accuracy.value, row.accuracy.high],
                "texts": [visible(text) for text in row.texts],
            }
            for row in self.doses
        ]
        # The script writes every string as text, never as markup.
        data = {"style": _STYLE, "prompts": [visible(prompt) for prompt in self.prompts], "doses": doses}
        words = f"Dose slider: {len(self.doses)} doses, {len(self.prompts)} prompts"
        return mime_bundle("dose_slider.js", data, html=self._repr_html_(), words=words)


def _accuracy(row: Dosed) -> str:
    found = row.accuracy
    return f"{percent(found.value)} {interval(found.low, found.high)}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadText:
    """A text with the activations of some features at its tokens."""

    name: str
    tokens: tuple[str, ...]
    activations: Mapping[str, tuple[float, ...]]
    """Feature -> its activation at each token; NaN where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStrip:
    """Texts with the same features in each; a notebook lets the reader choose, any other page shows all."""

    texts: tuple[ReadText, ...]

    def __post_init__(self) -> None:
        if not self.texts or not self.features:
            raise EstimateError("token strip: want at least one text and one feature")
        for text in self.texts:
            if tuple(text.activations) != self.features:
                raise EstimateError(
                    f"token strip: {text.name!r} has the features {list(text.activations)}, and the first text "
                    f"{list(self.features)}; want the same in every text"
                )
            if any(len(values) != len(text.tokens) for values in text.activations.values()):
                raise EstimateError(f"token strip: {text.name!r} wants one activation a token for every feature")

    @property
    def features(self) -> tuple[str, ...]:
        """In the order of the first text."""
        return tuple(self.texts[0].activations) if self.texts else ()

    def scale(self, feature: str) -> float:
        """The largest activation of `feature` in any text, which has full strength; 0 where it never fires."""
        known = (value for text in self.texts for value in text.activations[feature] if not math.isnan(value))
        return max(0.0, max(known, default=0.0))

    def _repr_html_(self) -> str:
        folded = ""
        for feature in self.features:
            scale, rows = self.scale(feature), Markup("")
            for text in self.texts:
                read = ActivationStrip(tokens=text.tokens, activations=text.activations[feature], scale=scale)
                rows += markup("<div>{}</div>{}", text.name, activation_strip(read))
            # The first is open.
            state = "" if folded else " open"
            folded += markup("<details{}><summary>{}</summary>{}</details>", state, feature, rows)
        return f"<style>{strip_css()}</style>{activation_legend()}{folded}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        texts = [
            {
                "name": visible(text.name),
                "tokens": [token_word(token) for token in text.tokens],
                # What is not known is null.
                "activations": [
                    [None if math.isnan(value) else value for value in values] for values in text.activations.values()
                ],
            }
            for text in self.texts
        ]
        names, scales = [visible(name) for name in self.features], [self.scale(name) for name in self.features]
        # The script writes every string as text, never as markup.
        data = {"style": strip_css(), "features": names, "scales": scales, "texts": texts}
        words = f"Token strip: {len(self.texts)} texts, {len(self.features)} features"
        return mime_bundle("token_strip.js", data, html=self._repr_html_(), words=words)
