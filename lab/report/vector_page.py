"""Vector page: fits of steering vectors side by side, each against its controls, as one HTML file."""

from dataclasses import dataclass

from lab.provenance import Provenance
from lab.report.captions import PROVENANCE
from lab.report.document import document
from lab.report.markup import escaped
from lab.report.provenance_section import TableFile, provenance_section, sourced
from lab.report.vector_answer import vector_answer
from lab.report.vector_captions import HOW_TO_READ, WITHOUT_SCRIPTS
from lab.report.vector_doses import dose_block
from lab.report.vector_effects import effect_block
from lab.report.vector_fits import fit_block
from lab.report.vector_ledger import DECODINGS, VectorLedger
from lab.report.vector_transfers import transfer_block
from lab.vector_tables import VECTOR_DOSES, VECTOR_EFFECTS, VECTOR_FITS, VECTOR_TRANSFERS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorPage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    task: str
    """What stands before the word problems, such as `held-out chain`."""
    unrelated: str | None
    """Task of the texts on which damage was measured; None for the task itself."""
    ledger: VectorLedger
    made_by: Provenance
    command: str
    """What to type to make the page again."""
    files: tuple[TableFile, ...]


def render_vectors(page: VectorPage) -> str:
    """The page as HTML; equal pages give equal text."""
    ledger = page.ledger
    answer = f'<p class="answer">{escaped(vector_answer(ledger, page.task))}</p>'
    parts = [
        *(sourced(effect_block(ledger, how), page.files, VECTOR_EFFECTS.name) for how in DECODINGS),
        sourced(dose_block(ledger, page.unrelated), page.files, VECTOR_DOSES.name),
        sourced(transfer_block(ledger), page.files, VECTOR_TRANSFERS.name),
        sourced(fit_block(ledger.fits), page.files, VECTOR_FITS.name),
        f"{PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    return document(page.title, f"{answer}{HOW_TO_READ}", parts, WITHOUT_SCRIPTS)
