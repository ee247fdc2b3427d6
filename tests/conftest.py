"""Shared fixtures. Shapes are checked at run time by the jaxtyping plugin (see pyproject.toml); warnings are errors."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

# Time limits an example can miss on a busy machine say nothing of the code.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")
