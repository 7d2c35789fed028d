r"""Implicit score matching: the loss of a diffusion without the score of its conditional law.

With :math:`G = B B^\top` and :math:`\hat s` what the head makes of the score, one integration by
parts turns the cross term of the loss into a divergence,

.. math::
    \mathbb{E}\, \tfrac12 \|B^\top (s - \hat s)\|^2
    = \mathbb{E}\big[ \tfrac12 \|B^\top \hat s\|^2 + \nabla \cdot (G \hat s) \big]
    + \mathbb{E}\, \tfrac12 \|B^\top s\|^2,
    \qquad
    \mathbb{E}\, s^\top G \hat s = -\mathbb{E}\, \nabla \cdot (G \hat s),

over :math:`x_t` given :math:`x_0`, with :math:`s = \nabla \log p_t(x_t \mid x_0)`. The last term
does not depend on the head, and the others need no law: only states at time t, which a
simulation gives.

References:
    | Estimation of non-normalized statistical models by score matching (Hyvärinen, 2005)
    | A connection between score matching and denoising autoencoders (Vincent, 2011)
    | Sliced score matching (Song et al., 2019)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .heads import Head, require_head
from .loss import full_precision
from .numerics.autodiff import divergence, hutchinson
from .process import Leaf, Process, first_tensor, map_state, require_process, require_shape
from .shapes import sum_event
from .simulate import advance
from .solve import Unsolved
from .terms import Diffusion, Drift
from .validation import require
from .weights import NLL, Weight

State = Any


def implicit_score_matching(
    process: Process,
    head: Head,
    x_0: State,
    t: float | Tensor,
    *,
    weight: Weight | None = None,
    context: Any = None,
    x_t: State | None = None,
    probes: int = 0,
    steps: int = 64,
) -> Tensor:
    r"""The loss of a diffusion, less what no head can change, at one :math:`x_t` per element.

    .. math:: \tfrac12 \|B^\top \hat s\|^2 + \nabla \cdot (B B^\top \hat s)

    In the mean over :math:`x_t` it is `loss` less :math:`\mathbb{E}\, \tfrac12 \|B^\top \nabla
    \log p_t(x_t \mid x_0)\|^2`, for which no closed form is needed: `Field` and `StateNoise` have
    none. A process that is itself learned needs that term too: use `loss` there.

    Arguments:
        process: A process of drifts and diffusions.
        head: A network with a meaning: `heads.Score` for any process, others where it is solved.
        x_0: Data, shape (B, *event) or a dict.
        t: Times, a number or of shape () or (B,); `times` draws them.
        weight: A `weights` object; the likelihood's by default.
        context: Handed to the network.
        x_t: The noisy state; drawn from the marginal if not given, or simulated where none is
            known.
        probes: Number of Hutchinson probes for the divergence, unbiased; 0: the exact trace, one
            backward pass per entry of the event.
        steps: Euler–Maruyama steps from 0 to t, where :math:`x_t` is simulated.

    Returns:
        Shape (B,), in nats per unit of clock time, times the weight.

    Raises:
        ValueError: If data lie outside the support, or a shape does not fit.
        Unsolved: If a part jumps, or the head does not determine the score.

    Example:
        >>> import discdiff as dd
        >>> process = dd.Field(lambda x, t: -(x**3)) + dd.Noise(1.0)
        >>> head = dd.heads.Score(lambda x, t: -2 * x)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> implicit_score_matching(process, head, x, 0.5, x_t=x)  # (4 + 16) / 2 − 2 − 2
        tensor([6.])
    """
    require_head(head)
    weight = weight or NLL()
    require(isinstance(weight, Weight), f"weight must be of dd.weights; it is {weight!r}")
    require(probes >= 0, f"probes must be ≥ 0; it is {probes}")
    require_process(process)
    x_0 = process.check_data(x_0, "x_0")
    t = process.check_time(t, x_0, "t")
    x = _noisy(process, x_0, t, x_t, steps)
    total = torch.zeros_like(t).to(first_tensor(x).dtype)
    for leaf in process.leaves(t):
        _require_diffusion(leaf)
        score = _score_of(head, leaf, x, t, context)
        total = total + _rate(leaf, score, x, probes) * (leaf.speed * weight(leaf)).to(total)
    return total


def _noisy(process: Process, x_0: State, t: Tensor, x_t: State | None, steps: int) -> State:
    """The noisy state: given, drawn, or simulated where the marginal is not known."""
    if x_t is not None:
        x_t = process.check_state(x_t, "x_t")
        require_shape(x_t, process.state_shape(map_state(lambda v: v.shape, x_0)), "x_t")
        return x_t
    try:
        return process._perturb(x_0, t)[0]
    except Unsolved:
        return advance(process, x_0, torch.zeros_like(t), t, steps)


def _require_diffusion(leaf: Leaf) -> None:
    """Raises unless a leaf moves and spreads, and does not jump."""
    jumps = [term for term in leaf.core.terms if not isinstance(term, Drift | Diffusion)]
    if jumps:
        raise Unsolved(
            f"implicit score matching is for drifts and diffusions; {type(jumps[0]).__name__} "
            "jumps. Way out: loss, or ratio matching"
        )


def _score_of(
    head: Head, leaf: Leaf, x: State, t: Tensor, context: Any
) -> Callable[[Tensor], Tensor]:
    """The score of a leaf as a function of its own state, the rest of the state as it is."""
    exactly = full_precision(x)

    def score(y: Tensor) -> Tensor:
        estimate = head(leaf.put(x, y), t, context)
        with exactly:
            return leaf.score(leaf.read(estimate), y).gradient

    return score


def _rate(leaf: Leaf, score: Callable[[Tensor], Tensor], x: State, probes: int) -> Tensor:
    """What a leaf adds, per unit of its own time, shape (B,)."""
    y = leaf.get(x)

    def spread(y: Tensor, vector: Tensor) -> Tensor:
        each = (
            term.scale.to(y.dtype) * term.mix(term.unmix(vector, y, leaf.time), y, leaf.time)
            for term in leaf.core.terms
            if isinstance(term, Diffusion)
        )
        return leaf.still(sum(each, torch.zeros_like(vector)), x)

    field = lambda y: spread(y, score(y))
    trace = hutchinson(field, y, probes)[0] if probes else divergence(field, y)
    value = score(y)
    return sum_event(value * spread(y, value)) / 2 + trace
