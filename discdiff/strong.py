r"""Diffusions with noise that acts entry by entry, by a stochastic Runge–Kutta method.

For :math:`dx = f(x, t)\, dt + g(x, t)\, dW` in the sense of Itô, paths are right to the strong
order 3/2 in the step, where Euler–Maruyama's are to 1/2. The method is torchsde's ``srk``.

References:
    | Runge–Kutta methods for the strong approximation of solutions of stochastic differential
      equations (Rößler, 2010)
    | Scalable gradients for stochastic differential equations (Li et al., 2020)
"""

from __future__ import annotations

from typing import Any

import torch
import torchsde
from torch import Tensor

from .solve import Unsolved
from .terms import Drift, WhiteNoise


class Entrywise:
    """The drift and the noise of a sum of terms, on states flattened to (B, n)."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, terms: tuple[Any, ...], shape: torch.Size) -> None:
        self.terms, self.shape = terms, shape

    def _at(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.reshape(self.shape), t.double().expand(self.shape[0])

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift."""
        x, time = self._at(t, y)
        drifts = [v for v in self.terms if isinstance(v, Drift)]
        each = [v.scale.to(x.dtype) * v.velocity(x, time) for v in drifts]
        return sum(each, torch.zeros_like(x)).reshape(y.shape)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The noise; that of several terms adds up in squares, which is the same law."""
        x, time = self._at(t, y)
        noises = [v for v in self.terms if not isinstance(v, Drift)]
        each = [v.scale.to(x.dtype).sqrt() * v.mix(torch.ones_like(x), x, time) for v in noises]
        total = each[0] if len(each) == 1 else torch.stack(each).square().sum(0).sqrt()
        return total.reshape(y.shape)


def runge_kutta(terms: tuple[Any, ...], x: Tensor, start: float, end: float, steps: int) -> Tensor:
    """The state at an own time from that at an earlier one, in so many steps.

    Raises:
        Unsolved: If there is no noise, or it mixes entries.
    """
    noises = [term for term in terms if not isinstance(term, Drift)]
    if not noises or any(isinstance(v, WhiteNoise) and v.is_matrix() for v in noises):
        raise Unsolved("strong steps are for noise that acts entry by entry: leave strong out")
    if start == end:
        return x
    times = torch.tensor([start, end], dtype=x.dtype, device=x.device)
    sde, flat = Entrywise(terms, x.shape), x.reshape(x.shape[0], -1)
    found = torchsde.sdeint(sde, flat, times, method="srk", dt=(end - start) / steps)
    return found[-1].reshape(x.shape)
