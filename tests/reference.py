"""bSAM and SAM from the formulas, in NumPy and float64: the slow truth.

Imports nothing of the project. A tensor of parameters is a dict with its arrays ``w``, ``gm`` and
``s`` and its hyperparameters ``h``; ``gradient(j, weights)`` returns the loss and the gradients of
sub-batch j.
"""

import math

import numpy as np


def tensor(w, **h):
    w = np.array(w, dtype=np.float64)
    return {"w": w, "gm": np.zeros_like(w), "s": np.full_like(w, h.get("s_init", 1.0)), "h": h}


def bsam_step(
    tensors, noise, gradient, order="precision_first", *, one_gradient=False, noise_factor=1.0
):
    """One step in place; noise[j][i] is for sub-batch j and tensor i. Returns the mean loss.

    With one_gradient that at the noisy weights, theta, serves all lines.
    """
    m = len(noise)
    losses = []
    mean_q = [np.zeros_like(t["w"]) for t in tensors]
    mean_scale = [np.zeros_like(t["w"]) for t in tensors]
    for j in range(m):
        theta = [
            t["w"] + noise_factor * e / np.sqrt(t["h"]["num_data"] * t["s"])
            for t, e in zip(tensors, noise[j], strict=True)
        ]
        loss, g = gradient(j, theta)
        q = g
        if not one_gradient:
            moved = [t["w"] + t["h"]["rho"] * a / t["s"] for t, a in zip(tensors, g, strict=True)]
            loss, q = gradient(j, moved)
        losses.append(loss)
        for i, t in enumerate(tensors):
            mean_q[i] += q[i] / m
            mean_scale[i] += np.sqrt(t["s"]) * np.abs(g[i]) / m
    for t, q, scale in zip(tensors, mean_q, mean_scale, strict=True):
        h = t["h"]
        beta1, beta2 = h["betas"]
        t["gm"] = beta1 * t["gm"] + (1 - beta1) * (q + h["weight_decay"] * t["w"])
        s_new = beta2 * t["s"] + (1 - beta2) * (scale + h["weight_decay"] + h["damping"])
        divisor = s_new if order == "precision_first" else t["s"]
        t["w"] = t["w"] - h["lr"] * t["gm"] / divisor
        t["s"] = s_new
    return math.fsum(losses) / m


def sam_perturbation(weights, gradients, rho, adaptive=False):
    """The perturbation of SAM (rho g / |g|) or of ASAM (rho w^2 g / | |w| g |)."""
    scaled = [np.abs(w) * g if adaptive else g for w, g in zip(weights, gradients, strict=True)]
    norm = math.sqrt(math.fsum(float(x * x) for s in scaled for x in np.ravel(s)))
    if norm == 0.0:
        return [np.zeros_like(w) for w in weights]
    return [
        rho * (np.abs(w) if adaptive else 1.0) * s / norm
        for w, s in zip(weights, scaled, strict=True)
    ]


def sam_sgd_step(tensors, m, gradient, rho, adaptive=False):
    """One step of SAM over SGD with momentum, in place. Returns the mean loss."""
    losses = []
    mean_q = [np.zeros_like(t["w"]) for t in tensors]
    weights = [t["w"] for t in tensors]
    for j in range(m):
        _, g = gradient(j, weights)
        eps = sam_perturbation(weights, g, rho, adaptive)
        loss, q = gradient(j, [w + e for w, e in zip(weights, eps, strict=True)])
        losses.append(loss)
        mean_q = [a + b / m for a, b in zip(mean_q, q, strict=True)]
    for t, q in zip(tensors, mean_q, strict=True):
        h = t["h"]
        t["gm"] = h["momentum"] * t["gm"] + q + h["weight_decay"] * t["w"]
        t["w"] = t["w"] - h["lr"] * t["gm"]
    return math.fsum(losses) / m
