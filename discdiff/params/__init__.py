r"""Declared numbers: how a process holds them, and how they become learnable.

A declared number is float64 and stays so: the mathematics of a process runs in float64 whatever
the dtype of the data. It may be a tensor that requires grad (then the graph is kept), or an
``nn.Parameter``.

`learn` makes a number v the image of free reals u under the constraint that its class states,

.. math:: v = T(u), \qquad u = T^{-1}(v_{\mathrm{declared}}),

with T from :func:`torch.distributions.transform_to`. Constraints that torch lacks are here:

.. math::
    \text{rate matrix: } Q_{xy} = e^{u_{xy}}, \; Q_{xx} = -\sum_{y \ne x} Q_{xy}, \qquad
    \text{increasing: } v_0 = 0, \; v_k = \sum_{j < k} e^{u_j}, \qquad
    \text{signed: } v = \pm e^u.

Learning changes numbers and keeps structure, which engines read once: what is zero at declaration
(a rate, a probability of the replacement law, a drift) stays zero.
"""

from .constraints import (
    Factor,
    Fixed,
    Increasing,
    Rates,
    Semidefinite,
    Signed,
    Skew,
    Sparse,
    Stochastic,
    Structured,
    definite,
    factor,
    fixed,
    increasing,
    nonnegative,
    probabilities,
    rate_matrix,
    semidefinite,
    signed,
    skew,
    sparse,
    stochastic,
)
from .declared import Declared, Versions, as_numbers, changes, declare, once_each
from .learn import Image, learn
from .transforms import LogRates, LogSteps, RowSoftmax, Scatter, SignedExp, SkewPart, Square

__all__ = [
    "Declared",
    "Factor",
    "Fixed",
    "Image",
    "Increasing",
    "LogRates",
    "LogSteps",
    "Rates",
    "RowSoftmax",
    "Scatter",
    "Semidefinite",
    "Signed",
    "SignedExp",
    "Skew",
    "SkewPart",
    "Sparse",
    "Square",
    "Stochastic",
    "Structured",
    "Versions",
    "as_numbers",
    "changes",
    "declare",
    "definite",
    "factor",
    "fixed",
    "increasing",
    "learn",
    "nonnegative",
    "once_each",
    "probabilities",
    "rate_matrix",
    "semidefinite",
    "signed",
    "skew",
    "sparse",
    "stochastic",
]
