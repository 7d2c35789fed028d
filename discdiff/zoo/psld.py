"""Phase-space Langevin diffusion: noise in the data and in their momentum."""

from __future__ import annotations

from pyro.distributions import Normal

from ..clock import Clock, Constant
from ..process import Process
from ..terms import Langevin
from ..validation import require


def psld(
    gamma: float = 0.01, nu: float = 4.01, clock: Clock | None = None, share: float = 0.04
) -> Process:
    r"""Phase-space Langevin diffusion, critically damped.

    .. math::
        dx = \tfrac{\beta}{2} (M^{-1} m - \Gamma x)\, dt + \sqrt{\beta \Gamma}\, dW_1, \qquad
        dm = \tfrac{\beta}{2} (-\nu m - x)\, dt + \sqrt{\beta M \nu}\, dW_2, \qquad
        M^{-1} = \tfrac14 (\Gamma - \nu)^2

    With :math:`\Gamma = 0` it is `cld` at half the clock.

    Arguments:
        gamma: :math:`\Gamma \ge 0`, the noise in the data.
        nu: :math:`\nu`, the noise in the momentum, another number than :math:`\Gamma`.
        clock: :math:`B(t) = \int \beta`; :math:`\beta = 8` by default.
        share: The variance of the momentum at t = 0, as a share of M.

    Raises:
        ValueError: If :math:`\Gamma = \nu`: no mass damps critically.

    References:
        | Generative Diffusions in Augmented Spaces: A Complete Recipe (Pandey & Mandt, 2023)

    Example:
        >>> import torch
        >>> psld().marginal(torch.ones(1), 1.0).mean  # what is left of x_0 = 1, and its momentum
        tensor([[ 0.0029, -0.0013]])
    """
    require(gamma != nu, f"gamma and nu must differ; both are {gamma}")
    mass = 4 / (gamma - nu) ** 2
    Q, D = [[0.0, -0.5], [0.5, 0.0]], [[gamma / 2, 0.0], [0.0, mass * nu / 2]]
    process = Langevin(Q, D, [[1.0, 0.0], [0.0, mass]]).on(clock or Constant(8.0))
    return process.lift(Normal(0.0, (share * mass) ** 0.5))
