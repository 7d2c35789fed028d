r"""Stable special functions: true limits instead of an ε.

.. math::
    \frac{e^{a\tau} - 1}{a}, \qquad \log(1 - e^{-x}), \qquad \log(e^x - 1), \qquad
    D(r \| \hat r) = r \log \frac{r}{\hat r} - r + \hat r, \qquad
    \log \binom{n}{k} p^k (1 - p)^{n - k}.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def expm1_ratio(a: Tensor, tau: Tensor) -> Tensor:
    r""":math:`(e^{a\tau} - 1) / a`, which is :math:`\tau` at a = 0 and −1/a at τ = ∞ for a < 0.

    Example:
        >>> expm1_ratio(torch.tensor([0.0, -2.0]), torch.tensor([3.0, torch.inf]))
        tensor([3.0000, 0.5000])
    """
    a, tau = torch.broadcast_tensors(a, tau)
    # At the largest number e^{aτ} is what it is at ∞, without the gradient 0 · ∞.
    z = a * tau.clamp(max=torch.finfo(tau.dtype).max)
    small = z.abs() < 1e-4
    near, z_near = (torch.where(small, v, torch.zeros_like(v)) for v in (tau, z))
    series = near * (1 + z_near / 2 * (1 + z_near / 3 * (1 + z_near / 4)))  # next: z⁴/120 < 1e-18
    exact = torch.expm1(torch.where(small, torch.zeros_like(z), z))
    return torch.where(small, series, exact / torch.where(small, torch.ones_like(a), a))


def expm1_quotient(a: Tensor, tau: Tensor) -> Tensor:
    """As `expm1_ratio`, for a that is not 0 and carries no gradient: then nothing cancels."""
    return torch.expm1(a * tau.clamp(max=torch.finfo(tau.dtype).max)) / a


def log1mexp(x: Tensor) -> Tensor:
    r""":math:`\log(1 - e^{-x})` for x ≥ 0, accurate at both ends.

    Example:
        >>> log1mexp(torch.tensor([0.0, 1e-5, torch.inf]))
        tensor([    -inf, -11.5129,  -0.0000])
    """
    near = x < 0.6931
    return torch.where(
        near,
        (-torch.expm1(-torch.where(near, x, torch.ones_like(x)))).log(),
        torch.log1p(-(-torch.where(near, torch.ones_like(x), x)).exp()),
    )


def logexpm1(x: Tensor) -> Tensor:
    r""":math:`\log(e^x - 1)` for x ≥ 0: minus the logit of the survival :math:`e^{-x}`.

    Example:
        >>> logexpm1(torch.tensor([0.0, 1e-5, 50.0]))
        tensor([    -inf, -11.5129,  50.0000])
    """
    return x + log1mexp(x)


def log1pexp(z: Tensor) -> Tensor:
    r""":math:`\log(1 + e^z)`, the inverse of `logexpm1`, accurate for z of any size.

    Example:
        >>> log1pexp(torch.tensor([-50.0, 50.0]))
        tensor([1.9287e-22, 5.0000e+01])
    """
    return softplus(z, threshold=50)  # above 50 it is z: the rest, e^{-50}, is below rounding


def xlogx_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    r""":math:`p \log(p / q)`: zero at p = 0, +∞ where only q = 0, however small p is.

    Example:
        >>> log_p = torch.tensor([0.0, -torch.inf, -1e3])
        >>> xlogx_ratio(log_p, torch.tensor([-1.0, 0.0, -torch.inf]))
        tensor([1., 0., inf])
    """
    none, lost = log_p == -torch.inf, log_q == -torch.inf
    gap = torch.where(none | lost, torch.zeros_like(log_p), log_p - log_q)
    return torch.where(lost & ~none, torch.inf, log_p.exp() * gap)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log(e^a + e^b)`, −∞ with a zero gradient instead of NaN where both are −∞.

    Example:
        >>> log_add(torch.tensor([0.0, -torch.inf]), torch.tensor([0.0, -torch.inf]))
        tensor([0.6931,   -inf])
    """
    if not (a.requires_grad or b.requires_grad):
        return torch.logaddexp(a, b)
    none = (a == -torch.inf) & (b == -torch.inf)
    total = torch.logaddexp(torch.where(none, 0.0, a), torch.where(none, 0.0, b))
    return torch.where(none, -torch.inf, total)


def log_sum(x: Tensor, axis: int) -> Tensor:
    r""":math:`\log \sum e^x` on one axis, −∞ with a zero gradient where all are −∞.

    Example:
        >>> log_sum(torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [-torch.inf] * 2]), -1)
        tensor([0.6931, 0.0000,   -inf])
    """
    if not x.requires_grad:
        return torch.logsumexp(x, axis)
    none = (x == -torch.inf).all(axis, keepdim=True)
    total = torch.logsumexp(torch.where(none, 0.0, x), axis)
    return torch.where(none.squeeze(axis), -torch.inf, total)


def log_softplus(a: Tensor) -> Tensor:
    r""":math:`\log \log(1 + e^a)`, which is a itself for a ≪ 0.

    Example:
        >>> log_softplus(torch.tensor([-200.0, 0.0]))
        tensor([-200.0000,   -0.3665])
    """
    low = a < -15  # log softplus(a) = a − e^a/2 + …, and e^a/2 is below float32 rounding
    high = torch.where(low, torch.zeros_like(a), a)
    return torch.where(low, a - a.clamp(max=0).exp() / 2, softplus(high, threshold=50).log())


def bregman(r: Tensor, r_hat: Tensor) -> Tensor:
    r""":math:`D(r \| \hat r) = r \log(r / \hat r) - r + \hat r \ge 0`, with its limits at 0.

    The form ``xlogy(r, r / r̂)`` would have a NaN gradient at r = 0.

    Example:
        >>> bregman(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0]))
        tensor([2., 0.])
    """
    none = r == 0
    log_r_hat = torch.where(none, torch.ones_like(r_hat), r_hat).log()
    return _times_own_log(r) - r * log_r_hat - r + r_hat


def bregman_log(r: Tensor, log_r_hat: Tensor) -> Tensor:
    r""":math:`D(r \| \hat r)` with :math:`\log \hat r` given; −∞ is allowed where r = 0.

    Example:
        >>> bregman_log(torch.tensor([0.0, 1.0]), torch.tensor([-torch.inf, 0.0]))
        tensor([0., 0.])
    """
    none = r == 0
    finite = torch.where(none, torch.zeros_like(log_r_hat), log_r_hat)
    return _times_own_log(r) - r * finite - r + log_r_hat.exp()


def _times_own_log(r: Tensor) -> Tensor:
    r""":math:`r \log r`, 0 at 0 with a zero gradient: a rate that is 0 stays 0."""
    if not r.requires_grad:
        return torch.xlogy(r, r)
    some = torch.where(r == 0, 1.0, r)
    return some * some.log()


def log1p_less(v: Tensor) -> Tensor:
    r""":math:`\log(1 + v) - v` for v > −1, which is near :math:`-v^2 / 2`, accurate at small v.

    Example:
        >>> log1p_less(torch.tensor([0.5, 1.0]))
        tensor([-0.0945, -0.3069])
    """
    small = v.abs() < 0.1
    near = torch.where(small, v, torch.zeros_like(v))
    series = torch.zeros_like(v)
    for n in range(18, 1, -1):
        series = near * (series + (-1) ** (n + 1) / n)
    far = torch.where(small, torch.zeros_like(v), v)
    return torch.where(small, near * series, torch.log1p(far) - far)


def stirling_rest(k: Tensor) -> Tensor:
    r""":math:`\log \Gamma(k) - (k - \tfrac12) \log k + k - \tfrac12 \log 2\pi`, for k ≥ 20.

    To 1e-17: it is what is left when the large parts of :math:`\log \Gamma` cancel.

    Example:
        >>> stirling_rest(torch.tensor(20.0))  # nearly 1/240
        tensor(0.0042)
    """
    inverse, total = 1 / k, torch.zeros_like(k)
    for coefficient in (1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        total = total * inverse**2 + coefficient
    return total * inverse


def log_binomial(n: Tensor, k: Tensor) -> Tensor:
    r""":math:`\log \binom{n}{k}`, −∞ unless 0 ≤ k ≤ n.

    Example:
        >>> log_binomial(torch.tensor([4.0, 4.0]), torch.tensor([2.0, 5.0])).exp()
        tensor([6., 0.])
    """
    inside = (k >= 0) & (k <= n)
    k = torch.where(inside, k, torch.zeros_like(k))
    value = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(inside, value, torch.full_like(value, -torch.inf))


def times_log(k: Tensor, log_p: Tensor) -> Tensor:
    r""":math:`k \log p`, zero where k = 0 even if :math:`\log p = -\infty`.

    Example:
        >>> times_log(torch.tensor([0.0, 2.0]), torch.tensor([-torch.inf, -1.0]))
        tensor([ 0., -2.])
    """
    k, log_p = torch.broadcast_tensors(k, log_p)
    none = k == 0
    return k * torch.where(none, torch.zeros_like(log_p), log_p)


def log_binomial_pmf(k: Tensor, n: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""The log-probability of k out of n, with :math:`\log p` and :math:`\log(1 - p)` given.

    It is the small difference of numbers of the size of n log n, so it is found in float64.

    Example:
        >>> zero, never = torch.zeros(()), torch.tensor(-torch.inf)
        >>> log_binomial_pmf(torch.tensor([0.0, 1.0]), torch.tensor(1.0), never, zero)
        tensor([0., -inf])
    """
    dtype = k.dtype
    k, n, log_p, log_q = torch.broadcast_tensors(*map(_wide, (k, n, log_p, log_q)))
    inside = (k >= 0) & (k <= n)
    safe = torch.where(inside, k, torch.zeros_like(k))
    value = log_binomial(n, safe) + times_log(safe, log_p) + times_log(n - safe, log_q)
    return torch.where(inside, value, torch.full_like(value, -torch.inf)).to(dtype)


def log_poisson_pmf(k: Tensor, rate: Tensor) -> Tensor:
    r"""The log-probability of k under Poisson(rate), also at rate 0; found in float64.

    Example:
        >>> log_poisson_pmf(torch.tensor([0.0, 1.0]), torch.tensor(0.0))
        tensor([0., -inf])
    """
    inside, dtype, rate = k >= 0, k.dtype, _wide(rate)
    safe = _wide(torch.where(inside, k, torch.zeros_like(k)))
    value = times_log(safe, safe_log(rate)) - rate - torch.lgamma(safe + 1)
    return torch.where(inside, value, torch.full_like(value, -torch.inf)).to(dtype)


def _wide(v: Tensor) -> Tensor:
    """Numbers in float64, where their device has it."""
    return v if v.device.type == "mps" else v.double()


def safe_log(p: Tensor) -> Tensor:
    r""":math:`\log p`, −∞ at 0 with a zero gradient there instead of NaN.

    Example:
        >>> safe_log(torch.tensor([0.0, 1.0]))
        tensor([-inf, 0.])
    """
    none = p == 0
    return torch.where(none, torch.full_like(p, -torch.inf), torch.where(none, 1.0, p).log())
