"""Export and import: exact round trips of every format that can hold a vector, and files known by their content."""

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lab.models.tiny import tiny_model
from lab.records.errors import SiteError, VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.biases import Adapter, BakedBias
from steering.export.export import export, import_vector
from steering.export.gguf import Gguf
from steering.export.tensors import LayerTable, Safetensors
from steering.export.vector_file import ModelFacts, Origin, facts_of
from steering.export.vllm_lens import VllmLens
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {"steps": 3}, {"disagreements": "0" * 16}, device="cpu", dtype="float32", seed=7)
FILES = (Safetensors(), Gguf(), VllmLens(), LayerTable())
N_LAYERS = 6
ENTRIES = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Far enough from the largest float that a dose of 2 does not overflow, and from the least that 0.5 loses no digit.
SCALABLE = st.floats(-(2.0**100), 2.0**100, width=32).map(lambda value: value if abs(value) > 2.0**-100 else 0.0)
each_file = pytest.mark.parametrize("form", FILES, ids=lambda form: type(form).__name__)


def facts(d_model, n_layers=N_LAYERS):
    return ModelFacts(
        name="org/toy", digest="0" * 16, tokenizer_digest="1" * 16, family="llama", d_model=d_model, n_layers=n_layers
    )


def origin_for(vector, measured_dose=None):
    return Origin(made_by=MADE_BY, fitted_on=facts(vector.d_model), measured_dose=measured_dose)


@st.composite
def vectors(draw, entries=ENTRIES):
    """At outputs of blocks from 1, which every format reaches."""
    width = draw(st.integers(1, 5))
    sites = st.builds(Site, st.integers(1, N_LAYERS - 1))
    rows = st.lists(entries, min_size=width, max_size=width)
    directions = draw(st.dictionaries(sites, rows, min_size=1, max_size=3))
    assume(any(any(row) for row in directions.values()))
    norms = {site: draw(st.just(math.nan) | st.floats(0, 1e6)) for site in directions}
    return SteeringVector({site: torch.tensor(row) for site, row in directions.items()}, norms, draw(st.text()))


def written(form, vector, folder, *, dose=1.0, name="vector"):
    export(vector, form, folder / name, origin_for(vector), dose=dose)
    return folder / name


def same_bits(one, other):
    return one.sites == other.sites and all(
        torch.equal(one.directions[site].view(torch.int32), other.directions[site].view(torch.int32))
        for site in one.sites
    )


@each_file
@settings(max_examples=25)
@given(vector=vectors(), measured=st.none() | st.floats(-4, 4))
def test_every_vector_comes_back_exactly_with_all_that_is_said_of_it(form, vector, measured, tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "vector"
    export(vector, form, path, origin_for(vector, measured))
    found = import_vector(path, facts(vector.d_model))
    assert same_bits(found.vector, vector)
    assert found.vector.description == vector.description
    assert found.origin == origin_for(vector, measured)
    for site, norm in vector.residual_norms.items():
        assert found.vector.residual_norms[site] == pytest.approx(norm, abs=0, rel=0, nan_ok=True)


@each_file
@settings(max_examples=15)
@given(vector=vectors(SCALABLE))
def test_a_dose_of_two_and_then_a_half_is_no_dose(form, vector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    doubled = import_vector(written(form, vector, folder, dose=2.0, name="doubled")).vector
    assert same_bits(import_vector(written(form, doubled, folder, dose=0.5)).vector, vector)


@each_file
@settings(max_examples=15)
@given(vector=vectors(SCALABLE), dose=st.floats(-8, 8).filter(lambda dose: abs(dose) > 1e-3 and dose != 1))
def test_a_vector_at_a_dose_is_the_vector_times_the_dose(form, vector, dose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    at_dose = written(form, vector, folder, dose=dose, name="at-dose")
    assert at_dose.read_bytes() == written(form, dose * vector, folder, name="times-dose").read_bytes()
    assert same_bits(import_vector(at_dose).vector, dose * vector)


def test_a_measured_dose_is_told_in_units_of_what_is_written(tmp_path):
    vector = SteeringVector({Site(1): torch.ones(3)}, {Site(1): 2.0}, "")
    export(vector, Safetensors(), tmp_path / "vector", origin_for(vector, 3.0), dose=2.0)
    assert import_vector(tmp_path / "vector").origin.measured_dose == 1.5


@pytest.mark.parametrize("form", FILES[1:], ids=lambda form: type(form).__name__)
def test_what_block_three_reads_is_what_block_two_writes(form, tmp_path):
    before = SteeringVector({Site(3, "resid_pre"): torch.arange(4.0)}, {Site(3, "resid_pre"): 2.5}, "")
    after = SteeringVector({Site(2): torch.arange(4.0)}, {Site(2): 2.5}, "")
    assert written(form, before, tmp_path, name="a").read_bytes() == written(form, after, tmp_path).read_bytes()
    both = SteeringVector({**before.directions, **after.directions}, {Site(2): math.nan, Site(3, "resid_pre"): 2.5}, "")
    merged = import_vector(written(form, both, tmp_path, name="both")).vector
    assert merged == 2.0 * after
    assert merged.residual_norms == {Site(2): 2.5}


@each_file
def test_a_format_is_known_by_its_content_and_not_by_its_name(form, tmp_path):
    vector = SteeringVector({Site(1): torch.ones(3)}, {Site(1): 2.0}, "")
    for name in ("vector.gguf", "vector.safetensors", "vector.pt", "vector"):
        assert import_vector(written(form, vector, tmp_path, name=name)).vector == vector


def test_a_header_whose_length_begins_like_a_pickle_is_still_safetensors(tmp_path):
    # A header's length is a multiple of 8, so it begins with the byte 0x80 for one in 32 texts.
    for n_letters in range(0, 257, 8):
        noted = SteeringVector({Site(1): torch.ones(3)}, {Site(1): 2.0}, "x" * n_letters)
        path = written(Safetensors(), noted, tmp_path)
        if path.read_bytes().startswith(b"\x80"):
            break
    assert path.read_bytes().startswith(b"\x80")
    assert import_vector(path).vector == noted


@each_file
@pytest.mark.parametrize("dose", [0.0, math.nan, math.inf])
def test_a_dose_that_is_no_number_or_nothing_is_refused(form, dose, tmp_path):
    vector = SteeringVector({Site(1): torch.ones(3)}, {Site(1): 2.0}, "")
    with pytest.raises(VectorError, match=r"dose \S+ writes nothing that can be used"):
        written(form, vector, tmp_path, dose=dose)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FILES[1:], ids=lambda form: type(form).__name__)
def test_a_vector_that_does_not_fit_its_model_is_not_written(form, tmp_path):
    vector = SteeringVector({Site(4): torch.ones(3)}, {Site(4): 2.0}, "")
    for told, error, reason in (
        (facts(7), VectorError, "a vector of width 3 does not fit org/toy, whose d_model is 7"),
        (facts(3, n_layers=4), SiteError, "out of range: org/toy has 4 layers, want 0 to 3"),
    ):
        with pytest.raises(error, match=reason):
            export(vector, form, tmp_path / "vector", Origin(made_by=MADE_BY, fitted_on=told))
    embedded = SteeringVector({Site(0, "resid_pre"): torch.ones(3)}, {Site(0, "resid_pre"): 2.0}, "")
    with pytest.raises(VectorError, match=r"blocks\.0\.hook_resid_pre is no block's output"):
        written(form, embedded, tmp_path)
    assert list(tmp_path.iterdir()) == []


@each_file
def test_an_imported_vector_is_checked_against_a_model(form, tmp_path):
    path = written(form, SteeringVector({Site(4): torch.ones(3)}, {Site(4): 2.0}, ""), tmp_path)
    with pytest.raises(VectorError, match="width 3 does not fit"):
        import_vector(path, facts(2))
    with pytest.raises(SiteError, match="out of range"):
        import_vector(path, facts(3, n_layers=4))


@each_file
def test_a_truncated_file_is_refused_wherever_it_ends(form, tmp_path):
    path = written(form, SteeringVector({Site(4): torch.ones(3)}, {Site(4): 2.0}, ""), tmp_path)
    whole = path.read_bytes()
    for n_bytes in (0, 1, 7, 12, 20, 60, len(whole) // 2, len(whole) - 24):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(VectorError, match=r"cannot read|holds no vector") as refused:
            import_vector(path)
        assert "\n" not in str(refused.value)


def test_files_that_hold_no_vector_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "vector.gguf"
    with pytest.raises(VectorError, match=r"cannot read .*: No such file or directory; check the path"):
        import_vector(path)
    with pytest.raises(VectorError, match="is a directory: a checkpoint or an adapter is loaded as a model"):
        import_vector(tmp_path)
    path.write_text("a text")
    with pytest.raises(VectorError, match="holds no vector: it is neither safetensors, GGUF nor JSON"):
        import_vector(path)
    path.write_text('{"vectors": []}')
    with pytest.raises(VectorError, match="no `activations` and `layer_indices`"):
        import_vector(path)
    save_file({"weight": torch.ones(2, 2)}, path)
    with pytest.raises(VectorError, match="it has no header 'steering_vector'"):
        import_vector(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_whatever_its_name(zipped, tmp_path):
    path = tmp_path / "vector.safetensors"
    torch.save(torch.ones(2, 3), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(VectorError, match=r"it is a pickle .* which can run code; where it was made, save its tensors"):
        import_vector(path)


def test_the_facts_of_a_model_are_those_of_its_parts():
    model = tiny_model("qwen3")
    told = facts_of(model)
    assert (told.name, told.digest, told.family, told.d_model, told.n_layers) == (
        model.name,
        model.digest,
        "qwen3",
        32,
        2,
    )
    assert facts_of(tiny_model("llama")).tokenizer_digest == told.tokenizer_digest
    other = tiny_model("llama")
    other.tokenizer.chat_template = "{{ messages }}"
    assert facts_of(other).tokenizer_digest != told.tokenizer_digest


def test_directories_are_exported_through_the_same_verb(tmp_path):
    model = tiny_model("llama")
    vector = SteeringVector({Site(1): torch.ones(32)}, {Site(1): 2.0}, "")
    origin = Origin(made_by=MADE_BY, fitted_on=facts_of(model))
    export(vector, BakedBias(model), tmp_path / "baked", origin, dose=3.0)
    export(vector, Adapter(model), tmp_path / "adapter", dataclasses.replace(origin, measured_dose=1.0), dose=3.0)
    assert {path.name for path in tmp_path.iterdir()} == {"baked", "adapter"}
