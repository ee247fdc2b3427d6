"""SelfConsistency: a majority vote over sampled answers (Wang et al. 2022, arXiv 2203.11171)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import Trace
from lab.test_time.method import Asked, Cost, Elicited, tokens_written


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfConsistency:
    """Many sampled completions, and the answer that most of them state.

    With one vote this is plain sampling at the same temperature, which is its control: what the vote itself adds.
    """

    n_votes: int = 40
    """Completions behind one answer; 40 in the paper."""
    temperature: float = 0.7
    """As the paper has it for its largest models."""

    def __post_init__(self) -> None:
        if self.n_votes < 1:
            raise DecodingError(f"self-consistency of {self.n_votes} votes: want at least one")

    def answer(self, asked: Asked) -> Elicited:
        """Answers of each problem, each the completion that stands for a vote of its own.

        Answer s is decided by the samples s * n_votes to (s + 1) * n_votes - 1 of the problem, so votes share nothing.
        The paper compares answers and keeps no reasoning; here the first completion that states the winning answer
        stands for the vote, so that its process can be judged. A vote won by bare answers is then seldom strictly
        right.
        """
        decoding, n_drawn = replace(asked.decoding, temperature=self.temperature), asked.n_samples * self.n_votes
        votes = sample(asked.model, asked.problems, n_drawn, decoding, seed=asked.seed, batch_size=asked.batch_size)
        traces: list[Trace] = []
        for start in range(0, len(votes), self.n_votes):
            electorate = votes[start : start + self.n_votes]
            answers = [asked.task.read_answer(trace.text) for trace in electorate]
            winner = electorate[majority(answers, same=asked.task.same_answer)]
            traces.append(replace(winner, sample_index=winner.sample_index // self.n_votes))
        return Elicited(traces, Cost(n_tokens=tokens_written(votes, asked.problems)))


def majority(answers: Sequence[str | None], *, same: Callable[[str, str], bool]) -> int:
    """Where the most frequent answer is stated first; of equally frequent ones, that which was seen first.

    None is no vote; where nobody votes it is 0. An answer counts for the first earlier one that `same` says it equals.
    """
    stated = {place: answer for place, answer in enumerate(answers) if answer is not None}
    ballots: dict[int, int] = {}
    for place, answer in stated.items():
        found = next((first for first in ballots if same(answer, stated[first])), place)
        ballots[found] = ballots.get(found, 0) + 1
    return max(ballots, key=lambda first: ballots[first], default=0)
