"""A crosscoder is plain arithmetic, comes back from its file as it was, and is refused where the file is not whole."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lab.records.errors import StorageError
from lab.records.provenance import Provenance
from probes.crosscoder.crosscoder import SHAPES, Crosscoder, load_crosscoder, save_crosscoder

from .conftest import MADE_BY, SITE

CPU = torch.device("cpu")


def drawn(seed: int, d_model: int = 5, d_sae: int = 7) -> Crosscoder:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Crosscoder(
        site=SITE,
        base_digest="b" * 16,
        tuned_digest="t" * 16,
        scale=normal(2).abs() + 0.1,
        W_enc=normal(2, d_model, d_sae),
        b_enc=normal(d_sae),
        W_dec=normal(d_sae, 2, d_model),
        b_dec=normal(2, d_model),
        threshold=normal().abs(),
    )


def as_double(coder: Crosscoder) -> Crosscoder:
    return replace(coder, **{name: getattr(coder, name).double() for name in SHAPES})


def test_encoding_and_decoding_by_hand(by_hand):
    # Scales 1 and 0.5: base (4, 9) stays, tuned (2, 6) becomes (1, 3); latent 0 is 0.5 * 4 + 0.5 * 1, latent 1 is 3.
    streams = torch.tensor([[[4.0, 9.0], [2.0, 6.0]]])
    latents = by_hand.encode(streams)
    assert latents.tolist() == [[2.5, 3.0]]
    assert by_hand.decode_scaled(latents).tolist() == [[[2.5, 0.0], [2.5, 3.0]]]
    assert by_hand.decode(latents).tolist() == [[[2.5, 0.0], [5.0, 6.0]]]


def test_a_latent_at_or_below_the_threshold_is_zero(by_hand):
    streams = torch.tensor([[[0.0, 0.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.6]]])
    torch.testing.assert_close(by_hand.encode(streams), torch.tensor([[0.0, 0.0], [0.0, 0.3]]))


@given(st.integers(0, 2**31))
def test_latents_in_another_order_write_the_same_streams(seed):
    coder, generator = drawn(seed), torch.Generator().manual_seed(seed)
    streams = torch.randn(4, 2, 5, generator=generator)
    order = torch.randperm(7, generator=generator)
    permuted = replace(coder, W_enc=coder.W_enc[:, :, order], b_enc=coder.b_enc[order], W_dec=coder.W_dec[order])
    # In double precision, where no sum falls on the other side of the threshold by rounding.
    coder, permuted, streams = as_double(coder), as_double(permuted), streams.double()
    torch.testing.assert_close(permuted.encode(streams), coder.encode(streams)[:, order])
    torch.testing.assert_close(permuted.decode(permuted.encode(streams)), coder.decode(coder.encode(streams)))


def test_it_comes_back_from_its_file_as_it_was(tmp_path):
    coder = drawn(0)
    save_crosscoder(coder, tmp_path / "coder.safetensors", MADE_BY)
    again = load_crosscoder(tmp_path / "coder.safetensors", device=CPU)
    assert (again.site, again.base_digest, again.tuned_digest) == (SITE, "b" * 16, "t" * 16)
    assert all(torch.equal(getattr(again, name), getattr(coder, name)) for name in SHAPES)
    with safe_open(tmp_path / "coder.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["crosscoder"])
    assert Provenance(**about["provenance"]) == MADE_BY


def test_equal_crosscoders_have_equal_files(tmp_path):
    for name in ("one", "other"):
        save_crosscoder(drawn(0), tmp_path / name, MADE_BY)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.fixture
def broken(tmp_path):
    """Writes a file with some tensors or facts changed; returns its path."""
    path = tmp_path / "coder.safetensors"

    def write(tensors: dict[str, torch.Tensor | None] | None = None, **facts: str | None):
        save_crosscoder(drawn(0), path, MADE_BY)
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["crosscoder"]) | facts
        changed = load_file(path) | (tensors or {})
        save_file(
            {name: tensor for name, tensor in changed.items() if tensor is not None},
            path,
            metadata={"crosscoder": json.dumps({name: fact for name, fact in about.items() if fact is not None})},
        )
        return path

    return write


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"W_dec": None, "scale": None}, "lacks W_dec, scale"),
        ({"W_dec": torch.zeros(7, 2, 4)}, r"holds W_dec as \(7, 2, 4\), want \(7, 2, 5\) for d_sae model d_model"),
        ({"W_enc": torch.zeros(3, 5, 7)}, r"holds W_enc as \(3, 5, 7\), want \(2, 5, 7\)"),
        ({"b_enc": torch.zeros(7, 1)}, r"holds b_enc as \(7, 1\), want \(7,\)"),
        ({"threshold": torch.zeros(1)}, r"holds threshold as \(1,\), want \(\) for one number"),
        ({"b_dec": torch.full((2, 5), torch.nan)}, "holds b_dec with entries that are no finite numbers"),
        ({"b_enc": torch.zeros(7, dtype=torch.int64)}, "holds b_enc with entries that are no finite numbers"),
        ({"scale": torch.tensor([1.0, 0.0])}, "a scale that is not above 0"),
        ({"threshold": torch.tensor(-1.0)}, "or a threshold below it"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused(broken, tensors, said):
    with pytest.raises(StorageError, match=said):
        load_crosscoder(broken(tensors), device=CPU)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"format": "other"}, "is of format 'other', want"),
        ({"format": None}, "is of format None"),
        ({"site": "blocks.x"}, "does not say of which site"),
        ({"tuned_digest": None}, "does not say of which site and models"),
    ],
)
def test_a_file_that_says_the_wrong_things_is_refused(broken, facts, said):
    with pytest.raises(StorageError, match=said):
        load_crosscoder(broken(**facts), device=CPU)


@pytest.mark.parametrize("content", [None, b"", b"not tensors at all"])
def test_what_is_no_file_of_tensors_is_refused(tmp_path, content):
    path = tmp_path / "coder.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot read a crosscoder at"):
        load_crosscoder(path, device=CPU)
