"""Store what a model computes inside while it reads traces; check and mend such stores.

Example: lab capture run --model zero-rl --traces traces.parquet --sites blocks.2.hook_resid_post --out runs/acts
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from elicitation.cli.main import Device, Dtype, RayPlace
from elicitation.cli.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class CaptureRun:
    """Read traces with a model, and store its activations at some sites: safetensors in shards, and an index.

    Example: lab capture run --model zero-rl --traces traces.parquet --sites blocks.2.hook_resid_post --out runs/acts

    A capture that was stopped goes on when the same command is given again, and ends with the same bytes.
    """

    RESUMES: ClassVar[bool] = True
    model: str
    """The model that reads, not always the one that wrote, as in `lab sample`."""
    traces: Path
    """Parquet file of traces, as `lab sample` and every stage of `lab study` write them."""
    problems: Path | None = None
    """Parquet file of their problems, which hold the prompts. That of `lab sample` lies beside the traces and is found;
    a study keeps its own in its directory problems."""
    sites: tuple[str, ...]
    """Places in the model, such as blocks.2.hook_resid_post or blocks.0.hook_resid_pre; blocks count from 0."""
    positions: tuple[str, ...] = ("completion",)
    """Tokens to keep: all, completion, ends (where a sentence or a line ends; other marks may be given, as in
    `ends ";"`), or tokens with the texts of some tokens."""
    out: Path
    """Directory of the store."""
    stored_dtype: Literal["model", "float32", "bfloat16", "float16"] = "model"
    """Precision of the activations on disk; model is that of the weights."""
    shard_mib: float = 256.0
    """Size of a shard, all sites together; one is held in memory at a time."""
    batch_tokens: int = 8192
    """Tokens read at once."""
    ray: RayPlace = None
    prompt: str = "auto"
    """How the model is asked: auto (by its chat template where it was tuned on it), raw, template or a .jinja file."""
    device: Device = "auto"
    dtype: Dtype = "auto"

    def run(self, terminal: Terminal) -> None:
        """Stores the activations of a model on traces."""
        from elicitation.cli.sample import beside, opened
        from lab.records.errors import StorageError
        from lab.records.provenance import provenance
        from lab.records.scale_out import place
        from lab.records.tables import read_provenance, read_table
        from lab.sampling.trace import TRACES
        from lab.tasks.problem import PROBLEMS
        from probes.capture.site import Site, read_positions, texts
        from probes.storage.fill import fill
        from probes.storage.store import plan

        sites = tuple(Site.parse(name) for name in self.sites)
        problems = self.problems or beside(self.traces)
        if self.problems is None and self.traces.exists() and not problems.exists():
            raise StorageError(f"no problems at {problems}, which hold the prompts of {self.traces}: name --problems")
        traces, asked = read_table(self.traces, TRACES), read_table(problems, PROBLEMS)
        model = opened(self.model, self.device, self.dtype, prompt=self.prompt)
        chosen = texts(model, traces, asked)
        planned = plan(
            model,
            chosen,
            sites,
            read_positions(self.positions, model.tokenizer),
            stored=None if self.stored_dtype == "model" else self.stored_dtype,
            shard_bytes=int(self.shard_mib * 2**20),
            batch_tokens=self.batch_tokens,
        )
        parents = {"model": model.digest, "texts": planned.texts, "traces": read_provenance(self.traces).digest}
        # Nothing here is drawn at random.
        made_by = provenance("capture", planned, parents, device=model.device.type, dtype=planned.weights, seed=0)
        with terminal.progress() as watch:
            store = fill(
                model,
                chosen,
                planned,
                self.out,
                made_by,
                on=place(self.ray),
                on_progress=lambda n, total: watch("activations", n, total),
            )
        terminal.say(
            f"{model.name} on {len(chosen)} texts: {store.n_rows} activations in {planned.stored} at each of "
            f"{', '.join(map(str, sites))}; {len(store.portions)} shards in {self.out}"
        )


@dataclass(frozen=True, kw_only=True)
class CaptureVerify:
    """Check every file of a store against its checksum, and name those that are damaged.

    Example: lab capture verify runs/acts
    """

    RESUMES: ClassVar[bool] = False
    store: Annotated[Path, tyro.conf.Positional]
    """Directory of the store."""

    def run(self, terminal: Terminal) -> None:
        """Reads the whole store; StorageError naming what is damaged."""
        from probes.storage.fill import require_whole
        from probes.storage.store import open_store

        store = open_store(self.store)
        require_whole(store)
        terminal.say(f"{self.store}: {len(store.files)} files are as they were written")


@dataclass(frozen=True, kw_only=True)
class CaptureRepair:
    """Capture the damaged shards of a store again, and leave the others alone.

    Example: lab capture repair runs/acts
    """

    RESUMES: ClassVar[bool] = True
    store: Annotated[Path, tyro.conf.Positional]
    """Directory of the store; its manifest says which model is needed."""

    def run(self, terminal: Terminal) -> None:
        """Captures damaged shards again; the model is loaded only if there are any."""
        from elicitation.cli.sample import opened
        from probes.storage.fill import repair, verify
        from probes.storage.store import open_store

        store = open_store(self.store)
        damaged = verify(store)
        if damaged:
            model = opened(store.plan.model, store.plan.device, store.plan.weights)
            with terminal.progress() as watch:
                repair(store, damaged, model, on_progress=lambda n, total: watch("shards", n, total))
        mended = ", ".join(f"{name} was {fault}" for name, fault in damaged) or "nothing was damaged"
        terminal.say(f"{self.store}: {mended}")


COMMAND = {"run": CaptureRun, "verify": CaptureVerify, "repair": CaptureRepair}
