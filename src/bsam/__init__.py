"""bsam: sharpness-aware training that gives a Gaussian posterior over the weights.

``bsam.BSAM`` is the optimizer of "SAM as an Optimal Relaxation of Bayes" (Moellenhoff and Khan,
ICLR 2023) and ``bsam.SAM`` the baseline it is measured against. ``optimizer.posterior(model)``
gives a ``bsam.GaussianPosterior``, which ``bsam.predict`` averages predictions over;
``bsam.metrics`` has numbers from probabilities and labels, ``bsam.normalization`` what becomes of
the running statistics of BatchNorm, ``bsam.experimental`` what may still change or go,
``bsam.relaxation`` (which needs scipy) why SAM is Bayes.
"""

import importlib
from typing import Any

from bsam import experimental, metrics, normalization
from bsam.optimizer import BSAM
from bsam.posterior import GaussianPosterior
from bsam.prediction import GaussianPredictive, Predictive, predict
from bsam.sam import SAM
from bsam.version import __version__

__all__ = [
    "BSAM",
    "SAM",
    "GaussianPosterior",
    "GaussianPredictive",
    "Predictive",
    "__version__",
    "experimental",
    "metrics",
    "normalization",
    "predict",
]


def __getattr__(name: str) -> Any:
    # On first use, since it brings scipy, which the rest does without.
    if name == "relaxation":
        return importlib.import_module("bsam.relaxation")
    raise AttributeError(f"module 'bsam' has no attribute {name!r}")
