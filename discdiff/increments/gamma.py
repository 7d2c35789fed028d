r"""The gamma increment, its innovation and the shares of its Lévy process."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma

from ..laws import Still, _RealLaw
from ..numerics.less import atan_less, log1m_less
from ..numerics.special import log1p_less, stirling_rest
from ..numerics.transcendental import log_kummer
from .base import Increment
from .cumulants import orders
from .draws import Reparameterised, gamma_draws, tensors
from .measured import reach_of
from .registry import standardises

LARGE = 64.0  # shapes of gamma laws from which their mass is far from the end of their support


class ShiftedGamma(Reparameterised):
    r"""The law of :math:`m + \theta g` with :math:`g \sim \Gamma(k, 1)`.

    At large k the end of the support is so far from where the mass is that the difference has few
    digits: there draws and densities go by the distance to the mean, in float64.

    Arguments:
        concentration: k.
        scale: θ > 0.
        start: m, the left end of the support.
        mean: :math:`m + \theta k`, where it is known better than as this sum.
    """

    def __init__(self, concentration: Any, scale: Any, start: Any, mean: Any = None) -> None:
        self.concentration, self.scale, self.start = tensors(concentration, scale, start)
        summed = self.start + self.scale * self.concentration
        self._mean: Tensor = summed if mean is None else torch.as_tensor(mean).to(summed)
        super().__init__(self.start.shape)

    @property
    def mean(self) -> Tensor:
        return self._mean.expand(self.start.shape)

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.concentration

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        k = self.concentration.expand(Size(sample_shape) + self.batch_shape).double()
        g = gamma_draws(k)
        far = torch.addcmul(self.start, self.scale, g.to(self.start))
        near = torch.addcmul(self._mean, self.scale, (g - k).to(self.start))
        return torch.where(k > LARGE, near, far)

    def _from_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""k and :math:`g / k - 1`, float64."""
        k = self.concentration.double()
        return k, (x.double() - self._mean.double()) / (self.scale.double() * k)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k, g = self.concentration, (x - self.start) / self.scale
        # What rounding cannot tell from the end of the support stands just within it.
        least = 4 * torch.finfo(g.dtype).eps * (x.abs() + self.start.abs()) / self.scale
        inside = g > -least
        safe = torch.where(inside, torch.maximum(g, least), torch.ones_like(g))
        value = (k - 1) * safe.log() - safe - torch.lgamma(k) - self.scale.log()
        value = torch.where(inside, value, torch.full_like(value, -torch.inf))
        return torch.where(k > LARGE, self._log_prob_near(x).to(value), value)

    def _log_prob_near(self, x: Tensor) -> Tensor:
        """The log-density where k is large: what cancels is left out."""
        k, z = self._from_mean(x)
        large, inside = k.clamp(min=LARGE), z > -1
        safe = torch.where(inside, z, 0.0)
        value = (large - 1) * log1p_less(safe) - safe - stirling_rest(large)
        value = value - (2 * math.pi * large).log() / 2 - self.scale.double().log()
        return torch.where(inside, value, -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        k, z = self._from_mean(value)
        g = (value.double() - self.start.double()) / self.scale.double()
        g = torch.where(k > LARGE, k * (1 + z), g).clamp(min=0)  # no mass lies to the left
        below = torch.special.gammainc(*torch.broadcast_tensors(k, g))
        return below.to(self.start.dtype)

    def entropy(self) -> Tensor:
        return TorchGamma(self.concentration, 1 / self.scale, validate_args=False).entropy()


class Share(pyro.Beta):
    """The beta law, of density 0 outside (0, 1)."""

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value > 0) & (value < 1)
        log_p = super().log_prob(torch.where(inside, value, torch.full_like(value, 0.5)))
        return torch.where(inside, log_p, -torch.inf)


class GammaShare(Reparameterised):
    r"""The law of :math:`m + w (B - \mathbb{E} B)` with :math:`B \sim \mathrm{Beta}(a, b)`.

    Of a gamma process given its total it is the law at a time between. Draws and densities are
    found in float64 around the mean, where large a and b leave the mass:

    .. math::
        \log f = a\, \ell(d / p) + b\, \ell(-d / q) - \log v (1 - v)
            + \tfrac12 \log \frac{a b}{2 \pi (a + b)} - \delta(a) - \delta(b) + \delta(a + b)
            - \log w,

    where :math:`v = p + d`, :math:`p = a / (a + b) = 1 - q`, :math:`\ell(z) = \log(1 + z) - z` and
    δ is what is left of Stirling's formula.

    Arguments:
        a, b: Positive, float64.
        width: w, not 0, float64.
        mean: m; the law's draws and densities are of its dtype.
    """

    def __init__(self, a: Tensor, b: Tensor, width: Tensor, mean: Tensor) -> None:
        self.a, self.b, self.width, self._mean = torch.broadcast_tensors(a, b, width, mean)
        super().__init__(self._mean.shape)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        total = self.a + self.b
        variance = self.width**2 * (self.a / total) * (self.b / total) / (total + 1)
        return variance.to(self._mean.dtype)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape) + self.batch_shape
        a, b = self.a.expand(shape), self.b.expand(shape)
        early, late, total = gamma_draws(a), gamma_draws(b), a + b
        large = ((early - a) * (b / total) - (late - b) * (a / total)) / (early + late)
        small = Share(a, b, validate_args=False).rsample() - a / total
        d = torch.where((a > LARGE) & (b > LARGE), large, small)
        return (self._mean.double() + self.width * d).to(self._mean.dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        a, b, width = self.a, self.b, self.width
        d, p, q = (x.double() - self._mean.double()) / width, a / (a + b), b / (a + b)
        small = Share(a, b, validate_args=False).log_prob(p + d)
        many, few = a.clamp(min=LARGE), b.clamp(min=LARGE)
        inside = (d > -p) & (d < q)
        d = torch.where(inside, d, 0.0)
        value = many * log1p_less(d / p) + few * log1p_less(-d / q) - ((p + d) * (q - d)).log()
        rest = stirling_rest(many + few) - stirling_rest(many) - stirling_rest(few)
        value = value + rest + (many * few / (2 * math.pi * (many + few))).log() / 2
        value = torch.where(inside, value, -torch.inf)
        value = torch.where((a > LARGE) & (b > LARGE), value, small) - width.abs().log()
        return value.to(self._mean.dtype)


class GammaInnovation(_RealLaw):
    r"""What is added to ρ times a Γ(k, θ) variable to make one: a compound law.

    .. math:: m + \rho \theta \, \Gamma(N), \qquad N \sim \mathrm{NegativeBinomial}(k, \rho),

    since :math:`\bigl( \frac{1 - i \rho v}{1 - i v} \bigr)^k = \bigl( \frac{\rho}
    {1 - (1 - \rho) / (1 - i \rho v)} \bigr)^k`. ``log_prob`` is against Lebesgue's measure plus
    one atom, of mass :math:`\rho^k`, at m.

    Arguments:
        concentration: k.
        scale: θ.
        rho: ρ, in (0, 1).
        start: m.
    """

    def __init__(self, concentration: Any, scale: Any, rho: Any, start: Any) -> None:
        self.concentration, self.scale, self.rho, self.start = tensors(
            concentration, scale, rho, start
        )
        super().__init__(self.start.shape)

    @property
    def mean(self) -> Tensor:
        return self.start + self.concentration * self.scale * (1 - self.rho)

    @property
    def variance(self) -> Tensor:
        return self.concentration * self.scale**2 * (1 - self.rho**2)

    @property
    def still(self) -> Still:
        return Still(self.start, self.concentration * self.rho.log())

    def _draw(self, shape: Size) -> Tensor:
        k = self.concentration.expand(shape + self.batch_shape)
        count = torch.poisson(gamma_draws(k) * (1 - self.rho) / self.rho)
        some = count > 0
        g = gamma_draws(torch.where(some, count, torch.ones_like(count)))
        return self.start + self.rho * self.scale * torch.where(some, g, torch.zeros_like(g))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k, width = self.concentration, self.rho * self.scale
        y, k, width, rho = torch.broadcast_tensors((x - self.start) / width, k, width, self.rho)
        inside = y > 0
        y = torch.where(inside, y, torch.ones_like(y))
        # Σ_n NegativeBinomial(n) y^{n−1} e^{−y} / Γ(n) = k (1−ρ) ρ^k e^{−y} ₁F₁(k + 1; 2; (1−ρ) y)
        value = log_kummer(k, (1 - rho) * y) + k.log() + torch.log1p(-rho) + k * rho.log() - y
        value = value - width.log()
        value = torch.where(inside, value, torch.full_like(value, -torch.inf))
        return torch.where(x == self.start, k * rho.log(), value)

    def cdf(self, value: Tensor) -> Tensor:
        y = (value - self.start) / (self.rho * self.scale)
        y, k, rho = torch.broadcast_tensors(y, self.concentration, self.rho)
        far = float((k * (1 - rho) / rho).max())
        deepest = 60 + int(far + 40 * math.sqrt(far / float(rho.min()) + 1) / float(rho.min()))
        n = torch.arange(1, deepest, dtype=y.dtype, device=y.device)
        k, rho = k.unsqueeze(-1), rho.unsqueeze(-1)
        weight = torch.lgamma(n + k) - torch.lgamma(k) - torch.lgamma(n + 1)
        weight = (weight + k * rho.log() + n * torch.log1p(-rho)).exp()
        each = torch.special.gammainc(*torch.broadcast_tensors(n, y.clamp(min=0).unsqueeze(-1)))
        below = (rho**k)[..., 0] + (weight * each).sum(-1)
        return torch.where(y < 0, torch.zeros_like(y), below)


@standardises(torch.distributions.Gamma)
class Gamma(Increment):
    r"""The gamma law, centred: :math:`\xi = (g - k) / \sqrt{k}`, :math:`g \sim \Gamma(k, 1)`.

    .. math:: \log \varphi(u) = -i u \sqrt{k} - k \log(1 - i u / \sqrt{k})

    Arguments:
        law: A gamma law; its ``concentration`` is k.
    """

    divisible, decomposable = True, True

    def __init__(self, law: torch.distributions.Gamma) -> None:
        self.shape = k = float(law.concentration)
        self.root = math.sqrt(k)
        self.means = (-self.root, math.inf)
        self.name = f"gamma ({k:g})"
        self.radius, self.domain = self.root, (-math.inf, self.root)
        self.fisher = k / (k - 2) if k > 2 else math.inf
        self.entropy = float(self._unit.entropy())
        self.reach = reach_of(self)

    def _log_cf(self, u: Tensor) -> Tensor:
        v = u / self.root  # −log(1 − iv) = −½ log(1 + v²) + i atan v
        return self.shape * torch.complex(-torch.log1p(v**2) / 2, atan_less(v))

    def _cumulants(self, order: int) -> list[float]:
        return [math.factorial(n - 1) * self.shape ** (1 - n / 2) for n in orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return self.shape * log1m_less(e / self.root)

    def _slope(self, e: Tensor) -> Tensor:
        return e / (1 - e / self.root)

    def _natural(self, m: Tensor) -> Tensor:
        return m / (1 + m / self.root)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return ShiftedGamma(self.shape, scale / self.root, loc - scale * self.root, loc)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        width = scale / (self.root - eta)
        mean = loc + width * (self.root * eta)
        return ShiftedGamma(self.shape, width, loc - scale * self.root, mean)

    def _log_mgf(self, z: Tensor) -> Tensor:
        return -self.shape * torch.log(1 - z / self.root) - z * self.root

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * (1 - rho)
        return GammaInnovation(self.shape, scale / self.root, rho, start)

    def crowding(self, tau: float) -> float:
        return self.shape * tau

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""Of a gamma process the share that has come is :math:`\mathrm{Beta}(k s, k (t - s))`."""
        width = total + self.root * t  # of all that has come
        return GammaShare(self.shape * s, self.shape * (t - s), width, (s / t).to(total) * total)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * tau
        return ShiftedGamma(self.shape * tau, scale / self.root, start, loc)


@standardises(torch.distributions.Exponential)
def _exponential(law: torch.distributions.Exponential) -> Gamma:
    return Gamma(torch.distributions.Gamma(torch.ones_like(law.rate), law.rate))


@standardises(torch.distributions.Chi2)
def _chi_squared(law: torch.distributions.Chi2) -> Gamma:
    return Gamma(law)
