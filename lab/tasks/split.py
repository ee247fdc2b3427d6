"""Which problems are kept for evaluation where a source does not say: a hash of the question decides."""

import hashlib

HELD_OUT_SHARE = 0.5
"""Share of questions kept for evaluation; the others are for fitting and training."""


def is_held_out(question: str) -> bool:
    """The side of `question`, whatever its place, its file or its seed, so one question is never on both sides."""
    digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=4, person=b"held out").digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32
