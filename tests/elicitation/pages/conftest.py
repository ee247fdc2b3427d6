"""A synthetic study with the shape of a real one, and a browser to look at it with."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import polars as pl
import pytest

from elicitation.calibration.record import LEAKS, RECORDS
from elicitation.estimators.estimate import ESTIMATES
from elicitation.pages.kit.document import Origin, TableFile
from elicitation.pages.study.page import Page
from elicitation.pages.study.tables import (
    COVER,
    EXAMPLES,
    FAMILIES,
    GUESS,
    LADDER,
    OUTCOME_SHARES,
    PASS_AT_K,
    PUBLISHED,
    SCHEMAS,
    ReportTables,
)
from lab.records.provenance import Provenance, canonical_json
from tests.elicitation.pages.browser import Browser, browsing, installed

NAN = math.nan
ARMS = (
    # arm, label, kind, control_of, order, strict, answer, share, steered, bits, family
    ("base", "zero-base", "end", None, 0, 0.302, 0.361, NAN, 0.0, 0.0, "end"),
    ("prompt", "+ best of 12 prompts", "rung", None, 1, 0.331, 0.402, 0.05, 0.0, 0.0, "prompt"),
    ("decoding", "+ self-consistency over 8 samples", "rung", None, 2, 0.412, 0.560, 0.17, 0.0, 0.0, "decoding"),
    ("vector", "+ one fitted steering vector", "rung", None, 3, 0.695, 0.741, 0.61, 1.0, 0.0, "vector"),
    ("vector.random", "a norm-matched random vector", "control", "vector", 0, 0.315, 0.380, 0.02, 1.0, 0.0, "vector"),
    (
        "vector.placebo",
        "vector fitted on an unrelated target",
        "control",
        "vector",
        1,
        0.334,
        0.401,
        0.05,
        1.0,
        0.0,
        "vector",
    ),
    (
        "routed",
        "+ routed vectors, base's own probe decides",
        "rung",
        None,
        4,
        0.731,
        0.769,
        0.67,
        0.06,
        0.0,
        "own router",
    ),
    (
        "routed.schedule",
        "random schedule at the same rate",
        "control",
        "routed",
        0,
        0.372,
        0.421,
        0.11,
        0.06,
        0.0,
        "own router",
    ),
    ("gate", "+ tuned model decides when", "rung", None, 5, 0.742, 0.781, 0.68, 0.05, 0.29, "tuned router"),
    ("takeover", "+ token takeover at the same positions", "rung", None, 6, 0.901, 0.912, 0.93, 0.05, 0.52, "takeover"),
    ("tuned", "zero-rl", "end", None, 7, 0.946, 0.951, NAN, 0.0, math.inf, "end"),
)
CURVED = ("base", "vector", "vector.random", "takeover", "tuned")
BEST_CONTROL = {"vector": ("vector.placebo", 0.334, 0.401), "routed": ("routed.schedule", 0.372, 0.421)}
"""Rung -> its best control, strict and answer-only accuracy of that."""
REFUSAL = "the gap of 1.2 points is 0.8 standard errors, under the five that a share needs"


def ladder_rows(refusal: str | None) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for arm, label, kind, control_of, order, strict, answer, share, steered, bits, family in ARMS:
        for measure, accuracy in (("strict", strict), ("answer", answer)):
            known = kind != "end" and refusal is None
            over = accuracy - BEST_CONTROL[arm][1 + (measure == "answer")] if arm in BEST_CONTROL else NAN
            gain = accuracy - (0.302 if measure == "strict" else 0.361)
            rows.append(
                {
                    "arm": arm,
                    "label": label,
                    "kind": kind,
                    "role": control_of or arm,
                    "decoding": "sampled",
                    "control": None if control_of is None else "random-vectors",
                    "control_of": control_of,
                    "family": family,
                    "order": order,
                    "measure": measure,
                    "accuracy": accuracy,
                    "low": accuracy - 0.034,
                    "high": min(1.0, accuracy + 0.033),
                    "gain": gain,
                    "gain_low": gain - 0.03 * (arm != "base"),
                    "gain_high": gain + 0.03 * (arm != "base"),
                    "share": share if known else NAN,
                    "share_low": share - 0.05 if known else NAN,
                    "share_high": share + 0.05 if known else NAN,
                    "over_control": over,
                    "over_control_low": over - 0.031,
                    "over_control_high": over + 0.031,
                    "refusal": refusal if kind != "end" else None,
                    "steered_share": steered,
                    "bits_per_token": bits,
                    "bits_low": 0.8 * bits,
                    "bits_high": 1.3 * bits,
                    "bits_per_problem": 22 * bits,
                    "bits_per_problem_low": 17 * bits,
                    "bits_per_problem_high": 28 * bits,
                    "cost": 8.0 if arm == "decoding" else 1.0,
                    "truncated": 0.04 if arm == "base" else 0.0,
                    "n_problems": 200,
                    "n_samples": 16,
                }
            )
    return rows


def curve_rows(column: str, values: list[object], curve: Callable[[float, float], float]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for arm, label, _, _, _, strict, answer, *_ in ARMS:
        for measure, accuracy in (("strict", strict), ("answer", answer)):
            for value in values if arm in CURVED else []:
                middle = curve(accuracy, float(str(value)))
                rows.append(
                    {
                        "arm": arm,
                        "label": label,
                        "measure": measure,
                        column: value,
                        "value": middle,
                        "low": max(0.0, middle - 0.035),
                        "high": min(1.0, middle + 0.035),
                    }
                )
    return rows


def family_rows(names: list[str]) -> list[dict[str, object]]:
    rows = curve_rows("family", [*range(len(names))], lambda accuracy, index: accuracy ** (0.5 + 0.25 * index))
    return [row | {"family": names[int(str(row["family"]))], "n_problems": 33} for row in rows]


def example_rows(
    prompt: str = "<6-0-4+8?", tokens: tuple[str, ...] = tuple("T6-0=6;6-4=2;2+8=0;A0.")
) -> list[dict[str, object]]:
    def row(label: str, tokens: tuple[str, ...], routes: list[int], verdict: tuple[bool, bool | None, str]) -> dict:
        logprobs = [-0.02 - 1.3 * (index % 7 == 0) for index in range(len(tokens))]
        return {
            "arm": "vector",
            "label": label,
            "problem_id": "chain/3f29",
            "prompt": prompt,
            "gold": "0",
            "text": "".join(tokens),
            "tokens": list(tokens),
            "routes": routes,
            "logprobs": logprobs,
            "answer_correct": verdict[0],
            "process_valid": verdict[1],
            "reason": verdict[2],
        }

    n = len(tokens)
    return [
        row("zero-base", ("A", "3", "."), [0, 0, 0], (False, None, "answer 3, want 0")),
        row("+ one fitted steering vector", tokens, [1] + [0] * (n - 1), (True, True, "ok")),
        row("+ token takeover", tokens, [2 if i in (0, 14) else i % 5 == 3 for i in range(n)], (True, True, "ok")),
        row("+ one fitted steering vector", tokens, [1] * n, (True, False, "step 2: 6-4 is 2, not 3")),
        row("zero-rl", (*tokens[:9], "\n", "", *tokens[9:]), [2] * (n + 2), (True, True, "ok")),
        row("zero-rl", tokens * 9, [2] * 9 * n, (True, True, "ok")),
        row("zero-rl", tokens, [2] * n, (True, True, "ok")),
    ]


LEAKED = {"prompt": 0.001, "vector": 0.004, "vector.random": 0.0, "routed": 0.01, "gate": 0.31, "takeover": 0.96}
"""Arm -> mean gain on two TAUGHT organisms; `decoding` was not measured, nor were most controls."""


def leak_rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for arm, gain in LEAKED.items():
        for case, kind, off in (
            ("taught-1", "TAUGHT", 0.01),
            ("taught-2", "TAUGHT", -0.01),
            ("absent", "ABSENT", 0.0),
            ("placebo", "PLACEBO", 0.0),
        ):
            taught = kind == "TAUGHT"
            value = gain + off if taught else 0.008
            rows.append(
                {
                    "arm": arm,
                    "kind": kind,
                    "case": case,
                    "n_problems": 150,
                    "gain": value,
                    "gain_low": value - 0.02,
                    "gain_high": value + 0.03,
                    "beyond": value,
                    "beyond_low": value - 0.02,
                    "beyond_high": value + 0.03,
                    "share": value / 0.98 if taught else NAN,
                    "share_low": (value - 0.02) / 0.98 if taught else NAN,
                    "share_high": (value + 0.03) / 0.98 if taught else NAN,
                    "refusal": None if taught else REFUSAL,
                }
            )
    return rows


def outcome_rows() -> list[dict[str, object]]:
    return [
        {
            "arm": arm,
            "label": label,
            "right": answer,
            "wrong": 0.9 * (1 - answer),
            "no_answer": 0.04 * (1 - answer),
            "cut": 0.06 * (1 - answer),
            "lenient": min(1.0, answer + 0.02) if kind == "end" else NAN,
            "n_completions": 3200,
        }
        for arm, label, kind, _, _, _, answer, *_ in ARMS
    ]


def published_rows() -> list[dict[str, object]]:
    found = (
        # method, fault, theirs, share, truth
        ("P1", None, 0.82, 0.82, NAN),
        ("P1", "the edit acts where the vector was fitted, one block earlier", 0.0, -0.04, 0.0),
        ("P1", "random vectors of the fitted norm, not of norm 1", 0.91, 0.78, 1.0),
        ("P2", "the vectors of one seed, not the best of three", 0.31, None, NAN),
        ("P2", None, 0.12, 0.05, 0.5),
    )
    return [
        {
            "published": published,
            "arm": f"{published}-{index}",
            "label": f"{published} at every disagreement",
            "fault": fault,
            "theirs": theirs,
            "share": NAN if share is None else share,
            "share_low": NAN if share is None else share - 0.06,
            "share_high": NAN if share is None else share + 0.07,
            "refusal": REFUSAL if share is None else None,
            "accuracy": 0.302 + 0.644 * (share or 0.0),
            "low": 0.302 + 0.644 * (share or 0.0) - 0.03,
            "high": 0.302 + 0.644 * (share or 0.0) + 0.03,
            "gap": 0.644,
            "truth": truth,
            "n_problems": 200,
        }
        for index, (published, fault, theirs, share, truth) in enumerate(found)
    ]


def made_tables(*, refusal: str | None = None, examples: list[dict[str, object]] | None = None) -> ReportTables:
    taus = [index / 20 for index in range(1, 21)]
    guesses = [
        {"arm": arm, "label": label, "value": value, "low": value - 0.02, "high": value + 0.02}
        for (arm, label, *_), value in zip((ARMS[0], ARMS[3], ARMS[-1]), (0.101, 0.098, 0.1), strict=True)
    ]
    return ReportTables(
        ladder=LADDER.frame(ladder_rows(refusal)),
        outcomes=OUTCOME_SHARES.frame(outcome_rows()),
        published_hybrids=PUBLISHED.frame(published_rows()),
        guess=GUESS.frame(guesses),
        pass_at_k=PASS_AT_K.frame(curve_rows("k", [1, 2, 4, 8, 16, 32], lambda p, k: 1 - (1 - p) ** k)),
        cover=COVER.frame(curve_rows("tau", taus, lambda p, tau: 1 - (1 - p ** (tau**2 + 0.1)) ** 1.1)),
        families=FAMILIES.frame(family_rows([f"{n} steps" for n in range(3, 9)])),
        examples=EXAMPLES.frame(example_rows() if examples is None else examples),
    )


def made_page(tables: ReportTables, *, title: str = "How much did tuning zero-rl add to zero-base?") -> Page:
    config = {"kind": "StudyConfig", "task": {"operators": "+-", "lengths": [3, 8]}, "n_problems": 200, "seed": 7}
    return Page(
        title=title,
        task="held-out chain",
        sampling="at temperature 1",
        process_checked=True,
        base="zero-base",
        tuned="zero-rl",
        tables=tables,
        estimates=ESTIMATES.frame([]),
        records=RECORDS.frame([]),
        leaks=LEAKS.frame(leak_rows()),
        origin=Origin(
            made_by=Provenance(
                stage="steering.study.study",
                config=canonical_json(config),
                parents={"base": "9d1f5b1f1c2a77de", "tuned": "04bfa6c01188e2aa"},
                commit="7df7824c0ffee7df7824c0ffee7df7824c0ffee0",
                dirty=True,
                packages={"torch": "2.13.0", "transformers": "5.9.1", "polars": "2.1.0", "sae-lens": "6.54.12"},
                device="cpu",
                dtype="float32",
                seed=7,
            ),
            command="lab study zero-chain --seed 7 --out runs/zero-chain",
            files=tuple(
                TableFile(path=f"{schema.name}.parquet", schema=schema, n_rows=22, digest="ab12" * 16)
                for schema in (*SCHEMAS, LEAKS)
            ),
        ),
    )


@pytest.fixture(scope="session")
def tables() -> ReportTables:
    return made_tables()


@pytest.fixture(scope="session")
def refused() -> ReportTables:
    return made_tables(refusal=REFUSAL)


@pytest.fixture(scope="session")
def page(tables: ReportTables) -> Page:
    return made_page(tables)


@pytest.fixture(scope="session")
def hostile() -> Callable[[str], Page]:
    """A page that says `payload` in every place where text of a user or a model can stand."""

    def make(payload: str) -> Page:
        clean = made_tables(examples=example_rows(payload, (payload, *payload, "\n")))
        words = {"label", "refusal", "family", "problem_id", "gold", "reason", "published", "fault"}

        def poisoned(frame: pl.DataFrame) -> pl.DataFrame:
            return frame.with_columns(pl.lit(payload).alias(name) for name in frame.columns if name in words)

        tables = ReportTables(**{schema.name: poisoned(getattr(clean, schema.name)) for schema in SCHEMAS})
        cut = tables.ladder.with_columns(truncated=pl.lit(0.5))
        tables = dataclasses.replace(tables, ladder=cut)
        page = made_page(tables, title=f"study {payload}")
        spoiled = Provenance(
            stage=payload, config=canonical_json({payload: payload}), parents={payload: payload}, commit=payload,
            dirty=True, packages={payload: payload}, device=payload, dtype=payload, seed=7,
        )  # fmt: skip
        return Page(
            title=page.title, task=payload, sampling=payload, process_checked=True, base=payload, tuned=payload,
            tables=tables,
            estimates=ESTIMATES.frame([]),
            records=RECORDS.frame([]),
            leaks=page.leaks.with_columns(case=pl.lit(payload)),
            origin=Origin(
                made_by=spoiled, command=payload,
                files=tuple(
                    TableFile(path=payload, schema=f.schema, n_rows=1, digest=payload) for f in page.origin.files
                ),
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    binary = installed()
    if binary is None:
        pytest.skip("no chromium on this machine, so nothing can show what a browser would run")
    with browsing(binary, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def dumped_dom(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """HTML -> the document that Chromium made of it, after its scripts ran."""

    def dump(html: str) -> str:
        page = tmp_path_factory.mktemp("page") / "report.html"
        page.write_text(html, encoding="utf-8")
        browser.open(page, 1280)
        assert browser.complaints() == []
        return str(browser.value("document.documentElement.outerHTML"))

    return dump
