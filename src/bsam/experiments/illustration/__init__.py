"""Why SAM is Bayes, for one loss of one parameter: numbers, a figure and a web page."""

from bsam.experiments.illustration.illustrate import illustrate

__all__ = ["illustrate"]
