r"""Chains that are Markov given the data only: declared by their marginals and their steps back.

.. math:: q(x_1, \dots, x_T \mid x_0) = q(x_T \mid x_0) \prod_{k=2}^T q(x_{k-1} \mid x_k, x_0)

A model needs no more than that: its steps back imitate those given the data, and its bound is the
sum of their divergences. Without the data the state forgets in ways that depend on it, so there is
no law of :math:`x_t` given :math:`x_s` alone: `transition` is `Unsolved`.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from .chains import Stepwise
from .solve import Unsolved


class GivenData(Stepwise):
    """Steps that are declared given the data.

    Attributes:
        center: The datum from whose law at the last step runs start.
        markov: Whether, given the data, a state tells of earlier ones all that later ones told.
    """

    center: float
    markov: bool = True
    backward = True

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        raise Unsolved("this chain is declared by its steps given the data")
