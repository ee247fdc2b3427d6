"""Which modules of the project the demo enters a function of: `python tests/architecture/entered.py OUT`, one a line.

The demo's study is cut down, since whether a module is entered does not hang on sizes.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import elicitation.cli.study as study_verb
from elicitation.cli.main import main

ROOT = Path(__file__).parents[2]
FLOORS = ("lab", "probes", "steering", "elicitation")


def small(run: Callable[..., None]) -> Callable[..., None]:
    """`run_study` with less to do."""

    def ran(study, out, terminal) -> None:
        features = replace(study.features, n_tokens=20_000, n_texts=20)
        cut = replace(
            study, n_problems=24, n_samples=2, n_curve_samples=8, ks=(1, 2, 4, 8), n_fit_problems=60, n_boot=100
        )
        run(replace(cut, features=features), out, terminal)

    return ran


def entered(out: str) -> list[str]:
    """Paths below the root of the modules of which a function, method or comprehension was called."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    study_verb.run_study = small(study_verb.run_study)
    sys.argv = ["lab", "demo", "--out", out]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    ours = {Path(name).relative_to(ROOT) for name in seen if Path(name).is_relative_to(ROOT)}
    return sorted(str(path) for path in ours if path.parts[0] in FLOORS)


if __name__ == "__main__":
    found = entered(sys.argv[1])
    print("\n".join(["ENTERED", *found]))
