"""What a GGUF file says means here what it means to llama.cpp: how text is split, how rotary frequencies are scaled."""

import random

import gguf
import numpy as np
import pytest
import torch

from lab.models.gguf_weights import read_gguf, read_gguf_header
from lab.models.tiny import tiny_network
from tests.lab.models.test_gguf_weights import ROTARY, write_gguf
from tests.llama import Llama, smollm2

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
    writer, unsaid = gguf.GGUFWriter(path, "llama"), ("general.architecture", "tokenizer.ggml.pre")
    for key, field in source.fields.items():
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        elif not key.startswith("GGUF.") and key not in (*unsaid, "tokenizer.ggml.add_bos_token"):
            writer.add_key_value(key, field.contents(), field.types[0])
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
