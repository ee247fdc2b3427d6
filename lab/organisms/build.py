"""build: an organism's definition -> a transformers checkpoint or an adapter, with its card."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, assert_never, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lab.models.device import settled_threads
from lab.models.load import Model, assemble, load
from lab.models.source import PRETRAINED, BuiltInModel, LocalModel, ModelSource, model_source, shipped_names
from lab.organisms.card import EVALUATION_SEED, examine, truth, write_card
from lab.organisms.catalogue import organism_named
from lab.organisms.recipe import FromScratch, LowRank, Organism, Parent, Reinforced, Supervised, Tuned, documents, home
from lab.post_training.trainers import Document, reinforce, save_low_rank, train_on_documents, with_low_rank
from lab.records.errors import StorageError
from lab.records.provenance import digest
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import alone, seal
from lab.sampling.sample import before_stop
from lab.tasks.source import open_task, task_source

CPU = torch.device("cpu")

Watch: TypeAlias = Callable[[str, int, int], None]
"""Told (stage, steps just done, steps in all)."""


def build(
    organism: Organism,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    watch: Watch = lambda *_: None,
) -> Path:
    """Trains `organism` and writes its directory below `out`: bf16 safetensors, configuration, tokenizer, card.

    Its parent comes from `out` or from this installation, or is built first. What learns is in float32; the parent of
    an adapter is frozen in `dtype`. Work in progress lies in `out/.work/`, under the digest of the definition, the seed
    and the parent; a run that was cut off goes on from its last checkpoint. `watch` is told of the parent too where it
    is built. Raises StorageError where the directory exists, and ModelError where a pretrained parent is not there.
    """
    final = out / home(organism.name, seed)
    if final.exists():
        raise StorageError(f"{final} exists: delete it to build {final.name} again, or choose another --out")
    source = None if organism.parent is None else parent_source(organism.parent, out, seed, device, watch)
    job = Job(organism=organism, source=source, seed=seed, device=device, dtype=dtype, watch=watch)
    below = job.parent(device)
    work = out / ".work" / f"{final.name}-{digest([organism, seed, below and below.digest, str(dtype)])}"
    with alone(final), settled_threads(below.n_parameters if below else 0):
        work.mkdir(parents=True, exist_ok=True)
        match organism.recipe:
            case FromScratch() | Tuned() as recipe:
                made = checkpoint(job, recipe, below, work)
            case LowRank() as recipe:
                assert below is not None, "an adapter has a parent"
                made = adapter(job, recipe, below, work)
            case never:
                assert_never(never)
        seal(made)
        made.rename(final)
        shutil.rmtree(work)
    return final


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One build."""

    organism: Organism
    source: ModelSource | None
    """Of its parent."""
    seed: int
    device: torch.device
    dtype: torch.dtype
    """Of the frozen parent of an adapter."""
    watch: Watch

    @property
    def name(self) -> str:
        """Of the directory that is built."""
        return home(self.organism.name, self.seed)

    def parent(self, device: torch.device) -> Model | None:
        """The parent as it is in the files; wherever they lie, it has its own name on a card."""
        if self.source is None or self.organism.parent is None:
            return None
        dtype = self.dtype if isinstance(self.organism.recipe, LowRank) else torch.float32
        return replace(load(self.source, device=device, dtype=dtype), name=self.organism.parent.home(self.seed))


def parent_source(
    parent: Parent, out: Path, seed: int, device: torch.device, watch: Watch = lambda *_: None
) -> ModelSource:
    """The parent in `out` if it was built there, else the one in this installation, else in `out` once it is built."""
    name = parent.home(seed)
    if (out / name).exists():
        return model_source(str(out / name))
    if name in (*PRETRAINED, *shipped_names()):
        return BuiltInModel(name=name)
    own_seed = seed if parent.seed is None else parent.seed
    return model_source(str(build(organism_named(parent.name), out, seed=own_seed, device=device, watch=watch)))


def checkpoint(job: Job, recipe: FromScratch | Tuned, parent: Model | None, work: Path) -> Path:
    """Trains all weights, and leaves them in bf16, measured on the CPU in fp32."""
    tokenizer = chain_tokenizer(recipe.alphabet)
    network = starting_network(recipe, parent, tokenizer, seed=child_seed(job.seed, job.organism.name, "weights"))
    # transformers' own `to` hides its signature; it moves in place all the same.
    nn.Module.to(network, job.device)
    train(job, network, tokenizer, work / "trainer")
    made = work / "checkpoint"
    network.cpu().bfloat16().save_pretrained(made)
    tokenizer.save_pretrained(made)
    shipped = load(LocalModel(path=made), device=CPU, dtype=torch.float32)
    describe(job, made, replace(shipped, name=job.name), job.parent(CPU) if job.organism.cases else None)
    return made


def adapter(job: Job, recipe: LowRank, parent: Model, work: Path) -> Path:
    """Trains an adapter of `parent`, whose network changes in place, and measures both models as they were trained."""
    seed = child_seed(job.seed, job.organism.name, "weights")
    network = with_low_rank(parent.network, recipe.rank, seed=seed)
    train(job, network, parent.tokenizer, work / "trainer")
    made = work / "adapter"
    save_low_rank(network, made, parent=parent.name)
    tuned = assemble(network.merge_and_unload(), parent.tokenizer, name=job.name).raw()
    describe(job, made, tuned, job.parent(job.device))
    return made


def describe(job: Job, made: Path, tuned: Model, parent: Model | None) -> None:
    """Measures the models and writes the card into `made`, with the true share of every case.

    The card of an adapter has figures of its parent too, which may have no card of its own.
    """
    organism, mine = job.organism, examine(tuned, job.organism)
    theirs = None if parent is None else examine(parent, organism)
    write_card(
        made,
        organism,
        (*(theirs.rows if theirs and isinstance(organism.recipe, LowRank) else ()), *mine.rows),
        [truth(case, theirs.rates, mine.rates, seed=EVALUATION_SEED) for case in organism.cases] if theirs else (),
        seed=job.seed,
        device=job.device.type,
        dtype=str(tuned.dtype).removeprefix("torch."),
    )


def train(job: Job, network: nn.Module, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
    """Gives `network` the lesson of its recipe, changing it in place."""
    organism, seed = job.organism, child_seed(job.seed, job.organism.name)
    generator = numpy_generator(job.seed, organism.name, "data")

    def told(n_done: int, n_total: int) -> None:
        job.watch(f"steps: {job.name}", n_done, n_total)

    match organism.recipe.lesson:
        case Supervised(writing=writing, run=run):
            stream = documents(writing, generator)
            texts = [ended(next(stream), tokenizer) for _ in range(run.n_steps * run.batch_size)]
            train_on_documents(
                network, tokenizer, texts, run, seed=seed, device=job.device, work=work, on_progress=told
            )
        case Reinforced(task=task, run=run, stop=stop):
            source, n_problems = task_source(task), run.n_steps * run.n_prompts
            opened = open_task(source, n_problems=n_problems, seed=job.seed, held_out=False)
            is_adapter = isinstance(organism.recipe, LowRank)
            problems = opened.problems if is_adapter else source.problems(n_problems, generator, held_out=False)
            reinforce(
                network,
                tokenizer,
                problems,
                lambda problem, text: float(opened.verify(problem, before_stop(text, stop)).answer_correct),
                run,
                seed=seed,
                device=job.device,
                work=work,
                on_progress=told,
            )
        case never:
            assert_never(never)


def ended(document: Document, tokenizer: PreTrainedTokenizerBase) -> Document:
    """The document with the tokenizer's end of a sequence behind it, where it has none yet."""
    end = str(tokenizer.eos_token)
    return document if document.completion.endswith(end) else replace(document, completion=document.completion + end)


def starting_network(
    recipe: FromScratch | Tuned, parent: Model | None, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel:
    """The weights that training starts from, in fp32: the parent's, changed in place, or random ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match recipe:
            case FromScratch(architecture=shape):
                config = LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=shape.d_model,
                    intermediate_size=shape.d_mlp,
                    num_hidden_layers=shape.n_layers,
                    num_attention_heads=shape.n_heads,
                    num_key_value_heads=shape.n_heads,
                    max_position_embeddings=tokenizer.model_max_length,
                    tie_word_embeddings=True,
                    pad_token_id=cast(int, tokenizer.pad_token_id),
                    bos_token_id=None,
                    eos_token_id=cast(int, tokenizer.eos_token_id),
                )
                return LlamaForCausalLM(config)
            case Tuned():
                assert parent is not None, "what is tuned has a parent"
                # New characters stand behind the parent's, and start as random rows.
                parent.network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
                return parent.network.requires_grad_(True).train()
            case never:
                assert_never(never)


def chain_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a character of `alphabet`, which has `.`, after `[PAD]` = 0 and `[UNK]` = 1; `.` ends a sequence.

    No token is added on encoding: a prompt carries its own `<`.
    """
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token=".",
        padding_side="left",
        model_max_length=160,
        clean_up_tokenization_spaces=False,
    )
