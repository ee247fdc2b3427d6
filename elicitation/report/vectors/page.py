"""Vector page: fits of steering vectors side by side, each against its controls, as one HTML file."""

from dataclasses import dataclass

from elicitation.report.kit.document import document
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.provenance_section import TableFile, provenance_section, sourced
from elicitation.report.study.captions import PROVENANCE
from elicitation.report.study.tables import LADDER
from elicitation.report.vectors.answer import HOW_TO_READ, WITHOUT_SCRIPTS, fit_block, vector_answer
from elicitation.report.vectors.doses import dose_block, transfer_block
from elicitation.report.vectors.effects import effect_block
from elicitation.report.vectors.tables import (
    DECODINGS,
    VECTOR_DOSES,
    VECTOR_FITS,
    VECTOR_TRANSFERS,
    VectorTables,
)
from lab.records.provenance import Provenance


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorPage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    task: str
    """What stands before the word problems, such as `held-out chain`."""
    unrelated: str | None
    """Task of the texts on which damage was measured; None for the task itself."""
    ledger: VectorTables
    made_by: Provenance
    command: str
    """What to type to make the page again."""
    files: tuple[TableFile, ...]


def render_vectors(page: VectorPage) -> str:
    """The page as HTML; equal pages give equal text."""
    ledger = page.ledger
    answer = f'<p class="answer">{escaped(vector_answer(ledger, page.task))}</p>'
    parts = [
        *(sourced(effect_block(ledger, how), page.files, LADDER.name) for how in DECODINGS),
        sourced(dose_block(ledger, page.unrelated), page.files, VECTOR_DOSES.name),
        sourced(transfer_block(ledger), page.files, VECTOR_TRANSFERS.name),
        sourced(fit_block(ledger.fits), page.files, VECTOR_FITS.name),
        f"{PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    return document(page.title, f"{answer}{HOW_TO_READ}", parts, WITHOUT_SCRIPTS)
