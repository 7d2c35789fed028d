r"""`Precondition`: inputs and outputs of a network on one scale, by the covariance of the data.

Where :math:`y_t = P x_0 + m_t + L \varepsilon` with :math:`\Sigma = L L^\top`, data of mean m and
covariance :math:`C_0` have :math:`C_t = \operatorname{Cov}[y_t] = P C_0 P^\top + \Sigma`, and the
best affine guess of them and the covariance that it leaves are

.. math::
    m + K (y_t - \mathbb{E}[y_t]), \quad K = C_0 P^\top C_t^{-1}, \qquad
    R = C_0 - K P C_0 = (I - K P)\, C_0\, (I - K P)^\top + K \Sigma K^\top .

The network F is left to say the rest, from inputs and to targets of covariance I,

.. math::
    \hat x_0 = m + K (y_t - \mathbb{E}[y_t])
        + R^{1/2}\, F\big( C_t^{-1/2} (y_t - \mathbb{E}[y_t]), t \big).

For one variable, :math:`y = x_0 + \sigma \varepsilon` and m = 0 these are the published
:math:`c_{skip}, c_{out}, c_{in}`. All are read from the laws given the data at 0 and at units.

Under a lift data are one variable per entry, and the likelihood

.. math:: \log p(y_t \mid x_0) = x_0\, P^\top \Sigma^{-1} (y_t - m_t)
        - \tfrac12 x_0^2\, P^\top \Sigma^{-1} P + \dots, \qquad
    K = R\, P^\top \Sigma^{-1},

sees of the auxiliaries only the guess itself. So F is given the guess, on unit variance, and
nothing else: whatever the lift, it learns to denoise the data under normal noise of precision
:math:`J = P^\top \Sigma^{-1} P`.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .standardise import HasMarginal, act, covariance_of, units

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Coefficients:
    r"""What `Precondition` multiplies with, float64, broadcasting against a state.

    Arguments:
        centre: :math:`\mathbb{E}[y_t]`.
        into: :math:`C_t^{-1/2}`: numbers per entry, or matrices (k, k) on the last axis; under a
            lift (1, k), K on unit variance.
        skip: K: numbers, or matrices (c, k), where c = 1 under a lift.
        out: :math:`R^{1/2}`: numbers, or matrices (c, c).
    """

    centre: Tensor
    into: Tensor
    skip: Tensor
    out: Tensor


class Precondition(nn.Module):
    r"""A network that predicts :math:`\mathbb{E}[x_0 \mid y_t]`, for `heads.Mean`.

    It is exact with a network that says zero if the data are normal.

    Arguments:
        net: The network, from the data's shape to the data's.
        process: A linear Gaussian process; only its marginals are used.
        mean: Mean of the data, a number or a tensor of the event's shape.
        std: Standard deviation of the data, likewise.
        covariance: For data that are coupled on the last axis, their covariance there, (k, k), in
            place of ``std``.

    Example:
        >>> from discdiff import Linear, Noise
        >>> net = Precondition(lambda x, t, context: 0 * x, Linear(-0.5) + Noise(1.0), 0.0, 2.0)
        >>> net(torch.ones(1, 1), torch.ones(1))  # φ s² / (φ² s² + 1 − φ²) with φ² = 1/e
        tensor([[1.1533]])
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        net: Any,
        process: HasMarginal,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
        covariance: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self._marginal, self._to_data = process.marginal, process.to_data
        self.coupled = covariance is not None
        square = torch.as_tensor(std, dtype=torch.float64) ** 2
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("covariance", square if covariance is None else covariance.double())

    def coefficients(self, y: Tensor, t: Tensor) -> Coefficients:
        """The coefficients for states like y at times t (B,)."""
        like = self._to_data(y)
        lifted = y.dim() > like.dim()
        ones = max(like.dim() - (1 if lifted else 2), 0)  # axes along which nothing is coupled
        shape = (len(t), *(1,) * ones, *like.shape[1 + ones :])
        origin = torch.zeros(shape, dtype=torch.float64, device=y.device)
        law = self._marginal(origin, t)
        sigma = covariance_of(law)
        if sigma is None:
            return self._by_entry(law, self._marginal(origin + 1, t).mean - law.mean)
        if lifted:
            load = (self._marginal(origin + 1, t).mean - law.mean).unsqueeze(-1)
            return self._by_lift(law.mean, load, sigma)
        load = torch.stack([self._marginal(e, t).mean - law.mean for e in units(origin)], -1)
        covariance = self.covariance if self.coupled else self._diagonal(shape[-1])
        mean = self.mean.expand(*self.mean.shape[:-1], shape[-1])
        return self._by_matrix(law.mean, load, sigma, covariance, mean)

    def _diagonal(self, size: int) -> Tensor:
        square = self.covariance
        return (square if square.dim() else square.expand(size)).diag_embed()

    def _by_entry(self, law: Any, load: Tensor) -> Coefficients:
        if self.coupled:
            raise ValueError("covariance is for processes of vectors: give std for this one")
        square, noise = self.covariance, law.variance
        whole = load**2 * square + noise
        into = _root(whole[..., None, None], -0.5)[..., 0, 0]
        skip = square * load * into**2
        return Coefficients(
            law.mean + load * self.mean, into, skip, (square * noise).sqrt() * into
        )

    def _by_lift(self, start: Tensor, load: Tensor, sigma: Tensor) -> Coefficients:
        """The coefficients of one variable per entry from m_t, P (…, k, 1) and Σ (…, k, k)."""
        C, mean = self.covariance[..., None, None], self.mean.unsqueeze(-1)
        skip = C * torch.linalg.solve(load @ C @ load.mT + sigma, load).mT
        known = C * (skip @ load)  # the variance of the guess
        into = torch.where(known > 0, skip * known.clamp(min=TINY).rsqrt(), 0.0)
        left = _left(load, sigma, C, skip).clamp(min=0.0)  # squares, but for rounding of Σ
        return Coefficients(start + act(load, mean), into, skip, left.sqrt())

    def _by_matrix(
        self, start: Tensor, load: Tensor, sigma: Tensor, C: Tensor, mean: Tensor
    ) -> Coefficients:
        """The coefficients from m_t, P (…, k, k), Σ (…, k, k) and the moments of the data."""
        into = _root(load @ C @ load.mT + sigma, -0.5)
        skip = C @ load.mT @ into @ into
        left = _left(load, sigma, C, skip)
        return Coefficients(start + act(load, mean), into, skip, _root(left, 0.5))

    def log_left(self, y: Tensor, t: Tensor) -> Tensor:
        r"""The mean over entries of :math:`\log R / C_0`, for states like y at times t (B,).

        It grows from −∞ to at most 0. Half its growth over a span of time is the path-KL per
        entry of normal data under the exact head, whatever the process.
        """
        out = self.coefficients(y, t.to(y.device)).out
        if out.dim() <= y.dim():
            share = 2 * out.log() - self.covariance.log()
        elif self.coupled:
            share = 2 * torch.linalg.slogdet(out)[1] - torch.linalg.slogdet(self.covariance)[1]
            share = share / out.shape[-1]
        else:
            share = 2 * torch.linalg.slogdet(out)[1] / out.shape[-1] - self.covariance.log().mean()
        return share.reshape(len(t), -1).mean(1)

    def forward(self, y: Tensor, t: Tensor, context: Any = None) -> Tensor:
        c, lifted = self.coefficients(y, t), y.dim() > self._to_data(y).dim()
        apply = act if c.into.dim() > y.dim() else torch.mul
        rest, mean = y - c.centre.to(y.dtype), self.mean.to(y.dtype)
        into, skip, out = (v.to(y.dtype) for v in (c.into, c.skip, c.out))
        seen, guess = apply(into, rest), apply(skip, rest)
        if lifted:
            seen, guess, out, apply = seen[..., 0], guess[..., 0], out[..., 0, 0], torch.mul
        return mean + guess + apply(out, self.net(seen, t, context))


def _left(load: Tensor, sigma: Tensor, C: Tensor, skip: Tensor) -> Tensor:
    """R, as a sum of two squares."""
    eye = torch.eye(load.shape[-1], dtype=load.dtype, device=load.device)
    rest = eye - skip @ load
    return rest @ C @ rest.mT + skip @ sigma @ skip.mT


def _root(matrix: Tensor, power: float) -> Tensor:
    """A power of symmetric matrices (…, k, k), zero on directions in which they are zero."""
    values, axes = torch.linalg.eigh(matrix)
    positive = values > 0
    values = torch.where(positive, values, torch.ones_like(values)) ** power
    values = torch.where(positive, values, torch.zeros_like(values))
    return axes * values.unsqueeze(-2) @ axes.mT
