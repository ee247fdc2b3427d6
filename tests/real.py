"""Public tokenizers beside the checkout, for tests marked `real_data`."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOKENIZERS = Path(__file__).parents[2] / "shared" / "data" / "tokenizers"
LINK = 200
"""A tokenizer.json shorter than this is a link to another one, where links were copied as text."""


@cache
def tokenizer_directory(name: str) -> Path:
    """A directory as it was published, links followed; the test is skipped where there are none."""
    if not (TOKENIZERS / name).is_dir():
        pytest.skip("no public tokenizers beside the checkout")
    place = Path(mkdtemp()) / name
    place.mkdir()
    for file in (TOKENIZERS / name).iterdir():
        is_link = file.name == "tokenizer.json" and file.stat().st_size < LINK
        source = TOKENIZERS / name / file.read_text(encoding="utf-8").strip() if is_link else file
        shutil.copyfile(source, place / file.name)
    return place


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a published model; callers leave it as it is."""
    return AutoTokenizer.from_pretrained(tokenizer_directory(name))
