"""The card of an organism: how it was made and what it can do, for programs and for people; and a list of all cards."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lab.models.source import fetched_directory, shipped_directory, shipped_names
from lab.organisms.catalogue import names_of, pretrained_named
from lab.organisms.examine import EVALUATION_SEED, Measured, Truth
from lab.organisms.recipe import FromScratch, LowRank, Organism, Pretrained, Tuned, home
from lab.records.provenance import canonical_json, package_versions, revision
from lab.records.tables import write_text


def write_card(
    directory: Path,
    organism: Organism,
    rows: Sequence[Measured],
    truths: Sequence[Truth],
    *,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """Writes `card.json` for programs and `README.md` for people; `dtype` is that of the models when measured."""
    commit, dirty = revision()
    card = {
        "name": organism.name,
        "parent": None if organism.parent is None else organism.parent.home(seed),
        "story": organism.story,
        "recipe": json.loads(canonical_json(organism.recipe)),
        "eval_specs": json.loads(canonical_json(organism.eval_specs)),
        "old_task": organism.old_task,
        "seed": seed,
        "command": f"lab models build {organism.name} --seed {seed} --device {device}",
        "commit": commit,
        "dirty": dirty,
        "packages": package_versions(),
        "evaluation": {"seed": EVALUATION_SEED, "dtype": dtype, "weights": "bfloat16, as shipped"},
        "truth": [{key: rounded(value) for key, value in asdict(truth).items()} for truth in truths],
        "measured": [asdict(row) for row in rows],
    }
    write_text(directory / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_text(directory / "README.md", card_page(organism, card))


def rounded(value: object) -> object:
    """Numbers to four decimals, None where undefined; anything else as it is."""
    return value if not isinstance(value, float) else None if np.isnan(value) else round(value, 4)


def card_page(organism: Organism, card: Mapping) -> str:
    """The card as Markdown."""
    match organism.recipe:
        case FromScratch():
            origin = " from random weights."
        case Tuned():
            origin = f" from `{card['parent']}`."
        case LowRank(rank=rank):
            origin = f": a low-rank adapter (rank {rank}) on `{card['parent']}`."
    rows = card["measured"]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    lines = [
        f"# {home(organism.name, card['seed'])}",
        "",
        organism.story,
        "",
        f"Made by `{card['command']}`{origin}",
        "In per cent of held-out problems, with 95 % intervals over problems. *strict* wants a correct answer, by a",
        "valid process where the task has one.",
    ]
    if "process" in measures:
        lines += [
            "Training never saw a held-out expression of two steps or more. A step is checked exactly. A *process* is",
            "valid when all *steps* are written, copied and true, and end in the stated answer; *steps* leaves the",
            "answer out; *chain* is that any step was written.",
        ]
    lines += [
        "",
        f"| model | task | problems | decoding | {' | '.join(f'{measure} %' for measure in measures)} |",
        "|---|---|---|---|" + "---|" * len(measures),
    ]
    for key in dict.fromkeys((row["model"], row["task"], row["family"], row["decoding"]) for row in rows):
        cells = {
            row["measure"]: row for row in rows if (row["model"], row["task"], row["family"], row["decoding"]) == key
        }
        shown = [percent(**cells[measure]) if measure in cells else "" for measure in measures]
        model, task, family, decoding = key
        size = cells["strict"]["n_problems"]
        lines.append(f"| {model} | `{task}` | {family} ({size}) | {decoding} | {' | '.join(shown)} |")
    if card["truth"]:
        lines += ["", "True elicited share, from what the base saw and the gains above:", ""]
    for truth in card["truth"]:
        known = "{share:.3f} [{low:.3f}, {high:.3f}]".format(**truth) if truth["refusal"] is None else truth["refusal"]
        lines.append(f"- {truth['kind']}, `{truth['task']}`: {known}")
    return "\n".join(lines) + "\n"


def percent(*, value: float, low: float, high: float, **_: object) -> str:
    """A share in [0, 1] and its interval, for example `94.2 [92.8, 95.4]`."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def read_card(name: str) -> dict:
    """The card of a shipped model, as `write_card` wrote it; ModelError listing those there are for another name."""
    return json.loads((shipped_directory(name) / "card.json").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """What there is to say of one built-in model."""

    name: str
    parent: str | None
    """What it was tuned from."""
    where: str
    """"shipped", "fetched", or what to type to have it."""
    story: str
    strict: tuple[tuple[str, float], ...] = ()
    """Each task of its card, with its strict accuracy there, sampled at temperature 1."""
    truths: tuple[tuple[str, float | None], ...] = ()
    """Each kind of gain, with the elicited share that its construction fixes; None where there was no gain."""


def listed() -> Iterator[Listed]:
    """The models that can be fetched and those that ship with the package, each group by name."""
    for name in names_of(Pretrained):
        where = "fetched" if fetched_directory(name).is_dir() else f"lab models fetch {name}"
        yield Listed(name=name, parent=None, where=where, story=pretrained_named(name).story)
    for name in shipped_names():
        card = read_card(name)
        yield Listed(
            name=name,
            parent=card["parent"],
            where="shipped",
            story=card["story"],
            strict=tuple(
                (row["task"], row["value"])
                for row in card["measured"]
                if (row["model"], row["family"], row["decoding"], row["measure"]) == (name, "all", "sampled", "strict")
            ),
            truths=tuple((truth["kind"], truth["share"]) for truth in card["truth"]),
        )
