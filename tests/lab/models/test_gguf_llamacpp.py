"""What a GGUF file says means here what it means to llama.cpp: how text is split, how rotary frequencies are scaled."""

import copy
import random

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import Digits, Sequence

from lab.models.gguf_weights import read_gguf, read_gguf_header
from lab.models.load import load
from lab.models.source import LocalModel
from lab.models.tiny import tiny_network
from lab.organisms.catalogue import pretrained_named
from lab.organisms.fetch import fetch
from tests.lab.models.test_gguf_weights import ROTARY, write_gguf
from tests.llama import Llama, smollm2
from tests.real import real_tokenizer

# One of each: all others were compared by hand (LOG.md), and reading a vocabulary takes seconds.
RULES = ("", "gpt-2", "smollm", "stablelm2", "glm4", "llama-bpe", "tekken", "gpt-4o", "qwen35")
PIECES = (
    *"0123789x=+.$_",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "the",
    "The",
    "'s",
    "'LL",
    "HeLLo",
    "!?",
    "é",
    "日本",
    "٣",
    "½",
)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llamacpp)")


def texts(n: int, pieces) -> list[str]:
    draw = random.Random(20261129)
    return ["".join(draw.choices(pieces, k=draw.randint(1, 40))) for _ in range(n)]


def with_rule(source, path, rule):
    """A file with the vocabulary of `source`, one tensor and another rule for splitting text; none if it is empty."""
    writer, unsaid = gguf.GGUFWriter(path, "llama"), ("general.architecture", "llama.block_count", "tokenizer.ggml.pre")
    for key, field in source.fields.items():
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        elif not key.startswith("GGUF.") and key not in (*unsaid, "tokenizer.ggml.add_bos_token"):
            writer.add_key_value(key, field.contents(), field.types[0])
    writer.add_block_count(1)
    if rule:
        writer.add_tokenizer_pre(rule)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_smollm2_splits_2000_texts_of_digits_spaces_and_newlines_as_llama_cpp_does(library):
    path = smollm2()
    _, tokenizer = read_gguf_header(path)
    llama = Llama(library, path, vocab_only=True)
    try:
        for text in texts(2000, "0123456789 \n"):
            assert tokenizer(text).input_ids == llama.encode(text, opened=True), text
    finally:
        llama.close()


@pytest.mark.slow
@pytest.mark.real_data
def test_smollm2_reads_2000_texts_as_its_published_vocabulary_does_with_every_digit_set_apart():
    _, tokenizer = read_gguf_header(smollm2())
    # The copy beside the checkout came out of such a file by transformers, and so splits as GPT-2 does.
    published = copy.deepcopy(real_tokenizer("SmolLM2-135M").backend_tokenizer)
    published.pre_tokenizer = Sequence([Digits(individual_digits=True), published.pre_tokenizer])
    for text in texts(2000, "0123456789 \n"):
        assert tokenizer(text).input_ids == published.encode(text).ids, text


@pytest.mark.slow
def test_a_rule_of_each_kind_splits_and_opens_text_as_llama_cpp_does(library, tmp_path):
    source = gguf.GGUFReader(smollm2())
    path = tmp_path / "vocabulary.gguf"
    mixed = texts(150, PIECES)
    seen = set()
    for rule in RULES:
        with_rule(source, path, rule)
        _, tokenizer = read_gguf_header(path)
        llama = Llama(library, path, vocab_only=True)
        try:
            ids = [llama.encode(text, opened=True) for text in mixed]
        finally:
            llama.close()
        for text, wanted in zip(mixed, ids, strict=True):
            assert tokenizer(text).input_ids == wanted, (rule, text)
        seen.add(str(ids))
    assert len(seen) > 4, "these texts tell the rules apart"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROTARY)
def test_scaled_rotary_frequencies_give_the_logits_of_llama_cpp(kind, library, tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, tiny_network("llama", seed=11), said=ROTARY[kind][1])
    ids = [7 * place % 256 for place in range(200)]
    with torch.no_grad():
        here = read_gguf(path, dtype=torch.float32).network(torch.tensor([ids])).logits[0, -1].double().numpy()
    # It wants a merge, whatever it gives; transformers wants one that gives a token.
    write_gguf(path, tiny_network("llama", seed=11), said=ROTARY[kind][1], merges=["Ġ Ġ"])
    llama = Llama(library, path)
    try:
        np.testing.assert_allclose(llama.logits(ids), here, atol=2e-2, rtol=2e-2)
    finally:
        llama.close()


@pytest.mark.slow
def test_smollm2_fetched_as_safetensors_has_the_logits_and_the_tokens_of_its_gguf_file(tmp_path, monkeypatch):
    path = smollm2()
    monkeypatch.setenv("ELICITATION_LAB_CACHE", str(tmp_path))
    fetched = load(LocalModel(path=fetch(pretrained_named("smollm2"))), device=torch.device("cpu"), dtype=torch.float32)
    network, tokenizer = read_gguf(path, dtype=torch.float32)
    for text in ("Q: 12  +\n\n30 =", *texts(20, PIECES)):
        ids = tokenizer(text).input_ids
        assert fetched.tokenizer(text).input_ids == ids
        with torch.no_grad():
            assert torch.equal(fetched.network(torch.tensor([ids])).logits, network(torch.tensor([ids])).logits)
