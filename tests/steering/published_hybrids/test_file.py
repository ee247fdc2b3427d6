"""What was fitted comes back from its files as it was, and a damaged file is an error that names it."""

from dataclasses import replace

import pytest
import torch

from lab.records.errors import StorageError, VectorError
from lab.records.provenance import provenance
from steering.published_hybrids.published_hybrids import (
    TAXONOMY,
    VECTORS,
    ConstantVectors,
    ScaledVectors,
    load_published,
    save_published,
)

MADE_BY = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)


def test_they_come_back_as_they_were_and_equal_work_gives_equal_bytes(published, tmp_path):
    for name in ("one", "two"):
        save_published(tmp_path / name, published, MADE_BY)
    back = load_published(tmp_path / "one")
    assert back.stream_norm == published.stream_norm
    for ours, theirs in (
        (back.on_all_tokens, published.on_all_tokens),
        (back.on_disagreements, published.on_disagreements),
    ):
        assert ours == theirs
        assert ours.bias.residual_norms == theirs.bias.residual_norms
        assert [vector.description for vector in ours.categories] == [
            vector.description for vector in theirs.categories
        ]
    assert back.scaled.categories == published.scaled.categories
    streams = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(back.scaled.coefficients, published.scaled.coefficients, strict=True):
        assert torch.equal(ours.of(streams), theirs.of(streams))
    for name, tensor in published.taxonomy.tensors.items():
        assert torch.equal(back.taxonomy.tensors[name], tensor)
    for file in (VECTORS, TAXONOMY):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_norm_that_is_not_known_stays_so(published, tmp_path):
    fit = published.on_all_tokens
    unknown = replace(fit.bias, residual_norms={site: float("nan") for site in fit.bias.sites})
    save_published(tmp_path, replace(published, on_all_tokens=ConstantVectors(unknown, fit.categories)), MADE_BY)
    (norm,) = load_published(tmp_path).on_all_tokens.bias.residual_norms.values()
    assert norm != norm


def test_files_that_are_missing_damaged_or_of_another_kind_are_refused(published, tmp_path):
    with pytest.raises(StorageError, match=r"cannot read a taxonomy from .*taxonomy\.safetensors"):
        load_published(tmp_path)
    save_published(tmp_path, published, MADE_BY)
    whole = (tmp_path / VECTORS).read_bytes()
    (tmp_path / VECTORS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        StorageError, match=r"cannot read published hybrids from .*hybrids\.safetensors: .*; name another directory"
    ):
        load_published(tmp_path)
    (tmp_path / VECTORS).write_bytes((tmp_path / TAXONOMY).read_bytes())
    with pytest.raises(StorageError, match=r"its format is None, want 'elicitation-lab\.published-hybrids\.1'"):
        load_published(tmp_path)
    (tmp_path / VECTORS).unlink()
    with pytest.raises(StorageError, match="cannot read published hybrids from"):
        load_published(tmp_path)


def test_parts_that_do_not_belong_together_are_refused(published):
    fit, scaled = published.on_all_tokens, published.scaled
    with pytest.raises(VectorError, match=r"vectors for \[2, 3\] categories, and a taxonomy of 3"):
        replace(published, on_all_tokens=ConstantVectors(fit.bias, fit.categories[:2]))
    with pytest.raises(VectorError, match="P1's bias and vectors lie at several sites: want one site for all"):
        ConstantVectors(fit.bias, scaled.categories)
    with pytest.raises(VectorError, match="3 vectors and 2 coefficients: want one each"):
        ScaledVectors(scaled.categories, scaled.coefficients[:2])
