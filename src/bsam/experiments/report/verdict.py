"""What the differences say, in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bsam.experiments.comparison import REFERENCE
from bsam.experiments.report.details import Entry
from bsam.experiments.report.words import counted, images_called, listed, number, spoken
from bsam.experiments.shifts import SHIFTED

FEW = 4
"""So many names at most stand in the headline for one verdict; of more it gives the number."""

_LEAST_SEEDS = 3
_PHRASES = {
    "worse": "has a lower NLL than {}",
    "better": "has a higher NLL than {}",
    "tie": "ties with {}",
    "no evidence": "cannot be told from {} for want of seeds",
}
_AGAIN = {"better": "a higher one than {}"}


def verdict(entries: Sequence[Entry], entry: Entry, key: str) -> str:
    """Return what to make of an entry's primary measure beside bSAM's.

    Args:
        entries: all of the results.
        entry: one of them.
        key: the measure.

    Returns:
        "better", "worse", "tie" or "no evidence" from the results; "reference" for bSAM itself;
        "bSAM failed" where it has no measure to compare with; "not compared" without common seeds.
    """
    if entry["label"] == REFERENCE:
        return "reference"
    reference = next((each for each in entries if each["label"] == REFERENCE), None)
    if reference is None or key not in entry["differences"]:
        return "not compared"
    # Where bSAM's NLL is infinite, no difference to it is evidence against others.
    if not math.isfinite(reference["measures"][key]["mean"]):
        return "bSAM failed"
    return entry["differences"][key]["verdict"]


def headline(results: Mapping[str, Any]) -> str:
    """Return the verdict on clean and on turned images in one sentence.

    Args:
        results: of the comparison.
    """
    entries, seeds = results["entries"], len(results["seeds"])
    reference = next((each for each in entries if each["label"] == REFERENCE), None)
    if reference is None:
        return f"Without runs of {REFERENCE} nothing is compared; the table has what was run."
    if not is_compared(results):
        return f"Nothing has seeds in common with {REFERENCE}; the table has what was run."
    if seeds < _LEAST_SEEDS:
        return (
            f"{counted(seeds, 'seed').capitalize()}: no evidence for or against {REFERENCE}; a "
            f"verdict needs at least {_LEAST_SEEDS}."
        )
    clean, turned = (images_called(name, results["data"]) for name in ("clean", "turned 30"))
    first, second = (outcome(results, name, brief=True) for name in ("clean", "turned 30"))
    if first == second:
        return f"On {clean} and on {turned} {REFERENCE} {first}."
    return f"On {clean} {REFERENCE} {first}; on {turned} it {second}."


def full(results: Mapping[str, Any]) -> list[str]:
    """Return the verdicts on each test set with all names.

    Args:
        results: of the comparison.
    """
    if not is_compared(results):
        return []
    return [
        f"On {images_called(name, results['data'])} {REFERENCE} {outcome(results, name)}."
        for name in SHIFTED
    ]


def is_compared(results: Mapping[str, Any]) -> bool:
    """Return whether there is any difference to bSAM.

    Args:
        results: of the comparison.
    """
    return any(entry["differences"] for entry in results["entries"])


def outcome(results: Mapping[str, Any], name: str, *, brief: bool = False) -> str:
    """Return how bSAM compares on a test set, as the end of a sentence without a full stop.

    Args:
        results: of the comparison, with bSAM.
        name: of the test set.
        brief: whether to give the number of a long list instead.
    """
    entries = results["entries"]
    others = [
        entry
        for entry in entries
        # In brief: what bSAM does at its own mean is no news of others.
        if entry["label"] != REFERENCE and not (brief and entry["method"] == REFERENCE)
    ]
    words = [verdict(entries, entry, f"NLL {name}") for entry in others]
    groups = {
        word: [spoken(each) for each, its in zip(others, words, strict=True) if its == word]
        for word in _PHRASES
        if word in words
    }
    if not groups:
        failed = "bSAM failed" in words
        return "has an infinite NLL, since a run failed" if failed else "has nothing beside it"
    phrases: list[str] = []
    for word, names in groups.items():
        phrase = _AGAIN.get(word, _PHRASES[word]) if phrases else _PHRASES[word]
        phrases.append(phrase.format(_names(names, len(others)) if brief else listed(names)))
    return ", ".join(phrases[:-1]) + ", and " * (len(phrases) > 1) + phrases[-1]


def _names(names: Sequence[str], others: int) -> str:
    if len(names) <= FEW:
        return listed(names)
    return f"all {others} others" if len(names) == others else f"{len(names)} of {others} others"


def in_words(entry: Entry, name: str, data: str, word: str) -> str:
    """Return a cell's comparison as a sentence.

    Args:
        entry: of the results.
        name: of the test set.
        data: name of the data set.
        word: its verdict.
    """
    images = images_called(name, data)
    if word in ("reference", "not compared", "bSAM failed"):
        return f"{spoken(entry)} on {images}: {word}."
    gap = entry["differences"][f"NLL {name}"]
    if not math.isfinite(gap["mean"]):
        return f"{spoken(entry)} on {images}: a run failed, which counts as infinitely bad."
    way = "lower" if gap["mean"] < 0.0 else "higher"
    start = f"{spoken(entry)} on {images}: NLL {way} than {REFERENCE}'s by "
    size = number(abs(gap["mean"]))
    if gap["low"] is None:
        return f"{start}{size}, but from too few seeds: {word}."
    low, high = (number(gap[end], plus=True) for end in ("low", "high"))
    covers = "covers 0: a tie" if word == "tie" else f"leaves out 0: {word}"
    return f"{start}{size} on average; the difference's 95 % interval, {low} to {high}, {covers}."
