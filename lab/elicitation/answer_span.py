"""answer_span: where a completion states its answer, in characters and in tokens."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from lab.models.load import Model
from lab.sampling.decode import decoded


def answer_span(read_answer: Callable[[str], str | None], text: str) -> range | None:
    """The characters of the answer that a task's `read_answer` finds in `text`; None where it finds no such words.

    It is the last place where the answer stands and without which the task reads something else, whatever the form of
    the task; where there is no such place (the same number closes two sentences), the last place of all.
    """
    answer = read_answer(text)
    if answer is None:
        return None
    places = list(_places(answer, text))
    read = (start for start in places if read_answer(text[:start] + text[start + len(answer) :]) != answer)
    start = next(read, places[0] if places else None)
    return None if start is None else range(start, start + len(answer))


def token_span(model: Model, tokens: Sequence[int], characters: range) -> range:
    """The tokens of a completion whose text has a part in `characters` of the completion's."""

    def n_characters(n_tokens: int) -> int:
        return len(decoded(model.tokenizer, list(tokens[:n_tokens])))

    counts = range(len(tokens) + 1)
    first = bisect_right(counts, characters.start, key=n_characters) - 1
    return range(first, bisect_left(counts, characters.stop, key=n_characters))


def _places(part: str, text: str) -> Iterator[int]:
    """Where `part` begins in `text`, from the last place to the first; overlapping ones too."""
    start = text.rfind(part) if part else -1
    while start >= 0:
        yield start
        start = text.rfind(part, 0, start + len(part) - 1)
