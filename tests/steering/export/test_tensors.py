"""Vector files: exact round trip, provenance in the header, and a clear refusal of every other file."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from lab.records.errors import SiteError, VectorError
from lab.records.provenance import Provenance, provenance
from probes.capture.site import Site
from steering.export.export import import_vector
from steering.export.tensors import load_vector, read_vector, save_vector
from steering.export.vector_file import FORMAT, HEADER, ModelFacts
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {"steps": 3}, {"disagreements": "0" * 16}, device="cpu", dtype="float32", seed=7)
SITES = st.builds(Site, st.integers(0, 200), st.sampled_from(["resid_pre", "resid_post"]))
ENTRIES = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROOT = Path(__file__).parents[3]
FACTS = ModelFacts(name="toy", digest="0" * 16, tokenizer_digest="1" * 16, family="llama", d_model=8, n_layers=4)

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from lab.records.errors import StorageError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.export.tensors import save_vector
from steering.vector import SteeringVector

made_by = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=0)
vector = SteeringVector({Site(0): torch.ones(10_000)}, {Site(0): 1.0}, "big")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    save_vector(Path(sys.argv[1]), vector, made_by)
except StorageError as error:
    print("refused:", error)
"""


@st.composite
def vectors(draw):
    width = draw(st.integers(1, 6))
    directions = draw(st.dictionaries(SITES, st.lists(ENTRIES, min_size=width, max_size=width), min_size=1, max_size=4))
    norms = {site: draw(st.just(math.nan) | st.floats(0, 1e6)) for site in directions}
    return SteeringVector({site: torch.tensor(row) for site, row in directions.items()}, norms, draw(st.text()))


@pytest.fixture
def path(tmp_path):
    """A vector file."""
    vector = SteeringVector({Site(2): torch.arange(8.0)}, {Site(2): 3.5}, "by hand")
    save_vector(tmp_path / "vector.safetensors", vector, MADE_BY)
    return tmp_path / "vector.safetensors"


@settings(deadline=None, max_examples=40)
@given(vector=vectors())
def test_every_vector_comes_back_exactly(vector, tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "vector.safetensors"
    save_vector(path, vector, MADE_BY)
    again = load_vector(path)
    assert again == vector
    assert again.description == vector.description
    assert again.sites == vector.sites
    for site in vector.sites:
        # Bit for bit, so that -0.0 stays what it was.
        assert torch.equal(again.directions[site].view(torch.int32), vector.directions[site].view(torch.int32))
        assert again.residual_norms[site] == pytest.approx(vector.residual_norms[site], abs=0, rel=0, nan_ok=True)


def test_one_tensor_at_two_sites_and_a_slice_of_a_larger_one_come_back(tmp_path):
    table = torch.arange(12.0).view(3, 4)
    directions = {Site(0): table[1], Site(1): table[1], Site(2): table[2]}
    shared = SteeringVector(directions, dict.fromkeys(directions, 1.0), "")
    save_vector(tmp_path / "vector", shared, MADE_BY)
    assert load_vector(tmp_path / "vector") == shared
    column = SteeringVector({Site(0): table[:, 1]}, {Site(0): 1.0}, "")
    save_vector(tmp_path / "column", column, MADE_BY)
    assert load_vector(tmp_path / "column") == column


def test_the_header_holds_the_provenance_and_one_fp32_tensor_a_site(path):
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[HEADER])
        assert list(file.keys()) == ["blocks.2.hook_resid_post"]
        assert file.get_tensor("blocks.2.hook_resid_post").dtype == torch.float32
    assert described["format"] == FORMAT
    assert described["how"] == "by hand"
    assert Provenance.from_json(json.dumps(described["provenance"])) == MADE_BY
    assert described["residual_norms"] == {"blocks.2.hook_resid_post": 3.5}
    assert described["d_model"] == 8
    assert described["norms"]["blocks.2.hook_resid_post"] == pytest.approx(140**0.5)
    assert "relative dose" in described["scale"]
    assert described["model"] is described["measured_dose"] is None


def test_the_model_and_the_measured_dose_come_back(path):
    save_vector(path, load_vector(path), MADE_BY, fitted_on=FACTS, measured_dose=-0.5)
    origin = read_vector(path).origin
    assert (origin.made_by, origin.fitted_on, origin.measured_dose) == (MADE_BY, FACTS, -0.5)


def test_an_unknown_norm_is_null_so_that_the_header_is_json_for_everyone(path):
    save_vector(path, SteeringVector({Site(1): torch.ones(2)}, {Site(1): math.nan}, ""), MADE_BY)
    with safe_open(path, framework="pt") as file:
        text = file.metadata()[HEADER]
    assert json.loads(text, parse_constant=pytest.fail)["residual_norms"] == {"blocks.1.hook_resid_post": None}


def test_a_vector_of_another_width_or_beyond_the_layers_is_refused_for_a_model(path):
    assert import_vector(path, FACTS).vector == load_vector(path)
    with pytest.raises(VectorError, match="a vector of width 8 does not fit toy, whose d_model is 9"):
        import_vector(path, dataclasses.replace(FACTS, d_model=9))
    with pytest.raises(SiteError, match=r"blocks\.2\.hook_resid_post is out of range: toy has 2 layers, want 0 to 1"):
        import_vector(path, dataclasses.replace(FACTS, n_layers=2))


def test_equal_vectors_are_equal_bytes(path, tmp_path):
    save_vector(tmp_path / "again", load_vector(path), MADE_BY)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("n_bytes", [0, 7, 40, -4])
def test_a_truncated_file_is_refused(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(VectorError, match=r"cannot read a steering vector from .*vector\.safetensors"):
        load_vector(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(VectorError, match="cannot read a steering vector from"):
            load_vector(path)


def test_a_header_that_is_no_json_is_refused(tmp_path):
    save_file({"blocks.0.hook_resid_post": torch.ones(3)}, tmp_path / "vector", metadata={HEADER: "{"})
    with pytest.raises(VectorError, match="cannot read a steering vector from"):
        load_vector(tmp_path / "vector")


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "other"
    path.write_text("no tensors, but a text that is long enough to hold a header")
    with pytest.raises(VectorError, match="cannot read"):
        load_vector(path)
    save_file({"blocks.0.hook_resid_post": torch.ones(3)}, path)
    with pytest.raises(VectorError, match="it has no header 'steering_vector', want one of format 'elicitation-lab"):
        load_vector(path)
    save_file({"blocks.0.hook_resid_post": torch.ones(3)}, path, metadata={HEADER: '{"format": "steering-vector.9"}'})
    with pytest.raises(
        VectorError, match=r"its format is 'steering-vector\.9', want 'elicitation-lab\.steering-vector"
    ):
        load_vector(path)


def test_a_pickle_is_refused_before_anything_reads_it(tmp_path):
    torch.save({"direction": torch.ones(3)}, tmp_path / "vector.safetensors")
    with pytest.raises(VectorError, match=r"vector\.safetensors: it is a pickle .* which can run code"):
        load_vector(tmp_path / "vector.safetensors")


SITE = "blocks.0.hook_resid_post"


ON = dataclasses.replace(FACTS, d_model=3)


def damaged(path, tensor=None, name=SITE, **changes):
    """Writes a file at `path` with these fields of its header, and fields that are `...` left out."""
    save_vector(path, SteeringVector({Site(0): torch.ones(3)}, {Site(0): 1.0}, ""), MADE_BY, fitted_on=ON)
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()[HEADER])
    told = {key: item for key, item in (told | changes).items() if item is not ...}
    save_file({name: torch.ones(3) if tensor is None else tensor}, path, metadata={HEADER: json.dumps(told)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "weights"}, "no site is called 'weights'"),
        ({"tensor": torch.tensor([1.0, math.nan, 0.0])}, "NaN or infinity"),
        ({"tensor": torch.ones(3, dtype=torch.float64)}, "is torch.float64, want float32"),
        ({"tensor": torch.ones(1, 3)}, "has 2 axes, want 1"),
        ({"residual_norms": 1.0}, "its header is damaged"),
        ({"residual_norms": {"weights": 1.0}}, "no site is called 'weights'"),
        ({"residual_norms": {SITE: "wide"}}, "residual norm at .* wide, want a finite number"),
        (
            {"residual_norms": {"blocks.1.hook_resid_post": 1.0}},
            r"tells of blocks\.1\.\S*, its tensors are at blocks\.0",
        ),
        ({"residual_norms": ...}, "its header lacks 'residual_norms'"),
        ({"how": ...}, "its header lacks 'how'"),
        ({"how": 3}, "`how` is 3, want a text"),
        ({"provenance": ...}, "its header lacks 'provenance'"),
        ({"provenance": {}}, "its header lacks 'stage'"),
        ({"provenance": json.loads(MADE_BY.to_json()) | {"seed": "<b>"}}, "seed is '<b>'"),
        ({"provenance": json.loads(MADE_BY.to_json()) | {"packages": {"torch": 2}}}, "packages is"),
        ({"model": {"name": "toy"}}, "its header lacks 'digest'"),
        ({"measured_dose": ...}, "its header lacks 'measured_dose'"),
        ({"measured_dose": math.inf}, "measured dose inf, want a finite number"),
        ({"residual_norms": {SITE: -1.0}}, "want a finite number from 0"),
        ({"d_model": 7}, "says d_model 7, its tensors have 3"),
        ({"norms": {SITE: 9.0}}, "says norm 9.0 at .*, its tensor there has"),
        ({"how": "by another"}, "not as they were written"),
        ({"tensor": torch.ones(4)}, "says d_model 3, its tensors have 4"),
        ({"sha256": ...}, "its header lacks 'sha256'"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(changes, reason, tmp_path):
    damaged(tmp_path / "vector", **changes)
    with pytest.raises(VectorError, match=f"cannot read a steering vector from .*{reason}") as refused:
        load_vector(tmp_path / "vector")
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_a_storage_error_that_leaves_the_old_file_and_no_other(path):
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: cannot write {path}: ")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
