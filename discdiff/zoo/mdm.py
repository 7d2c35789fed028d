r"""Multivariate diffusion models: linear diffusions with a given stationary law.

.. math:: dy = -(Q + D) S^{-1} y\, dB + \sqrt{2 D}\, dW_B, \qquad y_0 = (x_0, v_0)

with the data as the first of k coordinates, and :math:`\mathcal{N}(0, S)` stationary. `cld` is the
one with k = 2 and noise in the velocity alone.
"""

from __future__ import annotations

import torch
from pyro.distributions import Normal
from torch.nn.functional import softplus

from ..clock import Clock
from ..clock import Linear as Ramp
from ..params import learn
from ..process import Process
from ..terms import Langevin
from ..validation import require

START = 0.1  # the standard deviation of the auxiliaries at t = 0


def alda(
    variance: float = 1.0, gamma: float = 1.0, psi: float = 1.0, clock: Clock | None = None
) -> Process:
    r"""Accelerated Langevin diffusion: a chain of three, with noise at its end.

    .. math:: Q = \begin{pmatrix} 0 & -1/L & 0 \\ 1/L & 0 & -\gamma \\ 0 & \gamma & 0
              \end{pmatrix}, \quad D = \operatorname{diag}(0, 0, \psi / L), \quad
              S = \operatorname{diag}(1, 1/L, 1/L)

    as in the code of the second paper. The first has :math:`\gamma / L` for :math:`\gamma`, which
    is the same for L = 1. Noise enters the data as :math:`B^5`.

    Arguments:
        variance: The stationary variance 1/L of both auxiliaries.
        gamma: :math:`\gamma`, the coupling of the auxiliaries.
        psi: :math:`\psi`, the friction of the last.
        clock: B(t); its rate is linear from 0.1 to 10 by default.

    References:
        | High-Order Langevin Diffusion Yields an Accelerated MCMC Algorithm (Mou et al., 2021)
        | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)

    Example:
        >>> alda().marginal(torch.ones(1), 1.0).mean[:, 0]  # much of the data is left
        tensor([0.2410])
    """
    Q = [[0.0, -variance, 0.0], [variance, 0.0, -gamma], [0.0, gamma, 0.0]]
    D = torch.diag(torch.tensor([0.0, 0.0, psi * variance], dtype=torch.float64))
    return _lifted(Langevin(Q, D, _covariance(variance, 3)), clock)


def malda(variance: float = 1.0, clock: Clock | None = None) -> Process:
    r"""The modified `alda`: every pair is coupled, and both auxiliaries are noisy.

    .. math:: Q_{ij} = \operatorname{sign}(i - j), \quad
              D = \operatorname{diag}(0, 2 \sqrt M, 2 \sqrt M), \quad
              S = \operatorname{diag}(1, M, M)

    Arguments:
        variance: The stationary variance M of both auxiliaries.
        clock: B(t); its rate is linear from 0.1 to 10 by default.

    References:
        | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)

    Example:
        >>> malda().marginal(torch.ones(1), 1.0).mean[:, 0]
        tensor([0.0066])
    """
    Q = torch.ones(3, 3, dtype=torch.float64).tril(-1)
    D = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)) * 2 * variance**0.5
    return _lifted(Langevin(Q - Q.mT, D, _covariance(variance, 3)), clock)


def mdm(size: int = 2, clock: Clock | None = None) -> Process:
    r"""The learned diffusion of k coordinates: Q and D are parameters, S = I is not.

    .. math:: Q = G - G^\top, \qquad D = \operatorname{diag}(\operatorname{softplus}(d) + 10^{-3})

    at the start, with :math:`G_{ij}` uniform on :math:`\pm 1/\sqrt k` and :math:`d_i` on
    :math:`\pm 1`. Q stays skew and D diagonal and positive. What is learned is known up to
    rotations of the auxiliaries, which change no law of the data.

    Arguments:
        size: The number k ≥ 2 of coordinates, the data included.
        clock: B(t), which is not learned; its rate is linear from 0.1 to 10 by default.

    Raises:
        ValueError: If k is below 2.

    References:
        | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)

    Example:
        >>> process = mdm(3)
        >>> [p.numel() for p in process.parameters() if p.requires_grad]
        [3, 3]
    """
    require(size >= 2, f"size must be at least 2; it is {size}")
    G = (2 * torch.rand(size, size, dtype=torch.float64) - 1) / size**0.5
    d = 2 * torch.rand(size, dtype=torch.float64) - 1
    diffusion = Langevin(G - G.mT, torch.diag(softplus(d) + 1e-3), _covariance(1.0, size))
    recipe = learn(diffusion).recipe
    recipe.get_parameter("parametrizations.S.original").requires_grad_(False)
    return _lifted(diffusion, clock)


def _covariance(variance: float, size: int) -> torch.Tensor:
    return torch.diag(torch.tensor([1.0] + [variance] * (size - 1), dtype=torch.float64))


def _lifted(diffusion: Langevin, clock: Clock | None) -> Process:
    return diffusion.on(clock or Ramp(0.1, 10.0)).lift(Normal(0.0, START))
