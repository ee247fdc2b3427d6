"""publish: the card of a vector, what it is, what it does and how each runtime takes it; and its way to the hub.

The door to the client of the Hugging Face hub.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lab.records.errors import StorageError
from lab.records.provenance import MANIFEST, Provenance
from steering.export.vector_file import Format, Origin, VectorFile, fenced
from steering.vector import SteeringVector

UNKNOWN = "unknown"
MEASURED = {
    "Accuracy, %": ("accuracy", "low", "high"),
    "Gain, points": ("gain", "gain_low", "gain_high"),
    "Over its control, points": ("over_control", "over_control_low", "over_control_high"),
}
"""Heading -> columns of a study's ladder table: a value and its interval."""
SPECIAL = re.compile(r"[\\`*_\[\]#|~]")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def model_card(
    name: str, file: VectorFile, exported: Mapping[Path, Format], measured: pl.DataFrame | None = None
) -> str:
    """The card of the vector `name` as Markdown.

    `exported` are the files written of it, each with its format; their commands name these files. `measured` are rows
    of a study's ladder table (the arms that use the vector, and their controls); they are given with their intervals.
    Texts from outside come out as texts: neither HTML nor Markdown in them has effect. Raises StorageError where
    `measured` is no ladder table.
    """
    vector, origin = file.vector, file.origin
    parts = [f"# {_plain(name)}", _what(vector, origin), _sites(vector, origin)]
    if measured is not None:
        parts.append(_effect(measured))
    if exported:
        parts.append("## Use")
        model = "MODEL" if origin is None or origin.fitted_on is None else origin.fitted_on.name
        parts += [form.use(path, model) for path, form in exported.items()]
    if origin is not None:
        parts.append(_provenance(origin.made_by))
    return "\n\n".join(parts) + "\n"


def _what(vector: SteeringVector, origin: Origin | None) -> str:
    facts = None if origin is None else origin.fitted_on
    lines = [
        "A steering vector: a direction that is added to the residual stream of a model at every steered token, times "
        "a dose. Dose 1 is the tensor as it is.",
        "",
        f"- How it was fitted: {_plain(vector.description) or UNKNOWN}",
        f"- Width (d_model): {vector.d_model}",
    ]
    if facts is None:
        lines.append(f"- Model: {UNKNOWN}")
    else:
        lines += [
            f"- Model: {_plain(facts.name)}, family {_plain(facts.family)}, {facts.n_layers} layers",
            f"- Digest of the model: {_plain(facts.digest)}; of its tokenizer: {_plain(facts.tokenizer_digest)}",
        ]
    dose = None if origin is None else origin.measured_dose
    lines.append("- Measured at dose: " + ("none" if dose is None else f"{dose:g}"))
    return "\n".join(lines)


def _sites(vector: SteeringVector, origin: Origin | None) -> str:
    dose = 1.0 if origin is None or origin.measured_dose is None else origin.measured_dose
    rows = []
    for site, norm in vector.norms.items():
        stream = vector.residual_norms[site]
        relative = abs(dose * norm) / stream if stream > 0 else math.nan
        rows.append((f"`{site}`", *map(_number, (norm, stream, relative))))
    heads = ("Site", "Norm", "Mean norm of the stream", f"Relative dose at {dose:g}")
    return (
        "## Sites\n\n"
        + _table(heads, rows)
        + "\n\nBlocks count from 0; `resid_post` of block N is its output, `resid_mid` what its MLP reads."
    )


def _effect(ladder: pl.DataFrame) -> str:
    wanted = {"order", "label", "measure", "n_problems", "n_samples"}.union(*MEASURED.values())
    if missing := sorted(wanted.difference(ladder.columns)):
        raise StorageError(f"not a 'ladder' table: it has no column {', '.join(missing)}; want that of a study")
    rows = [
        (
            _plain(row["label"]),
            _plain(row["measure"]),
            *(_interval(*(row[column] for column in columns)) for columns in MEASURED.values()),
            f"{row['n_problems']} x {row['n_samples']}",
        )
        for row in ladder.sort("order", "measure").iter_rows(named=True)
    ]
    table = _table(("Arm", "Measure", *MEASURED, "Problems x samples"), rows)
    return f"## Measured effect\n\n{table}\n\nIn brackets: 95 % intervals; problems are resampled."


def _interval(value: float, low: float, high: float) -> str:
    return "not defined" if math.isnan(value) else f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _provenance(made_by: Provenance) -> str:
    changed = ", with uncommitted changes" if made_by.dirty else ""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(made_by.packages.items()))
    lines = [
        "## Provenance",
        "",
        f"- Made by: {_plain(made_by.stage)}, commit {_plain(made_by.commit)}{changed}, seed {made_by.seed}",
        f"- On: {_plain(made_by.device)}, {_plain(made_by.dtype)}",
        f"- With: {_plain(packages)}",
    ]
    lines += [f"- From: {_plain(name)} {_plain(digest)}" for name, digest in sorted(made_by.parents.items())]
    return "\n".join(lines) + "\n\n" + fenced("json", made_by.config)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _plain(text: str) -> str:
    """`text` on one line, as itself wherever Markdown or HTML would read it."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split())).translate(ENTITIES)


def _number(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.4g}"


CARD = "README.md"
"""What the hub shows of a repository."""
METADATA = "---\ntags:\n- steering-vector\n---\n\n"
"""What the hub finds a card by; it warns of one without."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository that can be pushed to."""

    name: str
    """OWNER/NAME."""
    token: str


def hub_repository(name: str) -> HubRepository:
    """The repository OWNER/NAME with the user's token, or StorageError; asks nothing of the network."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise StorageError(f"--push {name}: want OWNER/NAME: {error}") from error
    if "/" not in name:
        raise StorageError(f"--push {name}: want OWNER/NAME, such as me/{name}")
    token = get_token()
    if not token:
        raise StorageError(
            f"no token for the Hugging Face hub, so nothing is written; log in with `hf auth login` or set HF_TOKEN. "
            f"The export and its card, as {CARD}, would go to {name}"
        )
    return HubRepository(name, token)


def pushed_files(exported: Path) -> dict[str, Path]:
    """Path in the repository -> file here: those below a directory, or the one file. The card is not among them."""
    if exported.is_dir():
        inside = sorted(path for path in exported.rglob("*") if path.is_file() and path != exported / MANIFEST)
        return {path.relative_to(exported).as_posix(): path for path in inside}
    return {exported.name: exported}


def push(exported: Path, card: str, repository: HubRepository) -> str:
    """Adds the files of `exported` and the `card` to `repository` as one commit; the commit's address.

    A repository that is not there is made, private; one that is there keeps its visibility, and its files unless one
    has the same name. Raises StorageError where the hub refuses or cannot be reached, with how to try again.
    """
    api = HfApi(token=repository.token)
    added = [CommitOperationAdd(name, path) for name, path in pushed_files(exported).items() if name != CARD]
    added.append(CommitOperationAdd(CARD, (METADATA + card).encode()))
    try:
        api.create_repo(repository.name, private=True, exist_ok=True)
        return str(api.create_commit(repository.name, added, commit_message=f"Add {exported.name}").commit_url)
    # Errors of the hub are OSErrors; those of the network are the client's own, which changes with its version.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StorageError(
            f"{exported} is written, but not pushed to {repository.name}: {reason}; once that is mended, delete it and "
            "give the same command again"
        ) from error
