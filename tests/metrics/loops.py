"""Every metric once more: from its definition, row by row, in plain Python."""

import itertools
import math
from statistics import NormalDist, fmean


def _confidence(probs):
    return [max(row) for row in probs]


def _correct(probs, labels):
    return [row.index(max(row)) == label for row, label in zip(probs, labels, strict=True)]


def accuracy(probs, labels):
    return sum(_correct(probs, labels)) / len(labels)


def negative_log_likelihood(probs, labels):
    likelihoods = [row[label] for row, label in zip(probs, labels, strict=True)]
    return -fmean(math.log(p) if p else -math.inf for p in likelihoods)


def brier_score(probs, labels):
    total = 0.0
    for row, label in zip(probs, labels, strict=True):
        for k, p in enumerate(row):
            total += (p - (k == label)) ** 2
    return total / len(labels)


def expected_calibration_error(probs, labels, num_bins=15):
    rows = list(zip(_confidence(probs), _correct(probs, labels), strict=True))
    total = 0.0
    for b in range(num_bins):
        low, high = b / num_bins, (b + 1) / num_bins
        # A sum of probabilities may round to just above one.
        inside = [row for row in rows if low < row[0] and (row[0] <= high or b == num_bins - 1)]
        if inside:
            gap = fmean(c for c, _ in inside) - fmean(right for _, right in inside)
            total += len(inside) / len(rows) * abs(gap)
    return total


def adaptive_calibration_error(probs, labels, num_bins=15):
    n, classes = len(labels), len(probs[0])
    total = 0.0
    for k in range(classes):
        bins = {}
        for row, label in zip(probs, labels, strict=True):
            below = sum(other[k] < row[k] for other in probs)
            bins.setdefault(math.floor(below * num_bins / n), []).append((row[k], label == k))
        for inside in bins.values():
            gap = fmean(p for p, _ in inside) - fmean(hit for _, hit in inside)
            total += len(inside) / n * abs(gap)
    return total / classes


def _auroc(negative, positive):
    pairs = list(itertools.product(negative, positive))
    return sum((p > n) + (p == n) / 2 for n, p in pairs) / len(pairs)


def misclassification_auroc(probs, labels):
    rows = list(zip(_confidence(probs), _correct(probs, labels), strict=True))
    return _auroc([c for c, right in rows if not right], [c for c, right in rows if right])


def ood_auroc(in_scores, out_scores):
    return _auroc(in_scores, out_scores)


def ood_aupr(in_scores, out_scores):
    area, recall = 0.0, 0.0
    for t in sorted({*in_scores, *out_scores}, reverse=True):
        hits, false_alarms = sum(s >= t for s in out_scores), sum(s >= t for s in in_scores)
        area += (hits / len(out_scores) - recall) * hits / (hits + false_alarms)
        recall = hits / len(out_scores)
    return area


def ood_fpr95(in_scores, out_scores):
    for t in sorted(in_scores):
        if 100 * sum(s <= t for s in in_scores) >= 95 * len(in_scores):
            return sum(s <= t for s in out_scores) / len(out_scores)
    raise AssertionError("the largest score accepts all")


def risks(probs, labels, confidence=None):
    """Rows are dealt out one by one; a row among ties is each of them with equal probability."""
    confidence = confidence or _confidence(probs)
    correct = _correct(probs, labels)
    errors, risks = 0.0, []
    for value in sorted(confidence, reverse=True):
        group = [right for c, right in zip(confidence, correct, strict=True) if c == value]
        errors += group.count(False) / len(group)
        risks.append(errors / (len(risks) + 1))
    return risks


def risks_by_enumeration(probs, labels, confidence):
    """The mean over all orders of the rows in which confidence does not rise."""
    correct = _correct(probs, labels)
    curves = []
    for order in itertools.permutations(range(len(labels))):
        if all(confidence[i] >= confidence[j] for i, j in itertools.pairwise(order)):
            errors = itertools.accumulate(not correct[i] for i in order)
            curves.append([e / k for k, e in enumerate(errors, 1)])
    return [fmean(column) for column in zip(*curves, strict=True)]


def aurc(probs, labels, confidence=None):
    return fmean(risks(probs, labels, confidence))


def gaussian_nll(mean, variance, targets):
    rows = zip(mean, variance, targets, strict=True)
    return fmean(-math.log(NormalDist(m, math.sqrt(v)).pdf(y)) for m, v, y in rows)


def interval_coverage(mean, variance, targets, level=0.95):
    rows = zip(mean, variance, targets, strict=True)
    below = [NormalDist(m, math.sqrt(v)).cdf(y) for m, v, y in rows]
    return fmean((1 - level) / 2 <= p <= (1 + level) / 2 for p in below)
