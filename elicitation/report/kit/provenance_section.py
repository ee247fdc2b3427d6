"""Provenance section: what made the numbers, how to make them again, and what every table file holds, as HTML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elicitation.report.kit.markup import escaped
from lab.records.provenance import Provenance
from lab.records.tables import Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """One table on disk."""

    path: str
    """Relative to the report."""
    schema: Schema
    n_rows: int
    digest: str
    """SHA-256 of the file, in hex."""
    command: str = ""
    """What makes it, where that is not what makes the page."""


def provenance_section(made_by: Provenance, command: str, files: Sequence[TableFile]) -> str:
    """`command` makes the report again from the same commit."""
    dirty = " with uncommitted changes" if made_by.dirty else ""
    facts = {
        "Stage": made_by.stage,
        "Commit": made_by.commit + dirty,
        "Digest": made_by.digest,
        "Seed": str(made_by.seed),
        "Device, dtype": f"{made_by.device}, {made_by.dtype}",
        "Packages": _pairs(made_by.packages),
        "Made from": _pairs(made_by.parents) or "nothing else",
    }
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{escaped(value)}</td></tr>' for name, value in facts.items())
    config = json.dumps(json.loads(made_by.config), indent=2, ensure_ascii=False)
    lines = "\n".join(map(escaped, config.split("\n")))
    return (
        f'<table class="facts"><tbody>{rows}</tbody></table>'
        f"<p>To make this page again:</p><pre>{escaped(command)}</pre>"
        f"<details><summary>Configuration</summary><pre>{lines}</pre></details>"
        f"{''.join(_file(file, file in _first(files).values()) for file in files)}"
    )


def sources(files: Sequence[TableFile], *names: str) -> str:
    """Where the numbers of a section are, as HTML: the files of these schemas, each a link to what it holds."""
    first = _first(files)
    links = [f'<a href="#{_place(name)}">{escaped(first[name].path)}</a>' for name in names if name in first]
    return f'<p class="note">Numbers: {", ".join(links)}</p>' if links else ""


def sourced(section: str, files: Sequence[TableFile], *names: str) -> str:
    """`section` with its sources below it; one that says nothing stays empty."""
    return section and f"{section}{sources(files, *names)}"


def _place(name: str) -> str:
    """Where on the page a schema is."""
    return f"table-{name.replace(' ', '-')}"


def _first(files: Sequence[TableFile]) -> dict[str, TableFile]:
    """Schema -> its first file, which links lead to."""
    return {file.schema.name: file for file in reversed(files)}


def _pairs(named: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(named.items()))


def _file(file: TableFile, linked: bool) -> str:
    columns = "".join(
        f"<dt>{escaped(column.name)} <small>{escaped(_dtype(column.dtype))}</small></dt>"
        f"<dd>{escaped(column.meaning)}</dd>"
        for column in file.schema.columns
    )
    rows = f"{file.n_rows:,} row{'' if file.n_rows == 1 else 's'}"
    place = f' id="{_place(file.schema.name)}"' if linked else ""
    made = f"<p>Made by <code>{escaped(file.command)}</code>.</p>" if file.command else ""
    return (
        f'<details{place}><summary><code>{escaped(file.path)}</code> <span class="count">{rows}, sha256 '
        f"{escaped(file.digest[:12])}</span></summary>{made}<dl>{columns}</dl></details>"
    )


def _dtype(dtype: object) -> str:
    return dtype.__name__ if isinstance(dtype, type) else str(dtype)
