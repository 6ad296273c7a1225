"""The same whole steps in JAX, written from the formulas as one writes them with optax.

Networks are pure functions of a dictionary whose keys are the PyTorch networks' names, images are
(n, height, width, channels), which XLA likes best on a CPU. A step is one jitted function whose
buffers are donated. Needs ``pip install jax optax``; imported by ``whole_steps.py`` alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import lax

EPSILON = 1e-6
Weights = dict[str, jax.Array]


# ------------------------------------------------------------------ networks


def mlp(w: Weights, x: jax.Array) -> jax.Array:
    """784-500-300-10 with ELU."""
    x = x.reshape(len(x), -1)
    x = jax.nn.elu(x @ w["1.weight"] + w["1.bias"])
    x = jax.nn.elu(x @ w["3.weight"] + w["3.bias"])
    return x @ w["5.weight"] + w["5.bias"]


def resnet20_frn(w: Weights, x: jax.Array) -> jax.Array:
    """ResNet-20 with filter response normalization."""
    x = _normalize(w, "1", _convolve(w, "0", x))
    for number in range(9):
        stride, block = 2 if number in (3, 6) else 1, str(2 + number)
        y = _normalize(w, f"{block}.residual.1", _convolve(w, f"{block}.residual.0", x, stride))
        y = _normalize(w, f"{block}.residual.3", _convolve(w, f"{block}.residual.2", y))
        shortcut = f"{block}.shortcut"
        x = y + (_convolve(w, shortcut, x, stride) if f"{shortcut}.weight" in w else x)
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 8, 8, width // 8, 8, channels).mean((2, 4))
    return x.reshape(n, -1) @ w["13.weight"] + w["13.bias"]


NETWORKS = {"MLP": mlp, "ResNet-20-FRN": resnet20_frn}


def _convolve(w: Weights, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    kernel = w[f"{name}.weight"]
    pad = (kernel.shape[0] // 2,) * 2
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + w[f"{name}.bias"]


def _normalize(w: Weights, name: str, x: jax.Array) -> jax.Array:
    power = jnp.mean(jnp.square(x), (1, 2), keepdims=True)
    y = x * (lax.rsqrt(power + EPSILON) * w[f"{name}.scale"]) + w[f"{name}.shift"]
    return jnp.maximum(y, w[f"{name}.threshold"])


# ------------------------------------------------------------------ steps

Batch = tuple[jax.Array, jax.Array]
Step = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]


class Bsam(NamedTuple):
    """Weights and state of bSAM; ``key`` is that of the noise."""

    mean: Weights
    exp_avg: Weights
    s: Weights
    key: jax.Array


class Plain(NamedTuple):
    """Weights and the state of an optax transformation."""

    mean: Weights
    state: Any


def sgd(lr: float, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """SGD as PyTorch defines it."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum))


def sgd_step(network: Callable[..., jax.Array], base: optax.GradientTransformation) -> Step:
    """Return a jitted step of SGD."""
    gradient = jax.value_and_grad(_loss_of(network))

    def step(now: Plain, x: jax.Array, y: jax.Array) -> tuple[Plain, jax.Array]:
        loss, g = gradient(now.mean, x, y)
        return _apply(base, now, g), loss

    return jax.jit(step, donate_argnums=0)


def sam_step(
    network: Callable[..., jax.Array], base: optax.GradientTransformation, rho: float
) -> Step:
    """Return a jitted step of SAM."""
    gradient = jax.value_and_grad(_loss_of(network))

    def step(now: Plain, x: jax.Array, y: jax.Array) -> tuple[Plain, jax.Array]:
        _, g = gradient(now.mean, x, y)
        length = rho / optax.global_norm(g)
        uphill = jax.tree.map(lambda w, each: w + length * each, now.mean, g)
        loss, g = gradient(uphill, x, y)
        return _apply(base, now, g), loss

    return jax.jit(step, donate_argnums=0)


def bsam_step(
    network: Callable[..., jax.Array],
    *,
    lr: float,
    num_data: float,
    rho: float,
    betas: tuple[float, float],
    weight_decay: float,
    damping: float,
    sub_batches: int = 1,
    form: str = "unrolled",
) -> Step:
    """Return a jitted step of bSAM.

    Args:
        network: a pure function of weights and images.
        lr: as :class:`bsam.BSAM`'s, as are the next five.
        num_data: infinity leaves the noise out of the program.
        rho: size of the perturbation.
        betas: of the momentum and of s.
        weight_decay: prior precision / N.
        damping: added to it in s.
        sub_batches: what the batch is cut into.
        form: how these follow each other: ``"vmap"`` takes all at once, with perturbed weights for
            each; ``"scan"`` is a loop in the program; ``"unrolled"`` is the loop written out.
    """
    gradient = jax.value_and_grad(_loss_of(network))

    def pair(now: Bsam, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, Any, Any]:
        theta = now.mean
        if num_data != float("inf"):
            noise = _normal_like(now.mean, key)
            theta = jax.tree.map(
                lambda w, s, e: w + e * lax.rsqrt(num_data * s), now.mean, now.s, noise
            )
        _, g = gradient(theta, x, y)
        uphill = jax.tree.map(lambda w, each, s: w + rho * each / s, now.mean, g, now.s)
        loss, q = gradient(uphill, x, y)
        return loss, q, jax.tree.map(lambda each, s: jnp.sqrt(s) * jnp.abs(each), g, now.s)

    def averaged(now: Bsam, keys: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, Any, Any]:
        if sub_batches == 1:
            return pair(now, keys[0], x, y)
        xs = x.reshape(sub_batches, -1, *x.shape[1:])
        ys = y.reshape(sub_batches, -1)
        if form == "vmap":
            each = jax.vmap(pair, (None, 0, 0, 0))(now, keys, xs, ys)
            return jax.tree.map(lambda values: values.mean(0), each)

        def one(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, pair(now, *part)), None

        zeros = jax.tree.map(jnp.zeros_like, now.mean)
        total = (jnp.zeros((), x.dtype), zeros, zeros)
        unroll = sub_batches if form == "unrolled" else 1
        total, _ = lax.scan(one, total, (keys, xs, ys), unroll=unroll)
        return jax.tree.map(lambda values: values / sub_batches, total)

    def step(now: Bsam, x: jax.Array, y: jax.Array) -> tuple[Bsam, jax.Array]:
        key, *keys = jax.random.split(now.key, sub_batches + 1)
        loss, q, scales = averaged(now, jnp.stack(keys), x, y)
        exp_avg = jax.tree.map(
            lambda m, g, w: betas[0] * m + (1 - betas[0]) * (g + weight_decay * w),
            now.exp_avg,
            q,
            now.mean,
        )
        s = jax.tree.map(
            lambda old, a: betas[1] * old + (1 - betas[1]) * (a + weight_decay + damping),
            now.s,
            scales,
        )
        mean = jax.tree.map(lambda w, m, each: w - lr * m / each, now.mean, exp_avg, s)
        return Bsam(mean, exp_avg, s, key), loss

    return jax.jit(step, donate_argnums=0)


def _loss_of(network: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def loss(w: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(network(w, x), y).mean()

    return loss


def _apply(base: optax.GradientTransformation, now: Plain, gradient: Weights) -> Plain:
    updates, state = base.update(gradient, now.state, now.mean)
    return Plain(optax.apply_updates(now.mean, updates), state)


def _normal_like(tree: Weights, key: jax.Array) -> Weights:
    """Draw for all leaves at once: one draw each takes XLA minutes to compile for a hundred."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),), leaves[0].dtype), ends[:-1])
    shaped = [piece.reshape(leaf.shape) for piece, leaf in zip(drawn, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


# ------------------------------------------------------------------ from PyTorch and back


def weights_of(model: torch.nn.Module) -> Weights:
    """Return copies of a model's weights in JAX's layout."""
    return {name: jnp.array(_turned(p.detach())) for name, p in model.named_parameters()}


def differences(w: Weights, model: torch.nn.Module) -> float:
    """Return the largest absolute difference between weights here and a model's."""
    pairs = ((np.asarray(w[name]), _turned(p.detach())) for name, p in model.named_parameters())
    return max(float(np.abs(here - there).max()) for here, there in pairs)


def images_of(x: torch.Tensor) -> jax.Array:
    """Return images with their channels last."""
    return jnp.array(x.permute(0, 2, 3, 1).contiguous().numpy())


def new_plain(w: Weights, base: optax.GradientTransformation) -> Plain:
    """Return the state before the first step."""
    return Plain(w, base.init(w))


def new_bsam(w: Weights, s_init: float = 1.0, prng: str | None = None) -> Bsam:
    """Return the state before the first step.

    Args:
        w: weights.
        s_init: s at the start.
        prng: JAX's name of the generator; None is its default.
    """
    s = jax.tree.map(lambda each: jnp.full_like(each, s_init), w)
    return Bsam(w, jax.tree.map(jnp.zeros_like, w), s, jax.random.key(0, impl=prng))


def finished(result: Any) -> Any:
    """Wait until all of a result is computed."""
    return jax.block_until_ready(result)


def in_float64() -> Any:
    """Return the context in which JAX computes with float64."""
    return jax.enable_x64(True)


def _turned(p: torch.Tensor) -> np.ndarray:
    if p.dim() == 4:  # (out, in, height, width) to (height, width, in, out)
        p = p.permute(2, 3, 1, 0)
    elif p.dim() == 2:  # (out, in) to (in, out)
        p = p.T
    elif p.dim() == 3:  # (channels, 1, 1) to (channels,)
        p = p.flatten()
    return p.contiguous().numpy().copy()
