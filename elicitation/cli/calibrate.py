"""Score every estimator on the organisms, whose true elicited share is known, and write a page about it.

Example: lab calibrate --quick --out runs/calibration

A calibration that was stopped goes on when the same command is given again.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from elicitation.cli.main import Device
from elicitation.cli.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class CalibrateCommand:
    """What `lab calibrate` is given."""

    RESUMES: ClassVar[bool] = True
    quick: bool = False
    """Fewer problems, samples and resamples, and the path test that ships with the package instead of a new one."""
    only: tuple[str, ...] = ()
    """Organisms to keep to, such as locked taught; all with a known answer when not given."""
    out: Path | None = None
    """Directory of the results: runs/calibration, or runs/calibration-quick, if not given."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""
    jobs: int = 0
    """Cases at once, each on one thread; as many as there are cores when 0."""
    device: Device = "auto"

    def run(self, terminal: Terminal) -> None:
        """Runs a calibration under a progress bar, then shows its records and says where the page is."""
        from elicitation.calibration.run import calibrate
        from elicitation.calibration.trials import FULL, QUICK
        from elicitation.pages.calibration.page import calibration_summary

        with terminal.progress() as watch:
            calibrated = calibrate(
                QUICK if self.quick else FULL,
                self.out or Path("runs/calibration-quick" if self.quick else "runs/calibration"),
                seed=self.seed,
                device=self.device,
                jobs=self.jobs or os.cpu_count() or 1,
                only=self.only,
                command=terminal.anywhere,
                watch=watch,
            )
        terminal.show(calibration_summary(calibrated.records, terminal.console.width))
        terminal.say(f"page: {calibrated.page.resolve()}")


COMMAND = CalibrateCommand
