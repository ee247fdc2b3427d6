"""A tokenizer reads texts as its files say and as its model does, or it is refused in a sentence."""

import json
import shutil

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoTokenizer

from lab.models.checkpoint import PROBES, read_tokenizer
from lab.models.load import assemble, load
from lab.models.pair import ModelPair
from lab.models.pair_check import read_checkpoint
from lab.models.source import AdapterModel, LocalModel
from lab.models.tiny import EOS, PAD, byte_tokenizer, tiny_network
from lab.records.errors import ModelError
from tests.lab.models.test_load import CPU, logits, refusal, saved, saved_adapter
from tests.real import tokenizer_directory


def local(path):
    return load(LocalModel(path=path), device=CPU, dtype=torch.float32)


def changed(path, change, name="tokenizer.json"):
    file = path / name
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))


def added(word, token):
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return lambda state: state["added_tokens"].append({"id": token, "content": word} | special)


@pytest.mark.real_data
def test_a_tokenizer_beside_an_adapter_splits_texts_as_it_does_beside_its_model(tmp_path):
    beside = tokenizer_directory("OLMo-2-0425-1B")
    alone = shutil.copytree(beside, tmp_path / "alone")
    (alone / "config.json").unlink()
    wanted = AutoTokenizer.from_pretrained(beside)
    found = read_tokenizer(alone, AutoConfig.from_pretrained(beside))
    assert all(found(text).input_ids == wanted(text).input_ids for text in PROBES)
    assert any(AutoTokenizer.from_pretrained(alone)(text).input_ids != wanted(text).input_ids for text in PROBES)


def test_a_tokenizer_beside_an_adapter_that_reads_otherwise_than_its_base_is_refused(tmp_path):
    saved_adapter(tmp_path / "lora", saved(tmp_path / "base"), "../base")
    byte_tokenizer().save_pretrained(tmp_path / "lora")
    changed(tmp_path / "lora", lambda state: state["model"]["vocab"].update(x=121, y=120))
    assert "as that of its base does not" in refusal(AdapterModel(path=tmp_path / "lora"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["model"]["vocab"].update(a=98), "gives 'a' and 'b' one id, 98"),
        (lambda state: state["model"]["vocab"].update(a=1000), "its embedding has 258 rows, and 1 tokens of texts lie"),
        (lambda state: state["model"]["vocab"].update(a=-1), "invalid value: integer `-1`"),
        (lambda state: state["model"].update(type="no-such"), "did not match any variant"),
        (
            lambda state: state.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AA"}),
            "PanicException",
        ),
        (lambda state: state["model"].pop("vocab"), "Missing vocab"),
        (added("<x>", 97), "says '<x>' has id 97, and reads it as 258"),
        (added("<x>", 400), "says '<x>' has id 400, and reads it as 258"),
    ],
)
def test_a_tokenizer_that_cannot_be_as_it_says_is_refused(change, said, tmp_path):
    saved(tmp_path)
    changed(tmp_path, change)
    assert said in refusal(LocalModel(path=tmp_path))
    assert any(said in line for line in read_checkpoint(LocalModel(path=tmp_path)).refusals)


@pytest.mark.parametrize("text", [b"[", b"null", b"[" * 100_000, b'{"x": "\xff"}', b""])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_a_tokenizer_that_is_no_object_of_json_is_refused_by_name(text, name, tmp_path):
    saved(tmp_path)
    (tmp_path / name).write_bytes(text)
    assert name in refusal(LocalModel(path=tmp_path))


def test_a_tokenizer_whose_words_are_lost_is_refused(tmp_path):
    saved(tmp_path)
    changed(tmp_path, lambda state: state.update(tokenizer_class="Qwen2Tokenizer"), "tokenizer_config.json")
    (tmp_path / "tokenizer.json").unlink()
    assert "reads a text as no tokens" in refusal(LocalModel(path=tmp_path))


@pytest.mark.parametrize(("field", "value"), [("model_max_length", "x"), ("chat_template", 5), ("eos_token", 5)])
def test_a_setting_of_a_tokenizer_that_is_none_is_refused(field, value, tmp_path):
    saved(tmp_path)
    changed(tmp_path, lambda state: state.update({field: value}), "tokenizer_config.json")
    assert "in " + str(tmp_path) in refusal(LocalModel(path=tmp_path))


def test_a_special_token_beyond_the_embedding_is_refused_in_the_texts_that_hold_it(tmp_path):
    network = saved(tmp_path)
    changed(tmp_path, added("<x>", 258))
    model = local(tmp_path)
    assert torch.equal(logits(model.network), logits(network))
    tokens = model.prompt_ids("a<x>")
    assert tokens == [97, 258]
    with pytest.raises(ModelError, match=r"a text holds token 258 \('<x>'\), and the embedding of .* ends at 257"):
        model.network(torch.tensor([tokens]))


def test_another_token_pads_where_the_embedding_has_no_row_for_the_one_named(tmp_path):
    network = saved(tmp_path)
    changed(tmp_path, lambda state: state.update(pad_token="<new>"), "tokenizer_config.json")
    model = local(tmp_path)
    assert model.tokenizer.pad_token_id == EOS
    batch = model.tokenizer(["ab", "abcd"], padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = network(torch.tensor([[97, 98]])).logits[0, -1]
        torch.testing.assert_close(model.network(**batch).logits[0, -1], alone, atol=1e-4, rtol=1e-4)


def test_an_end_without_a_row_is_none_and_a_model_without_another_is_refused(tmp_path):
    saved(tmp_path)
    changed(tmp_path, lambda state: state.update(eos_token="<new>"), "tokenizer_config.json")
    assert local(tmp_path).ends == {EOS}
    changed(tmp_path, lambda state: state.update(eos_token_id=1000), "generation_config.json")
    assert "none of its ends, [258, 1000], has a row" in refusal(LocalModel(path=tmp_path))


def with_marks(single):
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("<|pad|>", PAD), ("<|eos|>", EOS)]
    )
    return assemble(tiny_network("llama", seed=0), tokenizer, name=single)


def test_a_prompt_opens_as_its_tokenizer_says_and_never_ends():
    plain, opened = with_marks("$A"), with_marks("<|eos|> $A")
    for single in ("<|eos|> $A <|eos|>", "<|eos|> $A <|pad|> <|eos|>"):
        model = with_marks(single)
        assert model.tokenizer("ab").input_ids[-1] == EOS
        for text in ("ab", "", "ab<|eos|>"):
            assert model.prompt_ids(text) == opened.prompt_ids(text) == [EOS, *plain.prompt_ids(text)]
        pair = ModelPair(base=plain, tuned=model)
        assert pair.tuned.prompt_ids("ab", " c") == [EOS, *pair.base.prompt_ids("ab", " c")]
    assert with_marks("$A <|pad|>").prompt_ids("ab") == plain.prompt_ids("ab")
