"""texts: prompts with their completions as token ids, the input of a capture."""

import hashlib

import polars as pl

from lab.models.load import Model
from lab.records.errors import StorageError
from lab.records.tables import Column, Schema

TEXTS = Schema(
    "texts",
    (
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("prompt", pl.List(pl.Int32), "token ids that were given"),
        Column("completion", pl.List(pl.Int32), "token ids that were written, with the end token if one came"),
    ),
)


def texts(model: Model, traces: pl.DataFrame, problems: pl.DataFrame) -> pl.DataFrame:
    """`TEXTS` rows for the rows of a `TRACES` table, prompts being those of a `PROBLEMS` table, as `model` reads them.

    Completions are the very tokens that were sampled; decoding and encoding them again might give others. `model` need
    not be the one that wrote them, but must read the same tokens. Raises StorageError for a trace whose problem is
    absent, or with a token that the model does not have.
    """
    prompts = dict(problems.select("id", "prompt").iter_rows())
    asked = traces["problem_id"].unique(maintain_order=True).to_list()
    if absent := [problem_id for problem_id in asked if problem_id not in prompts]:
        raise StorageError(
            f"the traces answer {len(absent)} problems, such as {absent[0]!r}, that are not among the problems: "
            "want the problems that the traces were sampled from"
        )
    highest = traces["tokens"].explode().max()
    if isinstance(highest, int) and highest >= model.anatomy.d_vocab:
        raise StorageError(
            f"the traces hold token {highest}, and {model.name} has {model.anatomy.d_vocab}: want traces by a model "
            "of the same vocabulary"
        )
    encoded = pl.DataFrame(
        {"problem_id": asked, "prompt": [model.tokenizer(prompts[problem_id]).input_ids for problem_id in asked]},
        schema={"problem_id": pl.String, "prompt": pl.List(pl.Int32)},
    )
    return TEXTS.checked(
        traces.select("problem_id", "sample_index", pl.col("tokens").alias("completion"))
        .join(encoded, on="problem_id", how="left", maintain_order="left")
        .select(list(TEXTS.dtypes))
    )


def texts_digest(texts: pl.DataFrame) -> str:
    """Sixteen hex digits of SHA-256 over all that a `TEXTS` table says."""
    total = hashlib.sha256()
    names = texts.select(pl.concat_str(pl.col("problem_id"), pl.col("sample_index"), separator="\x1f")).to_series()
    for name in names:
        total.update(f"{name}\x1e".encode())
    for column in ("prompt", "completion"):
        lengths = texts[column].list.len()
        total.update(lengths.cast(pl.Int64).to_numpy().tobytes())
        total.update(texts[column].filter(lengths > 0).explode().to_numpy().astype("<i4").tobytes())
    return total.hexdigest()[:16]
