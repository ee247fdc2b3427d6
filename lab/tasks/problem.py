"""Problem: one question with a gold answer, and where it came from."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question."""

    id: str
    """Unique inside its task; random numbers and pairing hang on it, so it must not depend on the order of problems."""
    prompt: str
    """The exact text the model continues."""
    answer: str
    """Gold answer, as the verifier of the task reads it."""
    family: str
    """Group that results are broken down by, such as the number of steps."""
    source: str
    """Task, file or generator the problem came from."""
