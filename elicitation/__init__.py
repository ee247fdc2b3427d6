"""How much of a gain was already inside the base model? `import elicitation as el` has what a notebook reaches for.

Strings are taken where a person types them: `el.load("zero-base")`, `el.task("chain", n=20)`, prompts, and sites such
as `"blocks.2.hook_resid_post"`. Results are polars tables. What is not here stands on the floors below: `lab` (models,
tasks, sampling), `probes` (reads activations), `steering` (changes them) and the rest of `elicitation`.

A name is brought when it is first used, so that the import is quick and needs no torch. Which there are, and where each
is from, stands in `__init__.pyi`, which editors read too.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path


@cache
def _told() -> dict[str, tuple[str, str]]:
    """Name -> the module that it is from, and what it is called there."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (line for line in stub.body if isinstance(line, ast.ImportFrom))
    return {str(name.asname): (str(line.module), name.name) for line in imports for name in line.names}


def __getattr__(name: str) -> object:
    if name not in _told():
        from lab.records.errors import meant

        raise AttributeError(f"elicitation has no {name!r}{meant(name, _told())}: dir(elicitation) lists what it has")
    module, there = _told()[name]
    found = vars(import_module(module))
    # A kind of value, such as `gates`, is the module in which every value of it stands.
    return found[there] if there in found else import_module(f"{module}.{there}")


def __dir__() -> list[str]:
    return sorted(_told())
