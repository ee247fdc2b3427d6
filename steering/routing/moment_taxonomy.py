"""moment_taxonomy: kinds of moments, as one model's stream tells them apart just before a segment of text begins."""

import numpy as np

from lab.models.load import Model
from lab.seeds import child_seed
from probes.site import Site
from probes.taxonomy.fit import Method, fit
from probes.taxonomy.parts import parts
from probes.taxonomy.segment_means import SegmentMeans
from probes.taxonomy.segments import Rule, segments
from probes.taxonomy.taxonomy import Taxonomy
from probes.texts import TEXTS
from steering.routing.moments import Moments, streams_before


def moment_taxonomy(
    model: Model, site: Site, when: Moments, rule: Rule, n_categories: int, *, method: Method, seed: int
) -> Taxonomy:
    """A taxonomy of the segments of the texts of `when`, by `model`'s stream at the token before each segment.

    That token is where a hybrid reads it; a taxonomy of the means of whole segments, as `probes.taxonomy.survey` fits,
    often takes it for something else. Raises StorageError where no text has a segment; EstimateError for segments of
    fewer than three problems, or fewer of them than categories.
    """
    texts = TEXTS.frame(
        [
            {"problem_id": problem_id, "sample_index": index, "prompt": row.context, "completion": row.completion}
            for index, (problem_id, row) in enumerate(zip(when.problem_ids, when.rows, strict=True))
        ]
    )
    found = segments(rule, model.tokenizer, texts)
    owners = found["text"].to_numpy().astype(np.int64)
    firsts = found["first"].to_numpy() - np.array([len(row.context) for row in when.rows])[owners]
    data = SegmentMeans(
        site=site,
        segments=found,
        means=streams_before(model, site, when.rows, owners, firsts),
        model=model.name,
        model_digest=model.digest,
    )
    cut = parts(found["problem_id"].to_list(), child_seed(seed, "parts"))
    return fit(data, cut, n_categories, method, seed=child_seed(seed, "taxonomy")).taxonomy
