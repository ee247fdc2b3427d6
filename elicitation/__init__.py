"""How much of a gain was already inside the base model? `import elicitation as el` has what a notebook reaches for.

Strings are taken where a person types them: `el.load("zero-base")`, `el.task("chain", n=20)`, prompts, and sites such
as `"blocks.2.hook_resid_post"`. Results are polars tables. What is not here stands on the floors below: `lab` (models,
tasks, sampling), `probes` (reads activations), `steering` (changes them) and the rest of `elicitation`.

A name is brought when it is first used, so that the import is quick and needs no torch. The block is for editors.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elicitation.calibration.record import shipped_leaks, shipped_records
    from elicitation.calibration.run import calibrate
    from elicitation.front.answers import (
        accuracy,
        cover,
        elicited_share,
        estimate,
        evidence,
        generate,
        judge,
        next_token,
        pass_at_k,
        report,
        sample,
        score,
    )
    from elicitation.front.features import (
        attribute,
        capture,
        label_features,
        label_tokens,
        load_sae,
        matched_features,
        store,
        token_strip,
        top_features,
        train_sae,
    )
    from elicitation.front.opening import load, models, pair, quiet, task
    from elicitation.front.vectors import (
        disagreements,
        dose_slider,
        dose_sweep,
        export,
        finetune,
        fit_vector,
        ladder,
        load_vector,
        mean_difference,
        random_like,
        reinforce,
        route_strip,
        steer,
    )
    from elicitation.pages.study.figures import ladder_figure
    from elicitation.study.config import Study
    from elicitation.study.run import run
    from elicitation.widgets.chart import chart
    from lab.sampling.trace import Decoding
    from probes.capture.site import Site
    from steering import gate as gates
    from steering.edit import Ablate, Add, ClampFeature, apply
    from steering.hybrid import interventions, routers
    from steering.hybrid.hybrid import Hybrid
    from steering.vector import SteeringVector

ROOMS = {
    "elicitation.front.opening": "load pair models task quiet",
    "elicitation.front.answers": "sample generate judge accuracy pass_at_k cover elicited_share next_token score "
    "evidence estimate report",
    "elicitation.front.features": "capture store train_sae load_sae label_tokens label_features attribute "
    "top_features matched_features token_strip",
    "elicitation.front.vectors": "disagreements fit_vector mean_difference random_like steer ladder route_strip "
    "dose_sweep dose_slider export load_vector reinforce finetune",
    "elicitation.widgets.chart": "chart",
    "elicitation.study.config": "Study",
    "elicitation.pages.study.figures": "ladder_figure",
    "elicitation.study.run": "run",
    "elicitation.calibration.run": "calibrate",
    "elicitation.calibration.record": "shipped_records shipped_leaks",
    "lab.sampling.trace": "Decoding",
    "probes.capture.site": "Site",
    "steering.vector": "SteeringVector",
    "steering.edit": "Add Ablate ClampFeature apply",
    "steering.hybrid.hybrid": "Hybrid",
}
NAMES = {name: module for module, names in ROOMS.items() for name in names.split()}
"""Name -> the module that has it."""
KINDS = {
    "gates": "steering.gate",
    "routers": "steering.hybrid.routers",
    "interventions": "steering.hybrid.interventions",
}
"""Name -> the module that it is: every value of a kind stands there."""


def __getattr__(name: str) -> object:
    if name in NAMES:
        return getattr(import_module(NAMES[name]), name)
    if name in KINDS:
        return import_module(KINDS[name])
    raise AttributeError(f"elicitation has no {name!r}: dir(elicitation) lists what it has")


def __dir__() -> list[str]:
    return sorted({*NAMES, *KINDS})
