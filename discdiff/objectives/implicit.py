r"""Implicit score matching: the loss without the score of the conditional law.

For diffusions, with :math:`G = B B^\top` and :math:`\hat s` what the head makes of the score, one
integration by parts turns the cross term of the loss into a divergence,

.. math::
    \mathbb{E}\, \tfrac12 \|B^\top (s - \hat s)\|^2
    = \mathbb{E}\big[ \tfrac12 \|B^\top \hat s\|^2 + \nabla \cdot (G \hat s) \big]
    + \mathbb{E}\, \tfrac12 \|B^\top s\|^2,
    \qquad
    \mathbb{E}\, s^\top G \hat s = -\mathbb{E}\, \nabla \cdot (G \hat s),

over :math:`x_t` given :math:`x_0`, with :math:`s = \nabla \log p_t(x_t \mid x_0)`. The last term
does not depend on the head, and the others need no law: only states at time t, which a
simulation gives. For jumps the same is done by summation by parts: see `score_entropy`.

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

from ..drawn import full_precision
from ..heads import Head
from ..numerics.autodiff import divergence, hutchinson
from ..process import Leaf, Process
from ..shapes import sum_event
from ..solve import Score
from ..terms import Diffusion, Jump, spread
from ..validation import require
from ..weights import Weight
from .objective import noisy_state, prepared, summed
from .score_entropy import score_entropy

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
    r"""The loss, less what no head can change, at one :math:`x_t` per element.

    .. math::
        \tfrac12 \|B^\top \hat s\|^2 + \nabla \cdot (B B^\top \hat s), \qquad
        \sum_y \big[ R(y, x)\, \hat s(x)_y - R(x, y) \log \hat s(y)_x \big]

    for drifts and diffusions, and for jumps.

    In the mean over :math:`x_t` it is `loss` less a term of the data's score alone,
    :math:`\mathbb{E}\, \tfrac12 \|B^\top \nabla \log p_t(x_t \mid x_0)\|^2` or
    :math:`\mathbb{E} \sum_y R(y, x)\, s (\log s - 1)`, for which no closed form is needed:
    `Field`, `StateNoise` and jumps with coupled rates have none. A process that is itself learned
    needs that term too: use `loss` there.

    Arguments:
        process: Any process.
        head: A network with a meaning: `heads.Score` for any diffusion, `heads.Conditional` and
            `heads.Ratio` for any categories, others where the process is solved.
        x_0: Data, shape (B, *event) or a dict.
        t: Times, a number or of shape () or (B,); `times` draws them.
        weight: A `weights` object; the likelihood's by default.
        context: Handed to the network.
        x_t: The noisy state; drawn from the marginal if not given, or simulated where none is
            known.
        probes: Number of Hutchinson probes for the divergence, or of draws of a jump, unbiased;
            0: the exact trace or sum, one backward pass per entry of the event or one network
            call per jump.
        steps: Euler–Maruyama steps from 0 to t, where :math:`x_t` is simulated.

    Returns:
        Shape (B,), in nats per unit of clock time, times the weight.

    Raises:
        ValueError: If data lie outside the support, or a shape does not fit.
        Unsolved: If the head does not determine the score.

    Example:
        >>> import discdiff as dd
        >>> process = dd.Field(lambda x, t: -(x**3)) + dd.Noise(1.0)
        >>> head = dd.heads.Score(lambda x, t: -2 * x)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> implicit_score_matching(process, head, x, 0.5, x_t=x)  # (4 + 16) / 2 − 2 − 2
        tensor([6.])
    """
    whole = isinstance(probes, int) and probes >= 0
    require(whole, f"probes must be an integer ≥ 0; it is {probes!r}")
    x_0, t, weight = prepared(process, head, x_0, t, weight)
    x, _ = noisy_state(process, x_0, t, x_t, steps)

    def rate(leaf: Leaf) -> Tensor:
        score = _score_of(head, leaf, x, t, context)
        if any(isinstance(term, Jump) for term in leaf.core.terms):
            return score_entropy(leaf, score, x, probes)
        return _rate(leaf, lambda y: score(y).gradient, x, probes)

    return summed(process, x, t, weight, rate)


def _score_of(
    head: Head, leaf: Leaf, x: State, t: Tensor, context: Any
) -> Callable[[Tensor], Score]:
    """The score of a leaf as a function of its own state, the rest of the state as it is."""
    exactly = full_precision(x)

    def score(y: Tensor) -> Score:
        estimate = head(leaf.put(x, y), t, context)
        with exactly:
            said = leaf.read(estimate)
            leaf.core.check_estimate(said, y)
            return leaf.score(said, y)

    return score


def _rate(leaf: Leaf, score: Callable[[Tensor], Tensor], x: State, probes: int) -> Tensor:
    """What a leaf adds, per unit of its own time, shape (B,)."""
    y = leaf.get(x)

    def mixed(y: Tensor, vector: Tensor) -> Tensor:
        each = (
            term.scale.to(y.dtype) * spread(term, vector, y, leaf.time)
            for term in leaf.core.terms
            if isinstance(term, Diffusion)
        )
        return leaf.still(sum(each, torch.zeros_like(vector)), x)

    field = lambda y: mixed(y, score(y))
    trace = hutchinson(field, y, probes)[0] if probes else divergence(field, y)
    value = score(y)
    return sum_event(value * mixed(y, value)) / 2 + trace
