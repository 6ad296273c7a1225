"""bsam: sharpness-aware training that gives a Gaussian posterior over the weights.

``bsam.BSAM`` is the optimizer of "SAM as an Optimal Relaxation of Bayes" (Moellenhoff and Khan,
ICLR 2023); ``bsam.SAM`` is the baseline it is measured against;
``bsam.metrics`` has numbers from probabilities and labels.
"""

from bsam import metrics
from bsam.optimizer import BSAM
from bsam.sam import SAM

__all__ = ["BSAM", "SAM", "metrics"]
__version__ = "0.1.0"
