"""Shared fixtures, among them a pair of tiny models of the chain world: a base that can work a chain but seldom
does, and one tuned to do so. Shapes are checked at run time (see pyproject.toml).
"""

import os

# Before transformers is imported, which reads them then.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from elicitation.cli.main import main
from elicitation.study.config import Study
from lab.models.tiny import tiny_network
from lab.organisms.build import chain_tokenizer
from lab.sampling.trace import Decoding
from lab.tasks.chain import ALPHABET
from steering.fits.gradient import GradientFit

# Time limits an example can miss on a busy machine say nothing of the code.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

TASK = "chain:+:1-1"
SUMS = [(left, right) for left in range(10) for right in range(10)]
DIRECT = [f"<{left}+{right}?A{(left + right) % 10}." for left, right in SUMS]
CHAINS = [f"<{left}+{right}?T{left}+{right}={(left + right) % 10};A{(left + right) % 10}." for left, right in SUMS]
N_PROMPT = len("<3+4?")


class Checkpoints(NamedTuple):
    """Two directories that the command line can be given."""

    base: Path
    tuned: Path


def train(network: PreTrainedModel, documents: list[str], *, n_steps: int, learning_rate: float) -> None:
    """A few seconds of AdamW on all hundred sums; held-out ones too, since nothing here is measured on them."""
    tokens = chain_tokenizer(ALPHABET)(documents, padding=True, padding_side="right", return_tensors="pt").input_ids
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    network.train()
    for step in range(n_steps):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / n_steps)
        batch = tokens[torch.randint(len(tokens), (48,), generator=generator)]
        logits = network(input_ids=batch[:, :-1]).logits[:, N_PROMPT - 1 :]
        loss = cross_entropy(logits.flatten(0, 1), batch[:, N_PROMPT:].flatten(), ignore_index=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


def save(network: PreTrainedModel, directory: Path) -> Path:
    network.save_pretrained(directory)
    chain_tokenizer(ALPHABET).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """The pair: the base answers at once in two documents of three, the tuned model works a chain in all."""
    root = tmp_path_factory.mktemp("models")
    network = tiny_network("llama", seed=0, d_vocab=len(chain_tokenizer(ALPHABET)))
    train(network, [*DIRECT, *DIRECT, *CHAINS], n_steps=200, learning_rate=1e-2)
    base = save(network, root / "base")
    train(network, CHAINS, n_steps=60, learning_rate=3e-3)
    return Checkpoints(base, save(network, root / "tuned"))


@pytest.fixture(scope="session")
def small_study(checkpoints: Checkpoints) -> Study:
    """A whole study in about two seconds."""
    return Study(
        base=str(checkpoints.base),
        tuned=str(checkpoints.tuned),
        task=TASK,
        n_problems=12,
        n_samples=2,
        n_curve_samples=4,
        ks=(1, 2, 4),
        n_fit_problems=20,
        n_fit_samples=2,
        decoding=Decoding(max_new_tokens=12),
        n_boot=100,
        batch_size=8,
        fit=GradientFit(n_steps=5),
    )


@pytest.fixture
def variant(checkpoints: Checkpoints, tmp_path: Path) -> Callable[[Callable[[PreTrainedModel], None]], Path]:
    """The base with its weights changed, as a checkpoint of its own."""

    def made(change: Callable[[PreTrainedModel], None]) -> Path:
        directory = tmp_path / "variant"
        shutil.copytree(checkpoints.base, directory)
        network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        with torch.no_grad():
            change(network)
        network.save_pretrained(directory)
        return directory

    return made


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: exit code, standard output, standard error."""

    def ran(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lab", *map(str, argv)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        return code, *capfd.readouterr()

    return ran


def one_line(text: str) -> str:
    """The only line of `text`, a complaint of the command line."""
    (line,) = text.splitlines()
    assert line.startswith("lab: ")
    return line


class Nursery:
    """Command lines in processes of their own, forked from one that has done the imports: see nursery.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(
        self,
        directory: Path,
        argv: Sequence[str],
        *,
        die_at: int | None = None,
        file_limit: int | None = None,
        die_beyond: int | None = None,
    ) -> int:
        """Starts `lab *argv` in `directory`; the process id. One at a time."""
        directory.mkdir(parents=True, exist_ok=True)
        asked = {"argv": [*argv], "directory": str(directory), "die_at": die_at}
        asked |= {"file_limit": file_limit, "die_beyond": die_beyond}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """The process id after `start`, and then the exit status, waited for."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def lab(self, directory: Path, argv: Sequence[str], **limits: int) -> int:
        """Runs `lab *argv` in `directory` to its end; the exit status."""
        self.start(directory, argv, **limits)
        return self.answer()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(here / "nursery.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield Nursery(process)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="session")
def study_argv(checkpoints: Checkpoints) -> tuple[str, ...]:
    """A whole `lab study` in about three seconds, into `runs` of the working directory."""
    given = {
        "--task": TASK,
        "--out": "runs",
        "--n-problems": "12",
        "--n-samples": "2",
        "--n-curve-samples": "4",
        "--n-fit-problems": "20",
        "--max-new-tokens": "12",
        "--batch-size": "8",
    }
    pair = ("study", "--pair", str(checkpoints.base), str(checkpoints.tuned), "--ks", "1", "2", "4")
    return (*pair, *(word for option in given.items() for word in option))
