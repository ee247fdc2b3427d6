"""labels: what kinds of token the tokens of texts are, by a task's step grammar or by words."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.records.errors import ModelError, SiteError, StorageError
from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem, StepGrammar
from probes.sae.dictionary import Sae
from probes.storage.store import Store, read_index, read_rows, read_texts

LABELS = Schema(
    "labels of tokens",
    (
        Column("text", pl.Int32, "row of the texts"),
        Column("position", pl.Int32, "place of the token in its text, prompt included, from 0"),
        Column("label", pl.String, "kind of token; a token may have several"),
    ),
)

REASONING_WORDS = (
    "alternatively",
    "hmm",
    "maybe",
    "wait",
    "perhaps",
    "let me",
    "therefore",
    "however",
    "but",
    "another",
)
"""The word groups of ReasonScore (arXiv:2503.18878)."""


def step_labels(
    texts: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], grammar: StepGrammar
) -> pl.DataFrame:
    """`LABELS` rows: the tokens of every completion of a `TEXTS` table that hold a character of one of its spans.

    Raises StorageError where a text answers a problem that is not among `problems`.
    """
    by_id = {problem.id: problem for problem in problems}
    if absent := [name for name in texts["problem_id"].unique(maintain_order=True) if name not in by_id]:
        raise StorageError(
            f"the texts answer {len(absent)} problems, such as {absent[0]!r}, that are not among the problems: "
            "want the problems that the texts were sampled from"
        )
    rows: list[tuple[int, int, str]] = []
    for number, (problem_id, prompt, completion) in enumerate(_texts(texts)):
        places = character_spans(tokenizer, completion)
        for span in grammar.spans(by_id[problem_id], decoded(tokenizer, completion)):
            chosen = overlapping(places, span.start, span.end)
            rows += [(number, len(prompt) + place, span.label) for place in chosen]
    return _table(rows)


def word_labels(
    texts: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[str] = REASONING_WORDS,
    before: int = 1,
    after: int = 2,
) -> pl.DataFrame:
    """`LABELS` rows: for every word of `groups`, its tokens in the completions and those around them.

    A window is the tokens that hold a character of the word, `before` tokens in front and `after` behind, within the
    completion. A word is found whole, in any case, and with any white space where its group has a space; the label is
    the group as it is given. Tokens that decode to nothing, such as an end token, take part in no window.

    ReasonScore (arXiv:2503.18878, windows of 1 and 2) looks for a list of token sequences instead, so that it finds
    `but` only in the cases and with the spaces that were listed. Raises StorageError for an empty group or a window
    below 0.
    """
    if before < 0 or after < 0 or not groups or not all(group.strip() for group in groups):
        raise StorageError(
            f"words {list(groups)} with {before} tokens before and {after} after: want at least one word, none empty, "
            "and no window below 0"
        )
    spaced = {group: r"\s+".join(map(re.escape, group.split())) for group in groups}
    patterns = {group: re.compile(rf"(?<!\w){text}(?!\w)", re.IGNORECASE) for group, text in spaced.items()}
    rows: list[tuple[int, int, str]] = []
    for number, (_, prompt, completion) in enumerate(_texts(texts)):
        places = character_spans(tokenizer, completion)
        visible = [place for place, (start, end) in enumerate(places) if end > start]
        covered = [places[place] for place in visible]
        text = decoded(tokenizer, completion)
        for group, pattern in patterns.items():
            for match in pattern.finditer(text):
                if chosen := overlapping(covered, *match.span()):
                    window = visible[max(0, chosen[0] - before) : chosen[-1] + 1 + after]
                    rows += [(number, len(prompt) + place, group) for place in window]
    return _table(rows)


def decoded(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of a completion, without special tokens and with its spaces as they are."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def character_spans(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of each token in `decoded(tokenizer, tokens)`; equal for a token that decodes to nothing.

    A character of several byte tokens belongs to each of them. Every token is decoded behind the last ones that made
    text, since some tokenizers drop the first space of what they decode; so the work is linear in the length. Bytes
    that are no valid UTF-8 may be counted to a neighbour.
    """
    found: list[tuple[int, int]] = []
    # Tokens from `context` on are decoded; those before `whole` made `n_whole` characters of `n_text` in all.
    context, whole, n_context, n_text, n_begun = 0, 0, 0, 0, 0
    for place in range(len(tokens)):
        written = decoded(tokenizer, tokens[context : place + 1])[n_context:]
        # A character has at most four bytes; after that the mark of a broken one is no promise of more.
        unfinished = written.endswith("\ufffd") and place - whole < 3
        n_here = len(written.rstrip("\ufffd")) if unfinished else len(written)
        found.append((n_text + n_begun, n_text + n_here + unfinished))
        n_begun = n_here
        if unfinished:
            continue
        if written:
            context, n_context = whole, len(decoded(tokenizer, tokens[whole : place + 1]))
        whole, n_text, n_begun = place + 1, n_text + n_here, 0
    return found


def _texts(texts: pl.DataFrame) -> Iterable[tuple[str, list[int], list[int]]]:
    return texts.select("problem_id", "prompt", "completion").iter_rows()


def overlapping(places: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    return [number for number, (first, last) in enumerate(places) if first < end and last > start]


def _table(rows: list[tuple[int, int, str]]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    frame = pl.DataFrame(dict(zip(LABELS.dtypes, columns, strict=True)), schema=LABELS.dtypes)  # pyright: ignore[reportArgumentType]
    return LABELS.checked(frame.unique().sort("text", "position", "label"))


MOST_VALUES = 2**22
"""Activations of features that are held at once; part of the result's last digits, so no option."""


def shard_features(store: Store, sae: Sae, number: int) -> Iterator[tuple[slice, Float[Tensor, "row d_sae"]]]:
    """Which rows of shard `number`, and the activations of all features there, on the SAE's device, rows in order.

    Raises ModelError where the store's streams have another width than the SAE's, and as `read_rows` does for a site
    that was not captured or a damaged file. That the SAE learned from another model is no error.
    """
    yield from encoded(sae, read_site(store, sae, number))


def encoded(sae: Sae, rows: Float[Tensor, "row d_model"]) -> Iterator[tuple[slice, Float[Tensor, "_chosen d_sae"]]]:
    """The same of any rows."""
    n_together = max(1, MOST_VALUES // sae.d_sae)
    for first in range(0, len(rows), n_together):
        chosen = slice(first, min(first + n_together, len(rows)))
        with torch.no_grad():
            features = sae.encode(rows[chosen].to(sae.W_dec.device))
        yield chosen, features


def read_site(store: Store, sae: Sae, number: int) -> Float[Tensor, "row d_model"]:
    """One shard of the stream that `sae` reads; raises as `shard_features` does."""
    if store.plan.d_model != sae.d_model:
        raise ModelError(
            f"SAE {sae.name} reads streams of width {sae.d_model}, and {store.path} holds those of {store.plan.model}, "
            f"of width {store.plan.d_model}: want a store of the SAE's model, or of one tuned from it"
        )
    return read_rows(store, sae.site, number)


def require_features(sae: Sae, features: Sequence[int]) -> None:
    """SiteError unless `sae` has all of `features`, and there is at least one."""
    strays = [feature for feature in features if not 0 <= feature < sae.d_sae]
    if strays or not features:
        raise SiteError(
            f"features {strays or 'none'}: want at least one of those that SAE {sae.name} has, 0 to {sae.d_sae - 1}"
        )


def label_rows(
    store: Store, labels: pl.DataFrame, names: tuple[str, ...], number: int
) -> Bool[np.ndarray, "row label"]:
    """Whether each row of shard `number` has each of the labels `names`, by a `LABELS` table of the store's texts."""
    portion = store.portions[number]
    last = portion.first_text + portion.n_texts - 1
    codes = pl.DataFrame({"label": names, "code": range(len(names))}, schema={"label": pl.String, "code": pl.Int32})
    found = (
        labels.filter(pl.col("text").is_between(portion.first_text, last))
        .join(codes, on="label")
        .join(read_index(store, number).select("row", "text", "position"), on=["text", "position"])
    )
    marked = np.zeros((portion.n_rows, len(names)), dtype=bool)
    marked[found["row"].to_numpy(), found["code"].to_numpy()] = True
    return marked


def label_names(store: Store, labels: pl.DataFrame) -> tuple[str, ...]:
    """The labels of a `LABELS` table, sorted.

    Raises StorageError where it has no row, or a row that is no token of the store's texts.
    """
    if LABELS.checked(labels).is_empty():
        raise StorageError(
            f"no token of the texts in {store.path} has a label: want labels of these texts, by steps or by words"
        )
    lengths = (
        read_texts(store)
        .with_row_index("text")
        .select(
            pl.col("text").cast(pl.Int32), (pl.col("prompt").list.len() + pl.col("completion").list.len()).alias("n")
        )
    )
    strays = labels.join(lengths, on="text", how="left").filter(
        pl.col("n").is_null() | (pl.col("position") >= pl.col("n")) | (pl.col("position") < 0)
    )
    if len(strays):
        text, position, label, _ = strays.row(0)
        raise StorageError(
            f"the labels are of other texts than {store.path}: {label!r} is at token {position} of text {text}, and "
            f"{len(strays)} such tokens do not exist; label the very texts that were captured"
        )
    return tuple(labels["label"].unique().sort())
