r"""Beta diffusion: marginals and steps back are Beta laws.

.. math::
    z_t \mid x_0 \sim \mathrm{Beta}(\eta \alpha_t x_0, \eta (1 - \alpha_t x_0)), \qquad
    \frac{z_s - z_t}{1 - z_t} \Big| z_t, x_0 \sim \mathrm{Beta}(\eta (\alpha_s - \alpha_t) x_0,
        \eta (1 - \alpha_s x_0)).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Beta, Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import logsigmoid

from .. import laws
from ..beta_chain import BetaSteps
from ..increments.draws import log_gamma_draws
from ..numerics.transcendental import incomplete_beta
from ..shapes import along
from ..solve import solves
from .given_data import GivenDataEngine


class Risen(laws._Law):
    r"""The law of :math:`z + (1 - z)\, p` with :math:`p \sim \mathrm{Beta}(a, b)`.

    Where a is small, many draws are nearer to z than its next number, and are rounded to z itself.
    So ``log_prob`` is against Lebesgue's measure plus an atom at z, of what is rounded there.

    Arguments:
        start: z, in [0, 1); 0 gives the Beta law itself.
        a: Positive, float64.
        b: Positive, float64.
    """

    def __init__(self, start: Tensor, a: Tensor, b: Tensor) -> None:
        self.start, self.a, self.b = torch.broadcast_tensors(start, a, b)
        super().__init__(self.start.shape)

    @property
    def beta(self) -> Beta:
        """The law of p."""
        return Beta(self.a, self.b, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.unit_interval

    @property
    def mean(self) -> Tensor:
        return torch.lerp(
            self.start.double(), self.start.new_ones(()).double(), self.beta.mean
        ).to(self.start)

    @property
    def variance(self) -> Tensor:
        return ((1 - self.start.double()) ** 2 * self.beta.variance).to(self.start)

    def _draw(self, shape: Size) -> Tensor:
        log_odds = log_gamma_draws(self.a, shape) - log_gamma_draws(self.b, shape)
        p = logsigmoid(log_odds).exp()  # a sigmoid would lose what is below e^{−709}
        return (self.start + (1 - self.start) * p).to(self.start.dtype)

    def _share(self, x: Tensor) -> Tensor:
        start = self.start.double()
        return (x.double() - start) / (1 - start)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        p, a, b = self._share(x), self.a, self.b
        norm = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        inside = (p >= 0) & (p <= 1)
        safe = torch.where(inside, p, 0.5)
        value = torch.xlogy(a - 1, safe) + torch.special.xlog1py(b - 1, -safe) - norm
        value = torch.where(inside, value - torch.log1p(-self.start.double()), -torch.inf)
        return torch.where(p == 0, self._log_rounded(norm), value).to(self.start.dtype)

    def _log_rounded(self, norm: Tensor) -> Tensor:
        r""":math:`\log P(p < \delta) = a \log \delta - \log(a B(a, b))`, δ half the next step."""
        start = self.start.detach()
        step = (torch.nextafter(start, torch.ones_like(start)) - start).double()
        log_half = step.log() - math.log(2) - torch.log1p(-start.double())
        return self.a * log_half - self.a.log() - norm

    def cdf(self, x: Tensor) -> Tensor:
        r""":math:`P(z + (1 - z) p \le x)`."""
        return incomplete_beta(self.a, self.b, self._share(x).clamp(0, 1)).to(self.start.dtype)


@register_kl(Risen, Risen)
def _kl_risen(p: Risen, q: Risen) -> Tensor:
    """That of the two Beta laws; from another start q lacks states of p, or is told apart."""
    value = kl_divergence(p.beta, q.beta)
    return torch.where(p.start == q.start, value, torch.inf).to(p.start.dtype)


@solves(BetaSteps)
class BetaDiffusion(GivenDataEngine):
    """Beta laws forward and backward, given the data."""

    technique = "closed form: Beta"

    def kept(self, k: Tensor, x: Tensor) -> Tensor:
        r""":math:`\alpha_k` at k ≥ 1, against x, float64."""
        return along(self.term.kept[k - 1], x, torch.float64)

    def noisy(self, x_0: Tensor, k: Tensor) -> Distribution:
        mean = self.kept(k, x_0) * x_0.double()
        eta = self.term.concentration
        return Risen(torch.zeros_like(x_0), eta * mean, eta * (1 - mean))

    def between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        early, late, eta = self.kept(s, x), self.kept(t, x), self.term.concentration
        x_0 = x_0.double()
        return Risen(x, eta * (early - late) * x_0, eta * (1 - early * x_0))

    def possible(self, x_0: Tensor) -> tuple[Tensor, str]:
        return (x_0 > 0) & (x_0 < 1), "lie in (0, 1)"

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r""":math:`\mathrm{Beta}(\eta \hat x_0, \eta (1 - \hat x_0))`, as wide as the noise."""
        x_0, eta = self.mean(estimate), self.term.concentration
        law = Risen(torch.zeros_like(x_0), eta * x_0.double(), eta * (1 - x_0.double()))
        return law.to_event(x.dim() - 1)
