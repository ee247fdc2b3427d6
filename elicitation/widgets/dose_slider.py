"""Dose slider: what a model writes at each dose of a vector, and how often it is right."""

from dataclasses import dataclass

from elicitation.pages.kit.markup import escaped, visible
from elicitation.pages.kit.numerals import interval, percent
from elicitation.widgets.mime_bundle import mime_bundle
from lab.metrics.bootstrap import Interval
from lab.records.errors import EstimateError

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
        words = f"Dose slider: {len(self.doses)} doses, {len(self.prompts)} prompts"
        return mime_bundle("dose_slider.js", _data(self), html=self._repr_html_(), words=words)


def _accuracy(row: Dosed) -> str:
    found = row.accuracy
    return f"{percent(found.value)} {interval(found.low, found.high)}".rstrip()


def _data(slider: DoseSlider) -> dict[str, object]:
    """The slider as plain JSON. The script writes every string as text, never as markup."""
    return {
        "style": _STYLE,
        "prompts": [visible(prompt) for prompt in slider.prompts],
        "doses": [
            {
                "dose": f"{row.dose:g}",
                "accuracy": _accuracy(row),
                "bar": [row.accuracy.low, row.accuracy.value, row.accuracy.high],
                "texts": [visible(text) for text in row.texts],
            }
            for row in slider.doses
        ],
    }
