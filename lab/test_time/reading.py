"""LenientReading: a model's own completions, written on without the token limit and read for their first answer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.records.errors import DecodingError
from lab.records.seeds import child_seed
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem
from lab.tasks.stated_answer import without_marks
from lab.test_time.method import Asked, Cost, Elicited, PartialCompletion, continued, tokens_written


@dataclass(frozen=True, kw_only=True, slots=True)
class LenientReading:
    """What a model has written already, when neither the form of an answer nor where a text stops counts against it.

    It has no control: nothing is added to the model. What it gains is what a tuned model may gain by no more than
    stopping in time and writing its answer where it is looked for.
    """

    factor: float = 4.0
    """A completion without an answer is written on until it is this many times as long as the token limit allows."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor < np.inf:
            raise DecodingError(f"reading with {self.factor} times the token limit: want a number of at least 1")

    def answer(self, asked: Asked) -> Elicited:
        """The completions that `sample` draws from the same seed, with no stop but the model's ends.

        Those that the limit cut before they state an answer are written on, as far as the model's context reaches. Each
        text is cut behind the first answer that it states plainly, and its thinking put in the open, so that the
        ordinary verifier judges that answer; such a trace has ended by "stop". Where none is stated the text stays
        whole. Raises DecodingError where the task knows no such reading.
        """
        first_answer = asked.task.judge.first_answer
        if first_answer is None:
            raise DecodingError(f"{asked.task.name}: completions of this task have no first answer to be read for")
        n_samples = asked.n_samples if asked.decoding.temperature else 1
        # An engine cannot go on with what it has written.
        limit = asked.decoding.max_new_tokens if asked.model.engine is None else self.limit(asked, asked.problems)
        decoding = replace(asked.decoding, stop=(), max_new_tokens=limit)
        traces = sample(asked.model, asked.problems, n_samples, decoding, seed=asked.seed, batch_size=asked.batch_size)
        if asked.model.engine is None:
            traces = self.written_on(asked, traces, first_answer)
        read = [_read(trace, first_answer) for trace in traces]
        return Elicited(read, Cost(n_tokens=tokens_written(traces, asked.problems)))

    def limit(self, asked: Asked, problems: Iterable[Problem]) -> int:
        """The longest completion that all of `problems` may have."""
        longest = max(len(encode_prompt(asked.model, problem, asked.decoding)) for problem in problems)
        context = asked.model.anatomy.context or np.inf
        return int(min(self.factor * asked.decoding.max_new_tokens, context - longest))

    def written_on(
        self, asked: Asked, traces: Sequence[Trace], first_answer: Callable[[str], int | None]
    ) -> list[Trace]:
        """The traces, those longer that the limit cut before an answer."""
        by_id = {problem.id: problem for problem in asked.problems}
        cut = {
            place: trace
            for place, trace in enumerate(traces)
            if trace.stop == "length" and first_answer(trace.text) is None
        }
        if not cut:
            return list(traces)
        limit = self.limit(asked, [by_id[trace.problem_id] for trace in cut.values()])
        decoding = replace(asked.decoding, stop=(), max_new_tokens=limit)
        drafts = [
            PartialCompletion(
                prompt=tuple(encode_prompt(asked.model, by_id[trace.problem_id], asked.decoding)),
                tokens=trace.tokens,
                logprobs=trace.logprobs,
                notes=(0.0,) * len(trace.tokens),
            )
            for trace in cut.values()
        ]
        keys = [child_seed(asked.seed, trace.problem_id, trace.sample_index, "written on") for trace in cut.values()]
        longer = continued(
            asked.model,
            drafts,
            np.array(keys, dtype=np.uint64),
            decoding,
            watch=lambda logits: logits.new_zeros(len(logits)),
            batch_size=asked.batch_size,
        )
        found = list(traces)
        for (place, trace), draft in zip(cut.items(), longer, strict=True):
            found[place] = draft.trace(asked.model, by_id[trace.problem_id], trace.sample_index, decoding)
        return found


def _read(trace: Trace, first_answer: Callable[[str], int | None]) -> Trace:
    end = first_answer(trace.text)
    return trace if end is None else replace(trace, text=without_marks(trace.text[:end]), stop="stop")
