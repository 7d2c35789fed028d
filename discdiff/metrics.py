r"""How far a set of samples is from another: distances with their standard errors.

For independent samples :math:`x_1, \dots, x_n \sim P` and :math:`y_1, \dots, y_m \sim Q`, three
distances are estimated. Each is returned with the standard deviation that the estimate would have
over fresh samples, because a distance without one cannot be compared with another.

.. math::
    \mathrm{MMD}^2(P, Q) & = \mathbb{E}[k(x, x')] + \mathbb{E}[k(y, y')] - 2 \mathbb{E}[k(x, y)] \\
    \mathrm{FD}(P, Q) & = \| \mu_x - \mu_y \|^2
        + \mathrm{tr} \big( C_x + C_y - 2 (C_x C_y)^{1/2} \big) \\
    \mathrm{TV}(P, Q) & = \tfrac{1}{2} \sum_k | p_k - q_k |

**Standard errors.** If the samples have influences :math:`\psi(x_i)` and :math:`\phi(y_j)` on an
estimate, its variance is :math:`\mathrm{Var}[\psi] / n + \mathrm{Var}[\phi] / m` up to
:math:`O(n^{-2})`. Where :math:`P = Q` the influences on MMD² and FD vanish and the next order is
all there is. It is included for MMD²; it is not for FD, which is moreover biased upwards there.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | Unbiased estimators for the variance of MMD estimators (Sutherland & Deka, 2019)
    | GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017)
    | Closed Form Summation for Classical Distributions (Diaconis & Zabell, 1991)
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Distance",
    "Gaussian",
    "Hamming",
    "Kernel",
    "Measured",
    "frechet_distance",
    "mmd",
    "tally",
    "total_variation",
]


class Measured(NamedTuple):
    """A value and the standard deviation it would have over fresh samples."""

    value: float
    standard_error: float


class Distance(NamedTuple):
    """A value, its standard error, and the value expected if the two laws were one."""

    value: float
    standard_error: float
    noise_floor: float


class Kernel(abc.ABC):
    r"""Abstract positive-definite kernel :math:`k(x, y)` between flat samples."""

    @abc.abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        r"""
        Arguments:
            x: Samples, in float64, with shape :math:`(n, d)`.
            y: Samples, in float64, with shape :math:`(m, d)`.

        Returns:
            The matrix :math:`k(x_i, y_j)`, with shape :math:`(n, m)`.
        """


class Gaussian(Kernel):
    r"""The Gaussian kernel.

    .. math:: k(x, y) = \exp \left( - \frac{\| x - y \|^2}{2 h^2} \right)

    Arguments:
        bandwidth: The width :math:`h > 0`.

    Example:
        >>> Gaussian(2.0)(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
        tensor([[1.0000, 0.6065]])
    """

    def __init__(self, bandwidth: float) -> None:
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be positive, got {bandwidth}")
        self.bandwidth = bandwidth

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / (2 * self.bandwidth**2))


class Hamming(Kernel):
    r"""The exponential of the number of differing entries.

    .. math:: k(x, y) = \exp \big( - c \, \#\{ i : x^i \neq y^i \} \big)

    It is a product over entries of :math:`e^{-c} + (1 - e^{-c}) 1[x^i = y^i]`, hence positive
    definite.

    Arguments:
        scale: The cost :math:`c > 0` of one differing entry.

    Example:
        >>> Hamming(0.1)(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        tensor([[1.0000, 0.9048]])
    """

    def __init__(self, scale: float) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-self.scale * torch.cdist(x, y, p=0.0))


def mmd(x: Tensor, y: Tensor, kernel: Kernel, chunk: int = 2048) -> Measured:
    r"""The unbiased estimate of the squared maximum mean discrepancy.

    .. math::
        U = \frac{1}{n (n - 1)} \sum_{i \neq j} k(x_i, x_j)
            + \frac{1}{m (m - 1)} \sum_{i \neq j} k(y_i, y_j)
            - \frac{2}{n m} \sum_{i, j} k(x_i, y_j)

    It may be negative. Its variance follows from Hoeffding's decomposition: with
    :math:`g(x) = \mathbb{E}_{x'}[k(x, x')] - \mathbb{E}_y[k(x, y)]`, likewise :math:`f(y)`, and
    :math:`\zeta` the variance of what remains of :math:`k` without its two conditional means,

    .. math::
        \mathrm{Var}[U] = \frac{4}{n} \mathrm{Var}[g] + \frac{4}{m} \mathrm{Var}[f]
            + \frac{2 \zeta_{xx}}{n (n - 1)} + \frac{2 \zeta_{yy}}{m (m - 1)}
            + \frac{4 \zeta_{xy}}{n m} \, ,

    which holds for :math:`P = Q` too. There the estimate of the first two terms scatters about
    zero and is cut at zero, so that the standard error tends to be too large, not too small. No
    more than ``chunk``² kernel values are held at once.

    Arguments:
        x: Samples from :math:`P`, with shape :math:`(n, *)`, :math:`n > 3`.
        y: Samples from :math:`Q`, with shape :math:`(m, *)`, :math:`m > 3`.
        kernel: The kernel :math:`k`.
        chunk: The side of the blocks in which kernel values are computed.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> value, error = mmd(torch.randn(500, 2), torch.randn(500, 2) + 1, Gaussian(1.0))
        >>> abs(value - 0.18898) < 3 * error  # 2/3 (1 - exp(-1/3))
        True
    """
    x, y = _flat(x), _flat(y)
    _check_pair(x, y, least=4)
    n, m = len(x), len(y)
    xx, yy = _self_moments(kernel, x, chunk), _self_moments(kernel, y, chunk)
    xy, yx = _cross_moments(kernel, x, y, chunk)
    value = xx.mean() + yy.mean() - xy.mean() - yx.mean()
    first = _projection(xx, xy) / n + _projection(yy, yx) / m
    second = xx.rest() / (n * (n - 1)) + yy.rest() / (m * (m - 1)) + 2 * xy.rest() / (n * m)
    # Cut at zero because it estimates a sum of variances: only noise is lost.
    return Measured(value.item(), (4 * first.clamp(min=0) + 2 * second).sqrt().item())


class _Moments(NamedTuple):
    """Mean over the second argument for each first one, mean square, and the second size."""

    rows: Tensor
    columns: Tensor
    square: Tensor
    terms: int

    def mean(self) -> Tensor:
        return self.rows.mean()

    def rest(self) -> Tensor:
        # ζ = E[k²] − E[E[k|x]²] − E[E[k|y]²] + E[k]² is a mean square: below zero there is only
        # the rounding and, within one sample, the missing diagonal.
        ends = self.rows.square().mean() + self.columns.square().mean()
        return (self.square - ends + self.mean().square()).clamp(min=0)


def _projection(same: _Moments, other: _Moments) -> Tensor:
    # The means over a finite second sample scatter by ζ / terms on top of Var[g].
    scatter = same.rest() / same.terms + other.rest() / other.terms
    return (same.rows - other.rows).var() - scatter


def _self_moments(kernel: Kernel, x: Tensor, chunk: int) -> _Moments:
    rows, square = x.new_zeros(len(x)), x.new_zeros(())
    for i in range(0, len(x), chunk):
        for j in range(0, i + 1, chunk):
            block = kernel(x[i : i + chunk], x[j : j + chunk])
            if i == j:
                block = block - block.diagonal().diag()
            else:
                rows[j : j + chunk] += block.sum(0)
            rows[i : i + chunk] += block.sum(1)
            square += block.square().sum() * (1 if i == j else 2)
    terms = len(x) - 1
    return _Moments(rows / terms, rows / terms, square / (len(x) * terms), terms)


def _cross_moments(kernel: Kernel, x: Tensor, y: Tensor, chunk: int) -> tuple[_Moments, _Moments]:
    rows, columns, square = x.new_zeros(len(x)), x.new_zeros(len(y)), x.new_zeros(())
    for i in range(0, len(x), chunk):
        for j in range(0, len(y), chunk):
            block = kernel(x[i : i + chunk], y[j : j + chunk])
            rows[i : i + chunk] += block.sum(1)
            columns[j : j + chunk] += block.sum(0)
            square += block.square().sum()
    rows, columns, square = rows / len(y), columns / len(x), square / (len(x) * len(y))
    return _Moments(rows, columns, square, len(y)), _Moments(columns, rows, square, len(x))


def frechet_distance(x: Tensor, y: Tensor) -> Measured:
    r"""The squared Wasserstein-2 distance between the Gaussians fitted to two sets of features.

    With centred features :math:`X = \sqrt{n - 1} \, Q_x R_x`, so that :math:`C_x = R_x^\top R_x`,
    and the singular value decomposition :math:`R_x R_y^\top = U S V^\top`, the eigenvalues of
    :math:`C_x C_y` are :math:`S^2` and

    .. math:: \mathrm{tr} (C_x C_y)^{1/2} = \mathrm{tr} \, S \, .

    Nothing is squared and then rooted, and singular covariances (fewer samples than features) are
    no exception. The standard error is the delta method's, with influences

    .. math::
        \psi(x_i) = 2 (\mu_x - \mu_y)^\top (x_i - \mu_x) + \| x_i - \mu_x \|^2
            - (n - 1) \sum_k S_k (Q_x U)_{ik}^2

    and :math:`\phi(y_j)` by symmetry. Where :math:`P = Q` they vanish: the estimate is then all
    bias, of order :math:`d^2 / n`, and its standard error says nothing. Compare only at equal
    :math:`n` and :math:`m`.

    Arguments:
        x: Features, with shape :math:`(n, d)`, :math:`n > 1`.
        y: Features, with shape :math:`(m, d)`, :math:`m > 1`.

    Example:
        >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> frechet_distance(x, 2 * x + 3).value  # |0 - 3|² + (1 - 2)²
        10.0
    """
    x, y = _flat(x), _flat(y)
    _check_pair(x, y, least=2)
    shift = x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    (q_x, r_x), (q_y, r_y) = torch.linalg.qr(x), torch.linalg.qr(y)
    scale = ((len(x) - 1) * (len(y) - 1)) ** 0.5
    u, s, vh = torch.linalg.svd(r_x @ r_y.T / scale, full_matrices=False)
    traces = x.square().sum() / (len(x) - 1) + y.square().sum() / (len(y) - 1)
    value = shift @ shift + traces - 2 * s.sum()
    psi = 2 * x @ shift + x.square().sum(1) - (len(x) - 1) * (q_x @ u).square() @ s
    phi = -2 * y @ shift + y.square().sum(1) - (len(y) - 1) * (q_y @ vh.T).square() @ s
    return Measured(value.item(), (psi.var() / len(x) + phi.var() / len(y)).sqrt().item())


def tally(*samples: Tensor) -> tuple[Tensor, ...]:
    r"""How often each state occurs in each sample, over the states that occur in any.

    Arguments:
        samples: Tensors of discrete states, with shapes :math:`(n_i, *)`.

    Returns:
        For each sample its counts, each of shape :math:`(K,)` for :math:`K` distinct states.

    Example:
        >>> tally(torch.tensor([3, 3, 7]), torch.tensor([7, 9]))
        (tensor([2, 1, 0]), tensor([0, 1, 1]))
    """
    flat = torch.cat([sample.reshape(len(sample), -1) for sample in samples])
    states, which = torch.unique(flat, dim=0, return_inverse=True)
    pieces = which.split([len(sample) for sample in samples])
    return tuple(torch.bincount(piece, minlength=len(states)) for piece in pieces)


def total_variation(counts: Tensor, reference: Tensor) -> Distance:
    r"""The total variation between an empirical law and a given law, or another empirical law.

    .. math:: \widehat{\mathrm{TV}} = \frac{1}{2} \sum_k \left| \frac{c_k}{n} - q_k \right|

    It is biased upwards: its mean where the laws are one is the **noise floor**, given in closed
    form by De Moivre's mean absolute deviation. For a given law :math:`c_k \sim
    \mathrm{Binomial}(n, q_k)` and, with :math:`\nu = \lfloor \mathbb{E}[c_k] \rfloor + 1`,

    .. math:: \mathbb{E} | c_k - n q_k | = 2 \nu (1 - q_k) \, P(c_k = \nu) \, .

    For a second sample, given the pooled counts :math:`N_k` of :math:`N = n + m` draws (the
    permutation null), :math:`c_k` is hypergeometric and

    .. math::
        \mathbb{E} \left| c_k - \frac{n N_k}{N} \right|
            = \frac{2 \nu (N - N_k - n + \nu)}{N} \, P(c_k = \nu) \, .

    The standard error is the delta method's, from the variance of :math:`\frac{1}{2}
    \mathrm{sign}(c_k / n - q_k)` over the draws :math:`k`; it is too large where the laws are one.

    Arguments:
        counts: How often each state was drawn: integers, with shape :math:`(K,)`. See
            :func:`tally` and :func:`torch.bincount`.
        reference: Probabilities (floating, summing to one) or the counts of a second sample
            (integers), with shape :math:`(K,)`.

    Raises:
        ValueError: If the shapes differ, counts are not integers, or probabilities are not a law.

    Example:
        >>> value, error, floor = total_variation(torch.tensor([60, 40]), torch.tensor([0.5, 0.5]))
        >>> round(value, 4), round(error, 4), round(floor, 4)
        (0.1, 0.049, 0.0398)
    """
    _check_counts(counts, reference)
    n, p = counts.sum(), counts.double() / counts.sum()
    given = reference.is_floating_point()
    q = reference.double() if given else reference.double() / reference.sum()
    sign = torch.sign(p - q) / 2
    variance = _variance(sign, p) / n
    if not given:
        variance = variance + _variance(sign, q) / reference.sum()
    floor = _binomial_floor(n, q) if given else _permutation_floor(counts, reference)
    return Distance((sign @ (p - q)).item(), variance.sqrt().item(), floor.item())


def _variance(values: Tensor, law: Tensor) -> Tensor:
    return law @ (values - law @ values).square()


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _binomial_floor(n: Tensor, q: Tensor) -> Tensor:
    inner = (q > 0) & (q < 1)
    n, q = n.double(), q[inner]
    # ν ≤ n: nq < n, unless rounding makes it n, where the deviation is zero to that rounding.
    nu = (torch.floor(n * q) + 1).clamp(max=n)
    log_mass = _log_choose(n, nu) + nu * torch.log(q) + (n - nu) * torch.log1p(-q)
    return (nu * (1 - q) * torch.exp(log_mass)).sum() / n


def _permutation_floor(counts: Tensor, others: Tensor) -> Tensor:
    n, pooled = counts.sum().double(), (counts + others).double()
    total = pooled.sum()
    # Outside its support the count is certain and deviates by nothing.
    nu = torch.floor(n * pooled / total) + 1
    inside = (nu <= pooled) & (nu <= n)
    pooled, nu = pooled[inside], nu[inside]
    log_ways = _log_choose(pooled, nu) + _log_choose(total - pooled, n - nu)
    mass = torch.exp(log_ways - _log_choose(total, n))
    deviation = nu * (total - pooled - n + nu) / total * mass
    return deviation.sum() * total / (n * (total - n))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double()


def _check_pair(x: Tensor, y: Tensor, least: int) -> None:
    if x.shape[1] != y.shape[1]:
        sizes = f"{x.shape[1]} and {y.shape[1]}"
        raise ValueError(f"x and y must have equal events, got {sizes} entries")
    for name, sample in (("x", x), ("y", y)):
        if len(sample) < least:
            raise ValueError(f"{name} must hold at least {least} samples, got {len(sample)}")
        if not sample.isfinite().all():
            others = sample[~sample.isfinite()].unique().tolist()
            raise ValueError(f"{name} must be finite, got {others}")


def _check_counts(counts: Tensor, reference: Tensor) -> None:
    if counts.ndim != 1 or counts.shape != reference.shape:
        shapes = f"{tuple(counts.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"counts and reference must have one common shape (K,), got {shapes}")
    for name, values in (("counts", counts), ("reference", reference)):
        if name == "counts" and values.is_floating_point():
            raise ValueError(f"counts must be integers, got {values.dtype}")
        if (values < 0).any() or not values.sum() > 0:
            values = values.tolist()
            raise ValueError(f"{name} must be non-negative and not all zero, got {values}")
    if reference.is_floating_point() and abs(reference.double().sum().item() - 1) > 1e-5:
        raise ValueError(f"reference must sum to one, got {reference.double().sum().item()}")
