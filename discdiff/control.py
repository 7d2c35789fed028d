r"""A control variate of the loss of linear diffusions: the data's own score, less its mean.

With :math:`s = \nabla \log p_t(x_t \mid x_0)` and :math:`G = B B^\top`, Stein's identity
:math:`\mathbb{E}\, s^\top G s = -\mathbb{E}\, \nabla \cdot (G s)` gives a term of mean zero at
every time,

.. math::
    \tfrac12 \|B^\top s\|^2 + \tfrac12 \nabla \cdot (G s), \qquad
    \nabla \cdot (G s) = -\operatorname{tr} G \Sigma_t^{-1},

the divergence being known, as s is linear in :math:`x_t`. What a head says of the score is
:math:`\hat s`, and the loss :math:`\tfrac12 \|B^\top (s - \hat s)\|^2` is the quadratic term
itself where :math:`\hat s = 0`: taking the variate away leaves the trace, without its draw.

References:
    | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .engines.affine import AffineEngine
from .estimates import Score
from .loss import kl_rate
from .process import Leaf, Process
from .shapes import sum_event
from .solve import Unsolved
from .validation import require
from .weights import NLL, Weight

State = Any


def require_control(process: Process, control: float | None) -> float:
    """The coefficient of the variate, 0 for none, after it was checked.

    Raises:
        ValueError: If it is no finite number.
        Unsolved: If a part of the process has no such variate.
    """
    if control is None:
        return 0.0
    number = isinstance(control, float | int) and math.isfinite(control)
    require(number, f"control must be a finite number; it is {control!r}")
    for leaf in process.leaves(process.instant(0.5)):
        if not isinstance(leaf.core.engine, AffineEngine):
            raise Unsolved(
                f"control: the variate is known for linear diffusions and their lifts, and "
                f"{leaf.core!r} is none. Way out: no control"
            )
    return float(control)


@torch.no_grad()
def variate(
    process: Process, x_0: State, x_t: State, t: Tensor, weight: Weight | None = None
) -> Tensor:
    """The variate at a state of the marginal, shape (B,), in nats per unit of clock time.

    It carries no gradient: that of its mean is zero.
    """
    weight, target = weight or NLL(), process.as_estimate(x_0)
    rates = [
        _of_leaf(leaf, leaf.read(target), x_t) * leaf.speed * weight(leaf)
        for leaf in process.leaves(t)
    ]
    return torch.stack(rates).sum(0)


def _of_leaf(leaf: Leaf, target: Any, x_t: State) -> Tensor:
    """What a leaf adds, per unit of its own time."""
    x, engine = leaf.get(x_t), leaf.core.engine
    assert isinstance(engine, AffineEngine)
    drawn = kl_rate(leaf, target, Score(torch.zeros_like(x)), x_t)
    return drawn - sum_event(leaf.still(engine.trace(x, leaf.time), x_t))
