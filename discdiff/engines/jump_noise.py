r"""Jumps under a linear drift, drawn jump by jump.

.. math::
    Z_\tau = \sum_{n \le N} e^{a R_n} J_n - m\, \lambda \int_0^\tau e^{a r} dr
        + \sigma \Big( \int_0^\tau e^{2 a r} dr \Big)^{1/2} G, \qquad
    N \sim \mathrm{Poisson}(\lambda \tau), \quad R_n \sim U(0, \tau),

with J the jumps of mean m. Draws need no table, however many times a batch has; the table of a
time is made when a density is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from .. import laws
from ..increments import Compound
from ..increments.compound import total
from ..shapes import along
from ..tabulated import Tabulated


class JumpNoise(laws._RealLaw):
    r"""The law of :math:`\mathrm{loc} + Z_\tau`, entry by entry.

    Arguments:
        loc: Any shape (B, *event).
        deviation: The standard deviation of :math:`Z_\tau`, (B,).
        tau: τ in units of the declared rate, (B,).
        integrals: :math:`\int_0^\tau e^{ar} dr` and :math:`\int_0^\tau e^{2ar} dr`, (B,) each.
        drift: a, per unit of τ.
        unit: The factor from the increment's jumps to those of the noise.
        increment: The jumps.
        tabulated: Makes the table.
    """

    def __init__(
        self,
        loc: Tensor,
        deviation: Tensor,
        tau: Tensor,
        integrals: tuple[Tensor, Tensor],
        drift: float,
        unit: float,
        increment: Compound,
        tabulated: Callable[[], Tabulated],
    ) -> None:
        self.loc, self.deviation, self.tau, self.integrals = loc, deviation, tau, integrals
        self.drift, self.unit, self.increment = drift, unit, increment
        self._make: Callable[[], Tabulated] = tabulated
        self._table: Tabulated | None = None
        super().__init__(loc.shape)

    @property
    def table(self) -> Tabulated:
        """The law as a table."""
        if self._table is None:
            self._table = self._make()
        return self._table

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return along(self.deviation**2, self.loc).expand_as(self.loc)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.table.log_prob(x)

    def cdf(self, x: Tensor) -> Tensor:
        r""":math:`P(\mathrm{loc} + Z_\tau \le x)`."""
        return self.table.cdf(x)

    def _draw(self, shape: Size) -> Tensor:
        law, shape = self.increment, shape + self.loc.shape
        tau = along(self.tau, self.loc).expand(shape)
        first, second = (along(v, self.loc) for v in self.integrals)
        count = torch.poisson(law.rate * tau)
        many = Size((int(count.max()) if count.numel() else 0,)) + shape
        jumps = law.jump.sample(many).to(self.loc)
        kept = (self.drift * tau * torch.rand_like(jumps)).exp()
        drawn = total(kept * jumps, count) - law.rate * law.jump_mean * first
        drawn = drawn + law.noise * second.sqrt() * torch.randn_like(count)
        return self.loc + self.unit * drawn


@register_kl(JumpNoise, Distribution)
def _kl_jumps(p: JumpNoise, q: Distribution) -> Tensor:
    return kl_divergence(p.table, q)
