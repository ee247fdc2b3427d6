"""Vector files: exact round trip, provenance in the header, and a clear refusal of every other file."""

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

from lab.errors import VectorError
from lab.provenance import Provenance, provenance
from probes.site import Site
from steering.export.tensors import FORMAT, HEADER, load_vector, save_vector
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {"steps": 3}, {"decisions": "0" * 16}, device="cpu", dtype="float32", seed=7)
SITES = st.builds(Site, st.integers(0, 200), st.sampled_from(["resid_pre", "resid_post"]))
ENTRIES = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROOT = Path(__file__).parents[3]

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from lab.errors import StorageError
from lab.provenance import provenance
from probes.site import Site
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
    assert again.how == vector.how
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
    with pytest.raises(VectorError, match="is not a steering vector: its format is None, want 'elicitation-lab"):
        load_vector(path)
    save_file({"blocks.0.hook_resid_post": torch.ones(3)}, path, metadata={HEADER: '{"format": "steering-vector.9"}'})
    with pytest.raises(VectorError, match=r"its format is 'steering-vector\.9'"):
        load_vector(path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("weights", {}),
        ("blocks.0.hook_resid_post", {"residual_norms": 1.0}),
        ("blocks.0.hook_resid_post", {"residual_norms": {"weights": 1.0}}),
        ("blocks.0.hook_resid_post", {"residual_norms": {"blocks.1.hook_resid_post": 1.0}}),
        ("blocks.0.hook_resid_post", {"residual_norms": None}),
        ("blocks.0.hook_resid_post", {"how": None}),
    ],
)
def test_a_file_with_a_damaged_header_is_refused(name, changes, tmp_path):
    described = {"format": FORMAT, "how": "", "residual_norms": {"blocks.0.hook_resid_post": 1.0}, "provenance": {}}
    described = {key: item for key, item in (described | changes).items() if item is not None}
    save_file({name: torch.ones(3)}, tmp_path / "vector", metadata={HEADER: json.dumps(described)})
    with pytest.raises(VectorError, match="cannot read a steering vector from"):
        load_vector(tmp_path / "vector")


def test_a_full_disk_is_a_storage_error_that_leaves_the_old_file_and_no_other(path):
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: cannot write {path}: ")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
