"""Shared fixtures. Shapes are checked at run time by the jaxtyping plugin (see pyproject.toml); warnings are errors."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
