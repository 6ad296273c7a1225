"""The metrics in tables, and random arguments for them, with ties and without."""

import numpy as np
from hypothesis import strategies as st

from bsam import metrics


def risks(*args):
    return metrics.risk_coverage(*args)[1].tolist()


# By their arguments: (probs, labels), (in_scores, out_scores), (mean, variance, targets).
PREDICTION_METRICS = [
    metrics.accuracy,
    metrics.negative_log_likelihood,
    metrics.brier_score,
    metrics.expected_calibration_error,
    metrics.adaptive_calibration_error,
    metrics.misclassification_auroc,
    metrics.aurc,
]
SCORE_METRICS = [metrics.ood_auroc, metrics.ood_aupr, metrics.ood_fpr95]
GAUSSIAN_METRICS = [metrics.gaussian_nll, metrics.interval_coverage]


def predictions(seed, n=300, classes=4, ties=False):
    """At least one row is right and one wrong. Ties: multiples of 1/16, some on edges of bins."""
    draw = np.random.default_rng(seed)
    probs = draw.dirichlet(np.ones(classes) / 2, n)
    if ties:
        probs = np.stack([draw.multinomial(16, p) for p in probs]) / 16
    labels = np.where(draw.random(n) < 0.5, probs.argmax(1), draw.integers(classes, size=n))
    labels[0], labels[1] = probs[0].argmax(), (probs[1].argmax() + 1) % classes
    return probs, labels


def scores(seed, n=200, m=150, ties=False):
    """Ties: few values, infinite ones among them."""
    draw = np.random.default_rng(seed)
    if ties:
        values = np.array([-np.inf, -1.5, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf])
        return draw.choice(values[:-1], n), draw.choice(values[1:], m)
    return draw.normal(size=n), draw.normal(size=m) + 1


def gaussians(seed, n=200):
    draw = np.random.default_rng(seed)
    mean, variance = draw.normal(size=n), draw.lognormal(size=n)
    return mean, variance, mean + 1.2 * np.sqrt(variance) * draw.normal(size=n)


SEEDS = st.integers(0, 100_000)
PREDICTIONS = st.builds(
    predictions, SEEDS, n=st.integers(2, 40), classes=st.integers(2, 5), ties=st.booleans()
)
SCORES = st.builds(scores, SEEDS, n=st.integers(1, 50), m=st.integers(1, 50), ties=st.booleans())
GAUSSIANS = st.builds(gaussians, SEEDS, n=st.integers(1, 40))

CASES = (
    *((metric, PREDICTIONS) for metric in (*PREDICTION_METRICS, risks)),
    *((metric, SCORES) for metric in SCORE_METRICS),
    *((metric, GAUSSIANS) for metric in GAUSSIAN_METRICS),
)
EXAMPLES = (
    *((metric, predictions(0, ties=ties)) for metric in PREDICTION_METRICS for ties in (0, 1)),
    *((metric, scores(0, ties=ties)) for metric in SCORE_METRICS for ties in (0, 1)),
    *((metric, gaussians(0)) for metric in GAUSSIAN_METRICS),
)


def name_of(value):
    return getattr(value, "__name__", "")
