"""A taxonomy reads every stream in the way it was fitted, is one file, and is held to its own model."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, SiteError, StorageError
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy, load_taxonomy, require_fit, save_taxonomy

from .conftest import made_by

D_MODEL = 8


def made(n: int = 3, k: int = 2, seed: int = 0, **changes) -> Taxonomy:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    fields = {
        "site": Site(1),
        "mean": draw(D_MODEL),
        "W_enc": draw(D_MODEL, n),
        "b_enc": draw(n),
        "W_dec": torch.nn.functional.normalize(draw(n, D_MODEL), dim=1),
        "b_dec": draw(D_MODEL),
        "k": k,
        "names": tuple("abcdefgh"[:n]),
        "model": "some-model",
        "model_digest": "0" * 16,
    }
    return Taxonomy(**fields | changes)


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_scores_by_hand():
    taxonomy = Taxonomy(
        site=Site(0),
        mean=torch.tensor([1.0, 2.0]),
        W_enc=torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]]),
        b_enc=torch.tensor([0.0, 0.1, 0.0]),
        W_dec=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]),
        b_dec=torch.tensor([0.0, 0.2]),
        k=2,
        names=("x", "y", "z"),
        model="hand",
        model_digest="0" * 16,
    )
    # Less the mean (3, 4), and at norm 1 (0.6, 0.8): scores 0.6, 0.9 and -0.2, of which the third is left out.
    stream = torch.tensor([4.0, 6.0])
    torch.testing.assert_close(taxonomy.scores(stream), torch.tensor([0.6, 0.9, -0.2]))
    assert taxonomy.category(stream) == 1
    torch.testing.assert_close(taxonomy.reconstruction(stream), torch.tensor([0.6, 1.1]))
    torch.testing.assert_close(taxonomy.squared_errors(stream), torch.tensor(0.09))


def test_highest_scores_are_kept_even_below_zero():
    taxonomy = made(k=1, b_enc=torch.full((3,), -50.0), b_dec=torch.zeros(D_MODEL))
    stream = drawn(5, D_MODEL)
    best = taxonomy.scores(stream).max(dim=1)
    assert (best.values < 0).all()
    wanted = best.values[:, None] * taxonomy.W_dec[best.indices]
    torch.testing.assert_close(taxonomy.reconstruction(stream), wanted)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_only_the_direction_from_the_mean_counts(seed, scale):
    taxonomy, stream = made(seed=seed % 97), drawn(4, D_MODEL, seed=seed)
    moved = taxonomy.mean + scale * (stream - taxonomy.mean)
    torch.testing.assert_close(taxonomy.scores(moved), taxonomy.scores(stream), rtol=1e-3, atol=1e-4)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), max_size=3))
def test_any_shape_of_places_is_read_place_by_place(shape):
    taxonomy, stream = made(), drawn(*shape, D_MODEL)
    found = taxonomy.category(stream)
    one_by_one = [taxonomy.category(row) for row in stream.reshape(-1, D_MODEL)]
    assert found.shape == torch.Size(shape)
    assert found.flatten().tolist() == [int(category) for category in one_by_one]


def test_a_stream_of_another_dtype_is_read_as_numbers():
    taxonomy, stream = made(), drawn(6, D_MODEL).bfloat16()
    assert torch.equal(taxonomy.category(stream), taxonomy.category(stream.float()))


def test_where_the_stream_is_the_mean_the_bias_decides():
    taxonomy = made(b_enc=torch.tensor([0.0, 2.0, 1.0]))
    assert taxonomy.category(taxonomy.mean) == 1


@pytest.mark.parametrize("changes", [{"names": ("a",)}, {"k": 0}, {"k": 4}], ids=str)
def test_names_and_k_that_do_not_fit_are_refused(changes):
    with pytest.raises(ModelError, match=r"of 3 categories came with . names and k = .: want a name for each, and k"):
        made(**changes)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ModelError, match="NaN or infinity"):
        made(b_dec=torch.full((D_MODEL,), torch.nan))


def test_a_file_gives_back_the_taxonomy_and_equal_ones_have_equal_bytes(tmp_path):
    taxonomy = made()
    save_taxonomy(tmp_path / "a.safetensors", taxonomy, made_by())
    again = load_taxonomy(tmp_path / "a.safetensors")
    save_taxonomy(tmp_path / "b.safetensors", again, made_by())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in taxonomy.tensors.items())
    kept = ("site", "k", "names", "model", "model_digest")
    assert [getattr(again, name) for name in kept] == [getattr(taxonomy, name) for name in kept]


def test_a_file_says_of_itself_what_it_is_and_whence(tmp_path):
    save_taxonomy(tmp_path / "a.safetensors", made(), made_by())
    data = (tmp_path / "a.safetensors").read_bytes()
    (n_header,) = struct.unpack("<Q", data[:8])
    described = json.loads(json.loads(data[8 : 8 + n_header])["__metadata__"]["taxonomy"])
    assert described["format"] == "elicitation-lab.taxonomy.1"
    assert described["names"] == ["a", "b", "c"]
    assert described["provenance"]["stage"] == "test"


def test_what_is_no_file_of_a_taxonomy_is_refused(tmp_path):
    absent, cut, other, short, turned = (tmp_path / name for name in ("absent", "cut", "other", "short", "turned"))
    save_taxonomy(cut, made(), made_by())
    cut.write_bytes(cut.read_bytes()[:-5])
    save_file({"x": torch.zeros(2)}, other)
    described = {"format": "elicitation-lab.taxonomy.1", "site": "blocks.0.hook_resid_post", "k": 1, "names": ["a"]}
    save_file({"mean": torch.zeros(2)}, short, metadata={"taxonomy": json.dumps(described)})
    save_file(made().tensors | {"W_enc": torch.zeros(3, D_MODEL)}, turned, metadata={"taxonomy": json.dumps(described)})
    for path in (absent, cut, short, turned):
        with pytest.raises(StorageError, match=f"cannot read a taxonomy from {path}.*; name another, or fit it again"):
            load_taxonomy(path)
    with pytest.raises(StorageError, match="is not a taxonomy: its format is None"):
        load_taxonomy(other)


def test_a_taxonomy_is_held_to_the_model_it_learned_from():
    model = tiny_model("llama", seed=0, d_model=32)
    wide = made(mean=torch.zeros(32), W_enc=torch.zeros(32, 3), W_dec=torch.zeros(3, 32), b_dec=torch.zeros(32))
    own = replace(wide, model_digest=model.digest)
    require_fit(own, model)
    with pytest.raises(ModelError, match="width 8, and tiny-llama-0 has d_model 32: want the model that it learned"):
        require_fit(made(), model)
    with pytest.raises(ModelError, match="learned from some-model with digest 0000000000000000, and tiny-llama-0 has"):
        require_fit(wide, model)
    with pytest.raises(SiteError, match="layer 7 is out of range"):
        require_fit(replace(own, site=Site(7)), model)
