"""Stopwatch: what each stage of a study cost, read off its progress."""

import time


class Stopwatch:
    """A study's `Watch` that adds up the time between reports, under the stage that reports at the end of it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.last = time.monotonic()

    def __call__(self, stage: str, n_done: int, _: int) -> None:
        """A report of nothing done opens a stage: the time before it is the work that led there."""
        now = time.monotonic()
        key = stage if n_done else f"before {stage}"
        self.spent[key] = self.spent.get(key, 0.0) + now - self.last
        self.last = now

    def by_estimator(self) -> dict[str, float]:
        """Seconds for the evidence that only this estimator, or only it and one other, needs."""
        reading = self._of("reading")
        replaced = self._of("traces: tuned-greedy", "traces: reranked", "traces: rank2", "traces: scattered")
        fitted = self._of("traces: fit-", "traces: fitted-opening", "traces: fitted-greedy", "traces: random-")
        led = sum(seconds for key, seconds in self.spent.items() if key.startswith("before traces: greedy"))
        fits_of_rivals = self._of("before traces: p1")
        rivals = {"R1": fits_of_rivals + self._of("traces: p1"), "R2": fits_of_rivals + self._of("traces: p2")}
        return {"E1": 0.0, "E2": reading, "E3": reading, "E4": replaced, "E5": fitted + led} | rivals

    def _of(self, *stages: str) -> float:
        return sum(seconds for key, seconds in self.spent.items() if key.startswith(stages))
