"""fit_schedule: how often the tuned model decides otherwise at each step of a completion."""

import numpy as np

from lab.errors import VectorError
from steering.hybrid.router import Scheduled
from steering.routing.moments import Moments

REACHED_SHARE = 0.5
"""Steps that this share of the texts have a rate of their own; the later ones share one."""


def fit_schedule(when: Moments) -> Scheduled:
    """Rates by step: the share of the texts that have a decision there, of those that go so far.

    `when` are all moments of the texts. Each rate is smoothed by one text more, in which a decision is as likely as at
    any token. The last rate is that of all later steps together. Raises VectorError where there is no moment.
    """
    if not len(when.texts):
        raise VectorError("no token to fit a schedule on: want fitting traces of at least one token")
    n_texts = np.bincount(when.positions).astype(np.float64)
    n_decided = np.bincount(when.positions, weights=when.decided, minlength=len(n_texts))
    n_own = int((n_texts >= REACHED_SHARE * n_texts[0]).sum())
    n_texts = np.append(n_texts[:n_own], n_texts[n_own:].sum())
    n_decided = np.append(n_decided[:n_own], n_decided[n_own:].sum())
    return Scheduled(tuple(((n_decided + when.decided_share) / (n_texts + 1)).tolist()))
