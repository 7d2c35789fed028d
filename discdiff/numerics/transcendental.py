r"""Functions of mathematical physics that torch lacks, in float64.

.. math::
    \log \Gamma(z), \qquad
    K_a(z) = \int_0^\infty e^{-z \cosh t} \cosh(a t) \, \mathrm{d}t, \qquad
    I_x(a, b) = \frac{1}{B(a, b)} \int_0^x w^{a - 1} (1 - w)^{b - 1} \, \mathrm{d}w, \qquad
    \log \frac{\sinh z}{z}, \qquad \coth z - \frac{1}{z}.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EULER = 0.57721566490153286061  # minus the derivative of Γ at 1

# Stirling's series: log Γ(z) = (z − ½) log z − z + ½ log 2π + Σ_k B_{2k} / (2k (2k−1) z^{2k−1})
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)
_TOGETHER = 1 << 15  # numbers at once: what fits a cache
_SHIFT = 12  # at |z| ≥ 12 the next term of the series is below 1e-18
_ODD = tuple(1 / math.factorial(2 * k + 1) for k in range(12))
_NEWTON, _LARGE = 4, 1e15
_STEEP = tuple(2 * k / math.factorial(2 * k + 1) for k in range(1, 13))


def log_gamma(z: Tensor) -> Tensor:
    r""":math:`\log \Gamma(z)` for complex z of positive real part, continuous there and real on ℝ.

    Stirling's series after twelve steps of :math:`\Gamma(z + 1) = z \Gamma(z)`; relative error of
    Γ about 1e-14.

    Example:
        >>> log_gamma(torch.tensor([5.0 + 0.0j, 1.0 + 1.0j], dtype=torch.complex128)).real
        tensor([ 3.1781, -0.6509], dtype=torch.float64)
    """
    steps = torch.arange(_SHIFT, dtype=torch.float64, device=z.device)
    before = (z.unsqueeze(-1) + steps).log().sum(-1)
    w = z + _SHIFT
    rest = horner(_STIRLING, 1 / w**2) / w
    return (w - 0.5) * w.log() - w + math.log(2 * math.pi) / 2 + rest - before


def log_gamma_ratio(w: Tensor) -> Tensor:
    r""":math:`\log \Gamma(1 - w) - \gamma w`, with small relative error at small w.

    .. math:: \log \Gamma(1 - w) - \gamma w = \sum_{k \ge 2} \frac{\zeta(k)}{k} w^k

    Example:
        >>> log_gamma_ratio(torch.tensor([1e-8 + 0.0j], dtype=torch.complex128)).real / 1e-16
        tensor([0.8225], dtype=torch.float64)
    """
    small = w.abs() < 0.4
    near = torch.where(small, w, torch.zeros_like(w))
    k = torch.arange(2, 42, dtype=torch.float64)
    series = near**2 * horner(tuple((zeta(k) / k).tolist()), near)  # next: 0.4⁴² < 1e-16
    far = torch.where(small, torch.full_like(w, -1.0), w)
    return torch.where(small, series, log_gamma(1 - far) - EULER * far)


def zeta(k: Tensor) -> Tensor:
    """Riemann's ζ at real k > 1.

    Example:
        >>> zeta(torch.tensor([2.0]))
        tensor([1.6449])
    """
    return torch.special.zeta(k, torch.ones_like(k))


def log_bessel_k(order: Tensor, z: Tensor) -> Tensor:
    r""":math:`\log K_a(z)` of real order a and z > 0, by the trapezoidal rule.

    .. math::
        K_a(z) = \tfrac12 e^{a c - r} \int e^{\psi(x)} \, \mathrm{d}x, \qquad
        \psi(x) = -(r - a) (\cosh x - 1) - a (e^x - 1 - x),

    from the peak :math:`c = \operatorname{asinh}(a / z)` on, with :math:`r^2 = a^2 + z^2`. The
    integrand is entire: the rule of step :math:`2 \pi / w` is off by the fraction
    :math:`2 e^{-w \theta} K_a(z \cos \theta) / K_a(z)` at most, of whatever θ in (0, π/2) is
    best. Accurate to 1e-14 of the largest of 1, a, z and the value, for :math:`z \ge 10^{-100}`.

    Example:
        >>> log_bessel_k(torch.tensor(0.5).double(), torch.tensor(2.0).double()).exp()
        tensor(0.1199, dtype=torch.float64)
    """
    a, z = torch.broadcast_tensors(order.abs(), z)
    if not z.numel():
        return z
    shape, each = z.shape, (a.reshape(-1), z.reshape(-1))
    each = *each, *_nodes(*(v.detach() for v in each))
    if z.numel() * int(each[-1].max()) <= _TOGETHER:
        return _log_bessel_k(*each).reshape(shape)
    rank = each[-1].argsort()  # neighbours need equally many nodes
    sizes = _sizes(each[-1][rank].tolist())
    parts = zip(*(v[rank].split(sizes) for v in each), strict=True)
    return torch.cat([_log_bessel_k(*part) for part in parts])[rank.argsort()].reshape(shape)


def bessel_range(a: Tensor, rest: Tensor, fall: float) -> tuple[Tensor, Tensor]:
    r"""How far left and right of its peak ψ of `log_bessel_k` has fallen by so much.

    There it has fallen by up to 2.2 times as much, as closed bounds are taken.

    Arguments:
        a: a ≥ 0.
        rest: :math:`r - a > 0`.
        fall: Positive.
    """
    q = fall / a  # e^{−x} − 1 + x ≥ x² / (2 + x), and e^x − 1 − x ≥ cosh x − 1
    left = torch.minimum(_even(fall / rest), (q + (q * (q + 8)).sqrt()) / 2)
    return left, _even(fall / (a + rest))


def _even(y: Tensor) -> Tensor:
    r""":math:`\operatorname{acosh}(1 + y)`, also for y tiny and huge."""
    y = y / 2
    return 2 * torch.log1p(y.sqrt() + y / (1 + (1 + y).sqrt()))


def _nodes(a: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where ψ ≥ −38 begins, how wide that is (or a little more), and how many steps it takes."""
    r = torch.hypot(a, z)
    left, right = bessel_range(a, (z * (z / (r + a))).clamp(min=1e-300), 38.0)
    # w² = 940 + 75 R is enough at R = r + ½ ≥ −d log K / d log z: there 2 e^{…} < 1e-16
    count = ((left + right) * (75 * r + 978).sqrt() / (2 * math.pi)).ceil()
    return left, left + right, count.nan_to_num(1.0, posinf=1.0).clamp(min=1.0)


def _sizes(counts: list[float]) -> list[int]:
    """Of neighbours that together fit a cache, from increasing numbers of nodes."""
    sizes, first = [], 0
    while first < len(counts):
        sizes.append(min(math.ceil(_TOGETHER / counts[first]), len(counts) - first))
        first += sizes[-1]
    return sizes


def _log_bessel_k(a: Tensor, z: Tensor, left: Tensor, width: Tensor, counts: Tensor) -> Tensor:
    r, count = torch.hypot(a, z), int(counts.max())
    peak = a * torch.asinh(a / z) - r
    steps = torch.linspace(0.0, 1.0, count + 1, dtype=z.dtype, device=z.device)
    x = torch.addcmul(-left.unsqueeze(-1), width.unsqueeze(-1), steps)
    # ψ = r + a x − (r + a) e^x / 2 − (r − a) e^{−x} / 2
    both, grown = ((r + a) / 2).unsqueeze(-1), x.exp()
    rest = (z / 2 * (z / (r + a))).unsqueeze(-1)
    exponent = torch.addcmul(r.unsqueeze(-1), a.unsqueeze(-1), x)
    exponent = exponent.addcmul(-both, grown).addcdiv(-rest, grown)
    return peak + exponent.exp().sum(-1).log() + (width / (2 * count)).log()


def incomplete_beta(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    r"""The regularised incomplete beta function :math:`I_x(a, b)`, by its continued fraction.

    Example:
        >>> half = torch.tensor(0.5).double()
        >>> incomplete_beta(half, half, half)
        tensor(0.5000, dtype=torch.float64)
    """
    a, b, x = torch.broadcast_tensors(a, b, x)
    mirrored = x > (a + 1) / (a + b + 2)
    a, b = torch.where(mirrored, b, a), torch.where(mirrored, a, b)
    y = torch.where(mirrored, 1 - x, x)
    front = torch.xlogy(a, y) + b * torch.log1p(-y)
    front = front + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    value = front.exp() / a * _beta_fraction(a, b, y)
    return torch.where(mirrored, 1 - value, value)


def _beta_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """1/(1 + d_1/(1 + d_2/(1 + …))), from the far end."""
    # On x ≤ (a+1)/(a+b+2) it needs O(√max(a, b)) terms.
    most = float(torch.maximum(a, b).max()) if a.numel() else 0.0
    value = torch.ones_like(x)
    for m in range(60 + int(12 * math.sqrt(most)), -1, -1):
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1)) * x
        value = 1 + odd / value
        if m:
            even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)) * x
            value = 1 + even / value
    return 1 / value


def log_sinhc(z: Tensor) -> Tensor:
    r""":math:`\log(\sinh z / z)` for real z, 0 at 0.

    Example:
        >>> log_sinhc(torch.tensor([0.0, 1.0, 100.0]))
        tensor([ 0.0000,  0.1614, 94.7017])
    """
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z)) ** 2
    series = torch.log1p(near * horner(_ODD[1:], near))
    far = torch.where(small, torch.ones_like(z), z.abs())
    large = far + torch.log(-torch.expm1(-2 * far)) - (2 * far).log()
    return torch.where(small, series, large)


def log_sinc(z: Tensor) -> Tensor:
    r""":math:`\log(\sin z / z)` for :math:`|z| < \pi`, 0 at 0.

    Example:
        >>> log_sinc(torch.tensor([1.0, 3.0]))
        tensor([-0.1726, -3.0568])
    """
    small = z.abs() < 1
    near = -(torch.where(small, z, torch.zeros_like(z)) ** 2)
    series = torch.log1p(near * horner(_ODD[1:], near))
    far = torch.where(small, torch.ones_like(z), z.abs())
    return torch.where(small, series, (far.sin() / far).log())


def langevin(z: Tensor) -> Tensor:
    r"""Langevin's function :math:`\coth z - 1/z`, the derivative of `log_sinhc`.

    Example:
        >>> langevin(torch.tensor([0.0, 3.0]))
        tensor([0.0000, 0.6716])
    """
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    series = near * horner(_STEEP, near**2) / horner(_ODD, near**2)
    far = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, series, 1 / torch.tanh(far) - 1 / far)


def circular_langevin(z: Tensor) -> Tensor:
    r""":math:`1/z - \cot z` for :math:`|z| < \pi`, minus the derivative of `log_sinc`.

    Example:
        >>> circular_langevin(torch.tensor([0.0, 3.0]))
        tensor([0.0000, 7.3486])
    """
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    series = near * horner(_STEEP, -(near**2)) / horner(_ODD, -(near**2))
    far = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, series, 1 / far - 1 / torch.tan(far))


def inverse_circular_langevin(y: Tensor) -> Tensor:
    r"""The z in (−π, π) with :math:`1/z - \cot z = y`, differentiable once.

    As :math:`y (\pi^2 - z^2) / z` lies between 2 and :math:`\pi^2 / 3`, the root of a quadratic
    equation is near, and Newton's steps are taken where the function is nearly a straight line.

    Example:
        >>> inverse_circular_langevin(torch.tensor([0.0, 7.3486]).double())
        tensor([0.0000, 3.0000], dtype=torch.float64)
    """
    c, top = 2.5, math.pi**2
    with torch.no_grad():
        within = y.clamp(-_LARGE, _LARGE)  # beyond, z is π up to rounding
        line = within / c  # = z / (π² − z²) for the z of the quadratic equation
        for _ in range(_NEWTON):
            z = _from_line(line)
            error = (circular_langevin(z) - within) / _steepness(z)
            line = line - error * (top + z**2) / (top - z**2) ** 2
        z = _from_line(line)
    if not y.requires_grad:
        return z
    return z + (y - y.detach()) / _steepness(z)


def _from_line(line: Tensor) -> Tensor:
    r"""The z in (−π, π) of :math:`z / (\pi^2 - z^2)`."""
    return 2 * math.pi**2 * line / (1 + (1 + 4 * math.pi**2 * line**2).sqrt())


def _steepness(z: Tensor) -> Tensor:
    r"""The derivative of `circular_langevin`, :math:`1 / \sin^2 z - 1 / z^2`."""
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z)) ** 2
    sinc = horner(_ODD, -near)
    far = torch.where(small, torch.ones_like(z), z)
    # 1 − (sin z / z)² = (1 − s)(1 + s), and 1 − s = z² times a series
    series = horner(_ODD[1:], -near) * (1 + sinc) / sinc**2
    return torch.where(small, series, 1 / far.sin() ** 2 - 1 / far**2)


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    r""":math:`\sum_k c_k x^k`, by Horner's rule.

    Example:
        >>> horner((1.0, 2.0, 3.0), torch.tensor(2.0))
        tensor(17.)
    """
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def log_kummer(k: Tensor, w: Tensor) -> Tensor:
    r""":math:`\log {}_1F_1(k + 1; 2; w)` for k > 0 and w ≥ 0, of one shape.

    A series of positive terms up to w = k + 40, and beyond it

    .. math:: {}_1F_1(k + 1; 2; w) \sim \frac{e^w w^{k - 1}}{\Gamma(k + 1)}
              \sum_n \frac{(-k)_n (1 - k)_n}{n!\, w^n};

    at whole k it is :math:`e^w` times a polynomial, :math:`{}_1F_1(1 - k; 2; -w)`.

    Example:
        >>> log_kummer(torch.tensor(1.0).double(), torch.tensor(3.0).double())  # e^w at k = 1
        tensor(3., dtype=torch.float64)
    """
    order = float(k.detach().max()) if k.numel() else 0.0
    if order <= 40 and bool((k == k.detach().round()).all()):
        total = torch.ones_like(w)
        for n in range(int(order) - 2, -1, -1):
            total = 1 + total * w * ((k - 1 - n).clamp(min=0) / ((n + 1) * (n + 2)))
        return w + total.log()
    far = w > k + 40
    near, beyond = torch.where(far, 1.0, w), torch.where(far, w, k + 40)
    series = _kummer_series(k, near, order)
    term = rest = torch.ones_like(beyond)
    for n in range(int(order) + 40):
        term = term * ((n - k) * (n + 1 - k) / ((n + 1) * beyond))
        rest = rest + term
    tail = beyond + (k - 1) * beyond.log() - torch.lgamma(k + 1) + rest.log()
    return torch.where(far, tail, series)


def _kummer_series(k: Tensor, w: Tensor, order: float) -> Tensor:
    """The logarithm of the series in w ≤ k + 40, by Horner's rule."""
    most = float(w.detach().max()) if w.numel() else 0.0
    log = order > 200  # where sums outgrow the largest number
    total = torch.zeros_like(w) if log else torch.ones_like(w)
    last = int(most + 9 * math.sqrt(most) + 30) + int(order)
    for n in range(last, -1, -1):
        ratio = w * ((k + 1 + n) / ((n + 1) * (n + 2)))
        total = F.softplus(total + ratio.log(), threshold=40) if log else 1 + total * ratio
    return total if log else total.log()
