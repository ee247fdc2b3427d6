"""Vector page: fits of steering vectors side by side, each against its controls, as one HTML file."""

from dataclasses import dataclass
from functools import partial

from elicitation.pages.kit.canvas import key, plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.vectors import sheets
from elicitation.pages.vectors.answer import vector_answer
from elicitation.pages.vectors.figures import dose_figure, dosed_labels, effect_figure, fit_styles
from elicitation.pages.vectors.tables import DECODINGS, VectorTables


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorPage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    task: str
    """What stands before the word problems, such as `held-out chain`."""
    unrelated: str | None
    """Task of the texts on which damage was measured; None for the task itself."""
    tables: VectorTables
    origin: Origin


def render_vectors(page: VectorPage) -> str:
    """The page as HTML; equal pages give equal text."""
    tables, styles = page.tables, fit_styles(page.tables)
    return document(
        "vectors/page.html",
        page.title,
        page.origin,
        plot_block=plot_block,
        answer=vector_answer(tables, page.task),
        effects={name: sheets.effect_table(tables, name) for name in DECODINGS},
        draw_effects={name: partial(effect_figure, tables, name) for name in DECODINGS},
        doses=sheets.dose_table(tables),
        draw_doses=partial(dose_figure, tables),
        dose_key=key([(label, styles[fit]) for fit, label in dosed_labels(tables).items()]),
        unrelated=page.unrelated,
        transfers=sheets.transfer_table(tables),
        fits=sheets.fit_table(tables.fits),
    )
