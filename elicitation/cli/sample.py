"""Sample completions of a task by one model, and verify them.

Example: lab sample --model zero-rl --task chain --n-samples 8 --out runs/traces.parquet
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from elicitation.cli.main import Device, Dtype
from elicitation.cli.terminal import Terminal
from lab.records.errors import StorageError
from lab.sampling.trace import Decoding

if TYPE_CHECKING:
    from lab.models.load import Model
    from lab.tasks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """What `lab sample` is given."""

    RESUMES: ClassVar[bool] = False
    model: str
    """The name of a model (`lab models list`), a directory, a GGUF file or a hub name."""
    task: str = "chain"
    """As in `lab study`."""
    out: Path
    """Parquet file of the traces; verdicts and problems go beside it, as NAME.verdicts.parquet and
    NAME.problems.parquet."""
    n_problems: int = 100
    """Held-out problems."""
    n_samples: int = 8
    """Samples of each."""
    decoding: Annotated[Decoding, tyro.conf.arg(name="")] = field(default_factory=Decoding)
    seed: int = 0
    """Decides problems and samples."""
    batch_size: int = 256
    """Rows decoded at once."""
    prompt: str = "auto"
    """How the model is asked: auto (by its chat template where it was tuned on it), raw, template or a .jinja file."""
    device: Device = "auto"
    dtype: Dtype = "auto"

    def run(self, terminal: Terminal) -> None:
        """Samples, verifies and writes three tables."""
        from lab.records.stage import alone

        if self.out.suffix != ".parquet":
            raise StorageError(f"--out {self.out}: want the name of a .parquet file, such as runs/traces.parquet")
        with alone(self.out):
            self.sampled(terminal)

    def sampled(self, terminal: Terminal) -> None:
        """As `run`, when nobody else writes there."""
        from lab.records.provenance import provenance
        from lab.records.seeds import child_seed
        from lab.records.stage import files_together, require_free
        from lab.records.tables import write_table
        from lab.sampling.sample import sample
        from lab.sampling.trace import TRACES, VERDICTS, trace_table, verdict_table
        from lab.tasks.problem import PROBLEMS, problem_table
        from lab.tasks.source import open_task, task_source

        names = self.out.name, self.out.with_suffix(".verdicts.parquet").name, beside(self.out).name
        require_free(self.out, names)
        model = opened(self.model, self.device, self.dtype, prompt=self.prompt)
        task = open_task(task_source(self.task), n_problems=self.n_problems, seed=self.seed)
        total = len(task.problems) * self.n_samples
        with terminal.progress() as watch:
            traces = sample(
                model,
                task.problems,
                self.n_samples,
                self.decoding,
                seed=child_seed(self.seed, "tokens"),
                batch_size=self.batch_size,
                on_progress=lambda n: watch("traces", n, total),
            )
        table = trace_table(model.name, traces)
        verdicts = verdict_table(table, task.problems, task.verify)
        made_by = provenance(
            "sample",
            {
                "task": task.name,
                "prompt": model.prompter.format,
                "n_samples": self.n_samples,
                "decoding": self.decoding,
            },
            {"model": model.digest},
            device=model.device.type,
            dtype=str(model.dtype).removeprefix("torch."),
            seed=self.seed,
        )
        with files_together(self.out) as work:
            for name, rows, schema in zip(
                names, (table, verdicts, problem_table(task.problems)), (TRACES, VERDICTS, PROBLEMS), strict=True
            ):
                write_table(work / name, rows, schema, made_by)
        terminal.say(
            f"{model.name} on {total} samples of {task.name}: strict {verdicts['strict'].mean():.3f}, "
            f"answer {verdicts['answer_correct'].mean():.3f}; {self.out}"
        )


COMMAND = SampleCommand


def opened(name: str, device: str, dtype: str, *, prompt: str = "auto") -> "Model":
    """The model of that name, asked as `prompt` says, and as many threads for torch as it wants."""
    from elicitation.front.opening import load
    from lab.models.device import settle_threads

    model = load(name, prompt=prompt, device=device, dtype=dtype)  # pyright: ignore[reportArgumentType]
    settle_threads(model.n_parameters)
    return model


def beside(traces: Path) -> Path:
    """Where `lab sample` puts the problems of `traces`."""
    return traces.with_suffix(".problems.parquet")


def step_problems(path: Path | None, flag: str) -> "tuple[Problem, ...]":
    """The problems of texts that are cut into steps; StorageError where `flag` wants steps and names no table."""
    from lab.records.tables import read_table
    from lab.tasks.problem import PROBLEMS, problems_of

    if path is None:
        raise StorageError(f"{flag} needs the problems of the texts: name their table with --problems")
    return problems_of(read_table(path, PROBLEMS))
