"""Canonical JSON tells variants apart and nothing else; provenance comes back from its text."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.provenance import PACKAGES, Provenance, canonical_json, digest, file_digest, provenance


@dataclass(frozen=True)
class Left:
    rate: float = 0.5


@dataclass(frozen=True)
class Right:
    rate: float = 0.5


@dataclass(frozen=True)
class Holder:
    side: Left | Right
    names: tuple[str, ...] = ()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def test_variants_of_a_union_with_equal_fields_have_different_digests():
    assert canonical_json(Left()) == '{"kind":"Left","rate":0.5}'
    assert digest(Left()) != digest(Right())
    assert digest(Holder(Left())) != digest(Holder(Right()))


@given(VALUES)
def test_canonical_json_is_json_and_reading_it_changes_nothing(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_the_order_of_keys_and_of_set_members_does_not_count(mapping):
    assert digest(mapping) == digest(dict(reversed(mapping.items())))
    assert digest(set(mapping)) == digest(frozenset(reversed(mapping)))


def test_a_tuple_reads_as_a_list_and_a_path_as_its_text():
    wanted = '{"kind":"Holder","names":["a","b"],"side":{"kind":"Left","rate":0.5}}'
    assert canonical_json(Holder(Left(), ("a", "b"))) == wanted
    assert canonical_json(Path("a") / "b") == '"a/b"'


def test_what_has_no_canonical_form_is_refused_by_name():
    with pytest.raises(TypeError, match="function has no canonical JSON"):
        canonical_json({"f": test_what_has_no_canonical_form_is_refused_by_name})
    with pytest.raises(TypeError, match="type has no canonical JSON"):
        canonical_json(Left)


def test_a_digest_is_sixteen_hex_digits_of_the_sha_256_of_the_text():
    # printf '{}' | sha256sum
    assert digest({}) == "44136fa355b3678a"


def made(**changes: object) -> Provenance:
    one = provenance("traces", Left(), {"model": "abc"}, device="cpu", dtype="float32", seed=3)
    return dataclasses.replace(one, **changes)


def test_provenance_comes_back_from_its_text():
    assert Provenance.from_json(made().to_json()) == made()
    assert Provenance.from_json(made().to_json()).to_json() == made().to_json()


def test_its_digest_counts_what_decides_the_content_and_not_the_machine():
    same = made(device="cuda", dtype="bfloat16", commit="0" * 40, dirty=True, packages={})
    assert same.digest == made().digest
    others = [made(stage="tables"), made(config=canonical_json(Right())), made(parents={"model": "abd"})]
    assert len({made().digest, *(other.digest for other in others)}) == 4


def test_it_names_the_packages_and_the_checkout():
    one = made()
    assert tuple(one.packages) == PACKAGES
    assert all(one.packages.values())
    assert one.commit == "unknown" or len(one.commit) == 40


def test_equal_work_gives_equal_bytes():
    assert made().to_json() == made().to_json()


def test_a_file_digest_is_the_sha_256_of_its_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
