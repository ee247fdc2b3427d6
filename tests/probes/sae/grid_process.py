"""Trains a grid in a process of its own, and kills it without warning in the midst of the second SAE.

python grid_process.py STORE OUT
"""

import os
import signal
import sys
from pathlib import Path

import torch

from probes.capture.site import Site
from probes.sae.architecture import BatchTopK, TopK, Training
from probes.sae.train import Unit, grid, train_unit

TRAINING = Training(n_tokens=20 * 32, batch_size=32, held_out_share=0.3)


def units(store: Path, out: Path) -> tuple[Unit, ...]:
    architectures = (TopK(6), BatchTopK(6))
    return grid(store, [Site(1)], architectures, [48], TRAINING, out, device=torch.device("cpu"))


def main() -> None:
    first, second = units(Path(sys.argv[1]), Path(sys.argv[2]))
    train_unit(first)
    n_learnt = 0

    def die(n: int, _: int) -> None:
        nonlocal n_learnt
        n_learnt += n
        if n_learnt > TRAINING.n_tokens / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    train_unit(second, die)


if __name__ == "__main__":
    main()
