"""scores: what base and tuned model think of completions that one of them wrote, token by token."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.models.anatomy import require_one_rotation
from lab.models.load import Model, finished
from lab.models.pair import ModelPair
from lab.models.passes import arguments
from lab.records.errors import ModelError
from lab.sampling.decoder import left_padded, token_positions
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.scoring.evidence import PROCESS, RANKS, SCORES
from lab.tasks.problem import Cut, Problem, StepGrammar
from lab.tasks.source import Task

MOST_ROWS, MOST_TOKENS, WIDE = 256, 2**15, 1024
"""Rows read at once, and positions in them: fewer, in proportion, of a model that is wider than `WIDE`."""
MOST_LOGITS = 2**24
"""Logits of one model that are held at once, whatever texts and vocabulary: 64 MiB."""
AT_ONCE = 2**20
"""Of them, those that are measured at once: what is made of so few stays in caches, and in memory that malloc keeps."""
MOST_WEIGHTS = 2**24
"""Weights of an unembedding that are held a second time, as float32."""
DOUBLE = 2**14
"""Up to so many tokens, log-probabilities are taken in double precision, which costs five times as long."""


class Row(NamedTuple):
    """One text."""

    context: list[int]
    """Token ids that are given."""
    completion: list[int]
    """Token ids whose probabilities are asked for; at least one."""


class Texts(NamedTuple):
    """Rows of one piece, padded on the left."""

    rows: Sequence[Row]
    tokens: Int[Tensor, "text pos"]
    mask: Bool[Tensor, "text pos"]


def pieces(model: Model, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Texts]]:
    """Pieces of `rows`, each with the indices of its rows; rows of like length share a piece."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].context) + len(rows[index].completion))
    while order:
        longest = len(rows[order[-1]].context) + len(rows[order[-1]].completion)
        most = MOST_TOKENS * WIDE // max(WIDE, model.anatomy.d_model)
        n_rows = max(1, min(MOST_ROWS, most // longest))
        chosen, order = order[-n_rows:], order[:-n_rows]
        yield chosen, padded_texts(model, [rows[index] for index in chosen])


def padded_texts(model: Model, rows: Sequence[Row]) -> Texts:
    """Rows as one piece."""
    padded = left_padded(model, [row.context + row.completion for row in rows])
    return Texts(rows, padded.tokens, padded.mask)


def trace_rows(
    model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem], *, n_shared: int | None = None
) -> list[Row]:
    """The rows of a `TRACES` table: the prompt is the context.

    Of an end that is beyond the `n_shared` first tokens, those of the model if not given, the text is read without it.
    Raises ModelError where another token is beyond them.
    """
    asked = {name: model.prompt_ids(problems[name].prompt) for name in traces["problem_id"].unique()}
    n_known = n_shared or model.anatomy.d_vocab
    known_end = next((end for end in sorted(model.ends) if end < n_known), 0)
    rows: list[Row] = []
    for problem_id, written in traces.select("problem_id", "tokens").iter_rows():
        is_known = not written or written[-1] < n_known
        tokens = written if is_known else written[:-1] or [known_end]
        if outside := [token for token in tokens if not 0 <= token < n_known]:
            raise ModelError(
                f"a text holds token {max(outside)}, and {model.name} can read {n_known}: want a pair whose texts need "
                "no token, ends apart, that only one model has"
            )
        rows.append(Row(asked[problem_id], tokens))
    return rows


class ReadByBoth(NamedTuple):
    """One piece of texts as either model of a pair reads it: its own prompt, and the same completion."""

    chosen: Sequence[int]
    """The rows of the table that the piece holds."""
    base: Texts
    tuned: Texts


def read_by_both(pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Iterator[ReadByBoth]:
    """Every completion of a `TRACES` table, in pieces; raises as `trace_rows` by the tokens that both models have."""
    rows = {
        name: trace_rows(model, traces, problems, n_shared=pair.d_vocab)
        for name, model in (("base", pair.base), ("tuned", pair.tuned))
    }
    alike = rows["base"] == rows["tuned"]
    longer = [max(both, key=lambda row: len(row.context)) for both in zip(rows["base"], rows["tuned"], strict=True)]
    for chosen, _ in pieces(pair.base, longer):
        base = padded_texts(pair.base, [rows["base"][index] for index in chosen])
        tuned = base if alike else padded_texts(pair.tuned, [rows["tuned"][index] for index in chosen])
        yield ReadByBoth(chosen, base, tuned)


class Foresight(NamedTuple):
    """What a model foresees at every token of some completions, as residuals: a thousandth of the size of its logits.

    >>> from lab.models.tiny import tiny_model
    >>> model = tiny_model("llama", seed=0)
    >>> _, read = next(pieces(model, [Row([65, 66], [67]), Row([65], [68, 69])]))
    >>> [len(of_text) for (of_text,) in by_text(lambda logits, _: (logits.argmax(dim=-1),), foresee(model, read))]
    [1, 2]
    """

    read: Texts
    weight: Float[Tensor, "d_vocab d_model"]
    bias: Float[Tensor, " d_vocab"] | None
    """Of the unembedding."""
    resid: Float[Tensor, "token d_model"]
    """As the unembedding reads it before each token, a completion after another."""
    finish: Callable[[Float[Tensor, "token d_vocab"]], Float[Tensor, "token d_vocab"]]
    """What the network makes of logits of its unembedding: nothing, or a cap or a scale."""


@torch.no_grad()
def foresee(model: Model, read: Texts) -> Foresight:
    """One pass over `read`, in which the network unembeds one position only.

    Raises ModelError where that position's logits are not those that `logits_of` makes.
    """
    require_one_rotation(model.anatomy, read.mask.shape[1])
    unembed, longest = model.anatomy.unembed, max(len(row.completion) for row in read.rows)
    seen: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(given[0])
        return (given[0][:1, -1:],)

    with ExitStack() as hooks:
        hooks.callback(unembed.register_forward_pre_hook(look).remove)
        given = arguments(
            model.network,
            input_ids=read.tokens,
            attention_mask=read.mask.long(),
            position_ids=token_positions(read.mask),
            use_cache=False,
            logits_to_keep=longest + 1,
        )
        wanted = model.network(**given).logits[0]
    (resid,) = seen
    lengths = torch.tensor([len(row.completion) for row in read.rows], device=resid.device)
    foreseen = torch.arange(longest, 0, -1, device=resid.device) <= lengths[:, None]

    weight, bias = unembed.get_parameter("weight"), getattr(unembed, "bias", None)
    found = Foresight(
        read, weight, bias, resid[:, -longest - 1 : -1][foreseen], partial(finished, model.network, unembed)
    )
    ((mine,),) = logits_of(found._replace(resid=resid[0, -1:]))
    # Products of a lower precision are far from exact, and another head than `logits_of` takes it for is far off.
    near = float(wanted.abs().max()) * torch.finfo(model.dtype).eps ** 0.5
    if not torch.allclose(mine, wanted[-1:].float(), rtol=0, atol=near, equal_nan=True):
        raise ModelError(
            f"{model.name}: logits of a {type(model.network).__name__} are not what its unembedding makes of its last "
            "residuals; want a family whose head is one matrix, with or without a bias, a scale or a cap"
        )
    return found


def logits_of(*foresights: Foresight) -> Iterator[tuple[Float[Tensor, "token d_vocab"], ...]]:
    """Logits of the same few tokens by each in float32, by products in float32 of weights in any precision."""
    n_tokens, widest = len(foresights[0].resid), max(len(one.weight) for one in foresights)
    several, few = max(1, MOST_LOGITS // widest), max(1, AT_ONCE // widest)
    held = [one.resid.new_empty(min(several, n_tokens), len(one.weight), dtype=torch.float32) for one in foresights]
    for start in range(0, n_tokens, several):
        parts: list[Iterable[Tensor]] = []
        for (_, weight, bias, resid, finish), memory in zip(foresights, held, strict=True):
            some = resid[start : start + several].float()
            logits = memory[: len(some)]
            n_rows = len(weight) if weight.dtype == torch.float32 else max(1, MOST_WEIGHTS // weight.shape[1])
            for few_rows, columns in zip(weight.split(n_rows), logits.split(n_rows, dim=1), strict=True):
                torch.mm(some, few_rows.float().T, out=columns)
            if bias is not None:
                logits += bias
            parts.append(map(finish, logits.split(few)))
        yield from zip(*parts, strict=True)


Measure = Callable[..., tuple[Tensor, ...]]
"""Logits of the same tokens by every model that was asked, and the tokens -> figures of each."""


@torch.no_grad()
def by_text(measure: Measure, *foresights: Foresight, n_shared: int | None = None) -> list[tuple[Tensor, ...]]:
    """Text by text, the figures that `measure` takes of each token of its completion.

    Logits are of the `n_shared` first tokens, all if not given. Memory grows with the figures, not with the vocabulary.
    """
    rows = foresights[0].read.rows
    tokens = torch.tensor([token for row in rows for token in row.completion], device=foresights[0].resid.device)
    figures: list[Tensor] = []
    start = 0
    for logits in logits_of(*foresights):
        here = slice(start, start := start + len(logits[0]))
        measured = measure(*(one[:, :n_shared] for one in logits), tokens[here])
        # Small tensors that outlive this turn would lie in gaps that its large ones leave, and new ones would not fit.
        figures = figures or [one.new_empty(len(tokens), *one.shape[1:]) for one in measured]
        for column, some in zip(figures, measured, strict=True):
            column[here] = some
    parts = [column.split([len(row.completion) for row in rows]) for column in figures]
    return list(zip(*parts, strict=True))


class Readings(NamedTuple):
    """Both models' view of the same completions."""

    scores: pl.DataFrame
    """`SCORES`."""
    ranks: pl.DataFrame
    """`RANKS`."""


@torch.inference_mode()
def scores(pair: ModelPair, writer: str, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Readings:
    """Reads `traces`, which `writer` ("base" or "tuned") sampled, with both models, at temperature 1.

    Each reads the completions behind its own prompt, and over the tokens that both have. A completion that was cut at
    the token limit has no end token, and its probability is that of the cut text. Sums are over the text's tokens in
    double precision.
    """
    names = traces.select("problem_id", "sample_index").rows()
    totals: list[dict[str, object]] = [{}] * len(names)
    ranks: list[pl.DataFrame] = []
    precision = torch.float64 if pair.d_vocab <= DOUBLE else torch.float32

    def compared(base: Tensor, tuned: Tensor, written: Tensor) -> tuple[Tensor, ...]:
        rank = 1 + (base > base.gather(-1, tuned.argmax(dim=-1, keepdim=True))).sum(dim=-1)
        base, tuned = (logits.to(precision).log_softmax(dim=-1) for logits in (base, tuned))
        ours, theirs = (base, tuned) if writer == "base" else (tuned, base)
        chances = base.exp()
        entropy = -(chances * base).sum(dim=-1)
        divergence = ((chances if writer == "base" else tuned.exp()) * (ours - theirs)).sum(dim=-1)
        logps = (model.gather(-1, written[:, None])[:, 0] for model in (base, tuned))
        return *logps, divergence.double(), rank, entropy.double()

    for chosen, by_base, by_tuned in read_by_both(pair, traces, problems):
        both = foresee(pair.base, by_base), foresee(pair.tuned, by_tuned)
        for index, figures in zip(chosen, by_text(compared, *both, n_shared=pair.d_vocab), strict=True):
            logp_base, logp_tuned, divergence, rank, entropy = figures
            key = {"writer": writer, "problem_id": names[index][0], "sample_index": names[index][1]}
            totals[index] = key | {
                "n_tokens": len(rank),
                "logp_base": float(logp_base.double().sum()),
                "logp_tuned": float(logp_tuned.double().sum()),
                "token_kl": float(divergence.sum()),
            }
            columns = {"rank": rank.int().cpu().numpy(), "entropy": entropy.cpu().numpy()}
            columns |= {"position": np.arange(len(rank)), **key}
            ranks.append(pl.DataFrame(columns, schema=RANKS.dtypes))  # pyright: ignore[reportArgumentType]
    order = ["problem_id", "sample_index", "position"]
    return Readings(SCORES.frame(totals), RANKS.checked(pl.concat(ranks).sort(order)))


@torch.inference_mode()
def answer_scores(model: Model, rows: list[Row]) -> tuple[Float[np.ndarray, " row"], list[bool]]:
    """(log-probability in nats of each row's completion, whether greedy decoding would write it) under one model."""
    logps, greedy = np.zeros(len(rows)), [False] * len(rows)
    precision = torch.float64 if model.anatomy.d_vocab <= DOUBLE else torch.float32

    def read_off(logits: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        logs = logits.to(precision).log_softmax(dim=-1)
        return logs.gather(-1, written[:, None])[:, 0], logits.argmax(dim=-1) == written

    for chosen, read in pieces(model, rows):
        for index, (logp, is_greedy) in zip(chosen, by_text(read_off, foresee(model, read)), strict=True):
            logps[index] = float(logp.double().sum())
            greedy[index] = bool(is_greedy.all())
    return logps, greedy


def process(
    readers: Mapping[str, Model], task: Task, traces: pl.DataFrame, decoding: Decoding, *, batch_size: int
) -> pl.DataFrame:
    """`PROCESS` rows: for each problem the first of `traces` whose steps are all true, cut after each of its steps.

    Each reader is asked for the answer after every cut (log-probability of the gold one, and whether greedy decoding
    gives it), and goes on greedily from every cut whose last step was falsified. No rows where the task has no step
    grammar, or no trace has true steps.
    """
    if task.steps is None:
        return PROCESS.frame([])
    chosen = first_cuts(task.steps, task.problems, traces)
    rows = (reader_rows(name, model, task, task.steps, chosen, decoding, batch_size) for name, model in readers.items())
    return PROCESS.frame([row for of_reader in rows for row in of_reader])


class Worked(NamedTuple):
    """A worked answer that a grammar could cut."""

    problem: Problem
    sample_index: int
    cuts: tuple[Cut, ...]


def first_cuts(grammar: StepGrammar, problems: Sequence[Problem], traces: pl.DataFrame) -> Sequence[Worked]:
    """The first sample of each problem that the grammar can cut."""
    texts: dict[str, list[tuple[int, str]]] = {}
    for problem_id, sample_index, text in traces.select("problem_id", "sample_index", "text").iter_rows():
        texts.setdefault(problem_id, []).append((sample_index, text))
    found = []
    for problem in problems:
        for sample_index, text in sorted(texts.get(problem.id, [])):
            if cuts := grammar.cuts(problem, text):
                found.append(Worked(problem, sample_index, cuts))
                break
    return found


def reader_rows(
    reader: str,
    model: Model,
    task: Task,
    grammar: StepGrammar,
    worked: Sequence[Worked],
    decoding: Decoding,
    batch_size: int,
) -> list[dict[str, object]]:
    """One row for each cut, in order."""
    flat = [(problem, sample, step, cuts) for problem, sample, cuts in worked for step in range(len(cuts))]

    def tokens(text: str) -> list[int]:
        # What follows a prompt has no opening token of its own.
        return model.tokenizer(text, add_special_tokens=False).input_ids

    asked = [
        Row(model.prompt_ids(problem.prompt, cuts[step].text + grammar.ask), tokens(problem.answer))
        for problem, _, step, cuts in flat
    ]
    logps, early = answer_scores(model, asked)
    falsified = {
        (problem.id, step): grammar.falsify(problem, cuts[step]) for problem, _, step, cuts in flat if step > 0
    }
    answers: dict[tuple[str, int], str | None] = {}
    for step in sorted({step for _, step in falsified}):
        going_on = [
            replace(problem, opening=falsified[problem.id, step].text)
            for problem, _, _ in worked
            if (problem.id, step) in falsified
        ]
        # A falsified text and what follows may be as long as a completion, and no longer.
        n_read = max(len(tokens(falsified[problem.id, step].text)) for problem in going_on)
        rest = replace(decoding, temperature=0.0, max_new_tokens=max(1, decoding.max_new_tokens - n_read))
        for trace in sample(model, going_on, 1, rest, seed=0, batch_size=batch_size):
            written = falsified[trace.problem_id, step].text + trace.text
            answers[trace.problem_id, step] = task.read_answer(written)
    return [
        {
            "reader": reader,
            "problem_id": problem.id,
            "sample_index": sample_index,
            "step": step,
            "n_steps": len(cuts) - 1,
            "logp_answer": float(logps[index]),
            "leaked": problem.answer in cuts[step].states,
            "early_correct": early[index],
            "followed": None if step == 0 else answers[problem.id, step] == falsified[problem.id, step].implied,
        }
        for index, (problem, sample_index, step, cuts) in enumerate(flat)
    ]
