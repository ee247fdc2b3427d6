"""Feature tables: what is known of an SAE's features. `probes` fills them, the report shows them."""

import polars as pl

from lab.records.tables import Column, Schema

_FEATURE = Column("feature", pl.Int32, "number of the feature, a row of W_dec")

FIRING = Schema(
    "feature firing",
    (
        _FEATURE,
        Column("n_tokens", pl.Int64, "tokens that were read"),
        Column("n_active", pl.Int64, "tokens at which it is above 0"),
        Column("firing_share", pl.Float64, "n_active / n_tokens"),
        Column("mean_active", pl.Float64, "mean activation where it is above 0; NaN where it never is"),
        Column("max_active", pl.Float64, "largest activation; 0 where it never fires"),
    ),
)

REASON_SCORES = Schema(
    "reason scores",
    (
        _FEATURE,
        Column("score", pl.Float64, "ReasonScore: inside_share * entropy ** alpha - outside_share; NaN if undefined"),
        Column("inside_share", pl.Float64, "its share of all features' mean activation at tokens with a label"),
        Column("outside_share", pl.Float64, "its share of all features' mean activation at tokens without one"),
        Column("entropy", pl.Float64, "evenness of its mean activation over the labels, 0 to 1"),
    ),
)

LABEL_ACTIVATIONS = Schema(
    "feature activations by label",
    (
        _FEATURE,
        Column("label", pl.String, "kind of token"),
        Column("n_tokens", pl.Int64, "tokens of this kind"),
        Column("mean", pl.Float64, "mean activation at them, zeros counted"),
        Column("firing_share", pl.Float64, "share of them at which it is above 0"),
        Column("auroc", pl.Float64, "how well it alone tells them from all other tokens; 0.5 is not at all"),
        Column("auroc_error", pl.Float64, "how far the exact value may lie from it, since it is read off a histogram"),
    ),
)

DIFFERENCES = Schema(
    "base and tuned activations of features",
    (
        _FEATURE,
        Column("base_mean", pl.Float64, "mean activation as the base model reads the texts"),
        Column("tuned_mean", pl.Float64, "mean activation as the tuned model reads the same texts"),
        Column("difference", pl.Float64, "tuned_mean - base_mean"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("effect_size", pl.Float64, "difference / pooled standard deviation over tokens; NaN if that is 0"),
    ),
)

LABEL_PROBES = Schema(
    "probes of labels",
    (
        Column("label", pl.String, "kind of token that is told from all others"),
        Column("probe", pl.String, "linear (reads the stream), sparse (reads n_features) or shuffled (control)"),
        Column("n_features", pl.Int32, "features read; the width of the stream for the linear probe"),
        Column("features", pl.List(pl.Int32), "which features; empty for the linear probe"),
        Column("auroc", pl.Float64, "on held-out problems"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("f1", pl.Float64, "on held-out problems, at the threshold that is best on training problems"),
        Column("n_tokens", pl.Int64, "held-out tokens"),
        Column("n_labelled", pl.Int64, "held-out tokens with the label"),
    ),
)

LOGIT_EFFECTS = Schema(
    "logit effects of features",
    (
        _FEATURE,
        Column("side", pl.String, "up: the tokens it raises most; down: those it lowers most"),
        Column("rank", pl.Int32, "from 0, strongest first"),
        Column("token", pl.Int32, "token id"),
        Column("text", pl.String, "the token as text"),
        Column("effect", pl.Float64, "logit per unit of activation by the direct path, centred over the vocabulary"),
    ),
)

CONTEXTS = Schema(
    "contexts of features",
    (
        _FEATURE,
        Column("rank", pl.Int32, "from 0, largest activation first, at most one of each text"),
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("position", pl.Int32, "place of the token in its text, prompt included, from 0"),
        Column("activation", pl.Float64, "activation at that token"),
        Column("first", pl.Int32, "place in the text of the first token shown"),
        Column("tokens", pl.List(pl.String), "texts of the tokens shown"),
        Column("activations", pl.List(pl.Float32), "activation at each of them; NaN where it was not stored"),
    ),
)

EFFECTS = Schema(
    "effects of features",
    (
        Column("text", pl.Int32, "row of the contrasts"),
        Column("problem_id", pl.String, "the problem that the text belongs to"),
        Column("position", pl.Int32, "place of the token in its text, from 0; null for all places at once"),
        _FEATURE,
        Column("activation", pl.Float32, "activation there, summed over all places where position is null; never 0"),
        Column("effect", pl.Float32, "what it adds to the contrast, in nats of log-odds"),
    ),
)

TEXT_EFFECTS = Schema(
    "effects of all features of a text",
    (
        Column("text", pl.Int32, "row of the contrasts"),
        Column("problem_id", pl.String, "the problem that the text belongs to"),
        Column("contrast", pl.Float64, "log-odds of the next token as the model has them, nats"),
        Column("without", pl.Float64, "the same with all features at zero, the rest of the stream kept"),
        Column("explained", pl.Float64, "sum of the features' effects; contrast - without where they are complete"),
    ),
)

FEATURE_EFFECTS = Schema(
    "effects of features over texts",
    (
        _FEATURE,
        Column("method", pl.String, "ablation, joint ablation, gradient or integrated"),
        Column("effect", pl.Float64, "mean over texts of the sum over positions, in nats of log-odds"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("n_texts", pl.Int32, "texts in which it is active at some token"),
    ),
)

INTERVENTIONS = Schema(
    "interventions on features",
    (
        Column("intervention", pl.String, "ablated in the tuned model, or added to the base model"),
        Column(
            "features",
            pl.String,
            "none: the model as it is; top: chosen by attribution; frequency_matched: random ones that fire about as "
            "often; first_token: random ones that fire about as often at the last token of a prompt",
        ),
        Column("n_features", pl.Int32, "features acted on at once"),
        Column("dose", pl.Float64, "strength: 1 is the mean activation where active (added), or all of it (ablated)"),
        Column(
            "active_share",
            pl.Float64,
            "share of prompts at whose last token a feature of these is active; NaN for none",
        ),
        Column(
            "rate", pl.Float64, "probability, at temperature 1, that an answer opens so: the expected share of samples"
        ),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("change", pl.Float64, "rate minus that of the untouched model"),
        Column("change_low", pl.Float64, "lower end of its 95 % interval, paired by problem"),
        Column("change_high", pl.Float64, "upper end of its 95 % interval, paired by problem"),
        Column("beyond", pl.Float64, "the top features' rate minus this control's; NaN where this is no control"),
        Column("beyond_low", pl.Float64, "lower end of its 95 % interval, paired by problem"),
        Column("beyond_high", pl.Float64, "upper end of its 95 % interval, paired by problem"),
    ),
)

SAE_QUALITY = Schema(
    "SAE quality",
    (
        Column("sae", pl.String, "directory of the SAE, below that of the run"),
        Column("site", pl.String, "stream it reads"),
        Column("architecture", pl.String, "what was trained; batchtopk and matryoshka are saved as jumprelu"),
        Column("d_sae", pl.Int32, "how many features"),
        Column("n_rows", pl.Int64, "held-out activations"),
        Column("explained_variance", pl.Float64, "1 - squared error / squared distance from the mean"),
        Column("l0", pl.Float64, "mean number of features above 0"),
        Column("dead_share", pl.Float64, "features that are above 0 at no held-out activation"),
        Column("n_texts", pl.Int64, "held-out texts that were read with the SAE spliced in"),
        Column("ce_clean", pl.Float64, "cross-entropy of the texts' tokens, nats a token"),
        Column("ce_spliced", pl.Float64, "the same with the reconstruction in the stream's place"),
        Column("ce_ablated", pl.Float64, "the same with the mean activation in the stream's place"),
        Column("ce_recovered", pl.Float64, "(ce_ablated - ce_spliced) / (ce_ablated - ce_clean); NaN where that is 0"),
        Column("ce_recovered_low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("ce_recovered_high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("kl", pl.Float64, "KL(clean || spliced) of the next token, nats"),
    ),
)

LATENTS = Schema(
    "latents of a crosscoder",
    (
        Column("latent", pl.Int32, "number of the latent, a row of W_dec in each model"),
        Column("relative_norm", pl.Float64, "|tuned row| / (|base row| + |tuned row|): 1 is tuned only, 0 base only"),
        Column("cosine", pl.Float64, "of its two decoder rows; NaN where one is 0"),
        Column("nu_epsilon", pl.Float64, "strength in the model with less of it / in the other, by row and error"),
        Column("nu_r", pl.Float64, "the same by reconstruction; NaN if undefined"),
        Column("firing_share", pl.Float64, "share of tokens at which it is above 0"),
        Column("mean_active", pl.Float64, "mean activation where it is above 0; NaN where it never is"),
        Column("kind", pl.String, "shared, base only, tuned only, undecided, or dead: it never fires"),
        Column("placebo_share", pl.Float64, "share of a placebo's latents with as extreme a norm; NaN without one"),
    ),
)

LATENT_KINDS = Schema(
    "kinds of latents beside a placebo",
    (
        Column("kind", pl.String, "shared, base only, tuned only, undecided or dead"),
        Column("n", pl.Int64, "latents of this kind; null without a pair"),
        Column("share", pl.Float64, "of living latents; for dead, of all"),
        Column("low", pl.Float64, "lower end of its 95 % interval over latents"),
        Column("high", pl.Float64, "upper end of its 95 % interval over latents"),
        Column("placebo_n", pl.Int64, "the same of a pair that was not tuned; null without one"),
        Column("placebo_share", pl.Float64, "of its living latents; for dead, of all"),
        Column("placebo_low", pl.Float64, "lower end of its 95 % interval over latents"),
        Column("placebo_high", pl.Float64, "upper end of its 95 % interval over latents"),
        Column("difference", pl.Float64, "share - placebo_share; NaN where either is missing"),
        Column("difference_low", pl.Float64, "lower end of its 95 % interval over latents"),
        Column("difference_high", pl.Float64, "upper end of its 95 % interval over latents"),
        Column("reason", pl.String, "ok, or why there is no difference"),
    ),
)

CROSSCODER_QUALITY = Schema(
    "crosscoder quality",
    (
        Column("model", pl.String, "base or tuned: whose stream is written"),
        Column("n_rows", pl.Int64, "held-out activations"),
        Column("d_sae", pl.Int32, "how many latents"),
        Column("explained_variance", pl.Float64, "1 - squared error / squared distance from the mean"),
        Column("l0", pl.Float64, "mean number of latents above 0"),
        Column("dead_share", pl.Float64, "latents that are above 0 at no held-out activation"),
    ),
)

_SITE = Column("site", pl.String, "stream that is read")
_METHOD = Column("method", pl.String, "how categories were found: the clustering SAE with its k, or k-means")
_N_CATEGORIES = Column("n_categories", pl.Int32, "how many were asked for")

TAXONOMIES = Schema(
    "quality of taxonomies",
    (
        _SITE,
        _METHOD,
        _N_CATEGORIES,
        Column("n_dead", pl.Int32, "categories that no segment of the fit belongs to"),
        Column("measure", pl.String, "explained variance, mutual information, purity, macro F1, stability or sameness"),
        Column("reading", pl.String, "where the category is read: span mean, last token, any token or token before"),
        Column("value", pl.Float64, "on held-out problems, which decided nothing in the fit"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("shuffled", pl.Float64, "the same with labels or categories shuffled; NaN where neither counts"),
        Column("null", pl.Float64, "the same of taxonomies fitted to normal noise of the segments' covariance"),
        Column("n_segments", pl.Int64, "held-out segments that count"),
        Column("n_problems", pl.Int64, "held-out problems"),
        Column("note", pl.String, "why there is no value; null where there is one"),
    ),
)

CATEGORIES = Schema(
    "categories",
    (
        _SITE,
        _METHOD,
        _N_CATEGORIES,
        Column("category", pl.Int32, "number of the category"),
        Column("name", pl.String, "its most common label in the fit, or without labels its most distinctive words"),
        Column("share", pl.Float64, "share of held-out segments"),
        Column("label", pl.String, "most common label of its held-out segments; null without labels"),
        Column("label_share", pl.Float64, "share of its labelled held-out segments with that label; NaN without any"),
        Column("examples", pl.List(pl.String), "held-out segments with its highest scores, all different"),
    ),
)
