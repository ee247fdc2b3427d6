"""build: an adapted model's definition -> its adapter, with a card."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lab.models.load import assemble, load
from lab.models.source import model_source
from lab.organisms.adapter_card import examine, write_card
from lab.organisms.adapters import ADAPTED, AdaptedModel, Distilled, Rewarded
from lab.organisms.recipe import documents
from lab.post_training.reinforce import reinforce
from lab.post_training.supervised import Document, OnProgress, save_low_rank, train_on_documents, with_low_rank
from lab.records.errors import ModelError, StorageError
from lab.records.provenance import digest
from lab.records.seeds import child_seed, numpy_generator
from lab.sampling.decode import first_stop
from lab.tasks.source import open_task, task_source


def adapted_named(name: str) -> AdaptedModel:
    """The definition of an adapted model; ModelError listing the names there are."""
    if name not in ADAPTED:
        raise ModelError(f"no adapted model is called {name!r}: want one of {', '.join(ADAPTED)}")
    return ADAPTED[name]


def build(
    adapted: AdaptedModel,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Trains the adapter of `adapted` and writes its directory below `out`: bf16 safetensors, configuration, card.

    The parent, from `out` or from this installation, is frozen in `dtype`; the adapter is trained in float32. Work in
    progress lies in `out/.work/`, under the digest of the definition, the seed and the parent; a run that was cut off
    goes on from its last checkpoint. `watch` is told (stage, steps just done, steps in all). Raises StorageError where
    the directory exists, and ModelError where the parent is not there.
    """
    final = out / adapted.name
    if final.exists():
        raise StorageError(f"{final} exists: delete it to build {adapted.name} again, or choose another --out")
    home = out / adapted.parent
    source = model_source(str(home) if home.is_dir() else adapted.parent)
    parent = load(source, device=device, dtype=dtype)
    work = out / ".work" / f"{adapted.name}-{digest([adapted, seed, parent.digest, str(dtype)])}"
    work.mkdir(parents=True, exist_ok=True)
    network = with_low_rank(parent.network, adapted.rank, seed=child_seed(seed, adapted.name, "weights"))
    told = partial(watch, f"steps: {adapted.name}")
    train(adapted, network, parent.tokenizer, work / "trainer", seed=seed, device=device, on_progress=told)
    adapter = work / "adapter"
    save_low_rank(network, adapter, parent=adapted.parent)
    tuned = assemble(network.merge_and_unload(), parent.tokenizer, name=adapted.name)
    # Its own network was changed in place; on the card it has its own name, wherever it lies.
    parent = replace(load(source, device=device, dtype=dtype), name=adapted.parent)
    rows = [row for eval_spec in adapted.eval_specs for model in (parent, tuned) for row in examine(model, eval_spec)]
    write_card(adapter, adapted, rows, seed=seed, dtype=str(dtype).removeprefix("torch."), device=device.type)
    adapter.rename(final)
    shutil.rmtree(work)
    return final


def train(
    adapted: AdaptedModel,
    network: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    work: Path,
    *,
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
) -> None:
    """Follows the recipe, changing the adapter of `network` in place; what it was frozen with stays as it was."""
    generator = numpy_generator(seed, adapted.name, "data")
    match adapted.recipe:
        case Distilled(writing=writing, run=run):
            stream = documents(writing, generator)
            texts = [ended(next(stream), tokenizer) for _ in range(run.n_steps * run.batch_size)]
            train_on_documents(
                network,
                tokenizer,
                texts,
                run,
                seed=child_seed(seed, adapted.name),
                device=device,
                work=work,
                on_progress=on_progress,
            )
        case Rewarded(task=task, run=run, stop=stop):
            n_wanted = run.n_steps * run.n_prompts
            opened = open_task(task_source(task), n_problems=n_wanted, seed=seed, held_out=False)
            reinforce(
                network,
                tokenizer,
                opened.problems,
                lambda problem, text: float(opened.verify(problem, text[: first_stop(text, stop)]).answer_correct),
                run,
                seed=child_seed(seed, adapted.name),
                device=device,
                work=work,
                on_progress=on_progress,
            )


def ended(document: Document, tokenizer: PreTrainedTokenizerBase) -> Document:
    """The document with the tokenizer's end of a sequence behind it."""
    return replace(document, completion=f"{document.completion}{tokenizer.eos_token}")
