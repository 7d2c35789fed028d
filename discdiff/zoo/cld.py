"""Critically damped Langevin dynamics: noise reaches the data through a velocity."""

from __future__ import annotations

from pyro.distributions import Normal

from ..clock import Clock, Constant
from ..process import Process
from ..terms import Langevin


def cld(mass: float = 0.25, clock: Clock | None = None, share: float = 0.04) -> Process:
    r"""Critically damped Langevin diffusion.

    .. math:: dx = M^{-1} v\, \beta\, dt, \qquad
              dv = -x\, \beta\, dt - \Gamma M^{-1} v\, \beta\, dt + \sqrt{2 \Gamma \beta}\, dW,
              \qquad \Gamma = 2 \sqrt M

    The data move smoothly: noise enters their coordinate as :math:`B^3`. The stationary law is
    :math:`\mathcal{N}(0, 1) \times \mathcal{N}(0, M)`.

    Arguments:
        mass: M.
        clock: :math:`B(t) = \int \beta`; :math:`\beta = 4` by default.
        share: The variance of the velocity at t = 0, as a share of M.

    References:
        | Score-based generative modeling with critically-damped Langevin diffusion (Dockhorn et
          al., 2022)

    Example:
        >>> import torch
        >>> law = cld().marginal(torch.ones(1), 0.01)  # little noise in x, much in v
        >>> law.variance.sqrt()
        tensor([[0.0287, 0.2748]])
    """
    Q, D = [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2 * mass**0.5]]
    damped = Langevin(Q, D, [[1.0, 0.0], [0.0, mass]])
    return damped.on(clock or Constant(4.0)).lift(Normal(0.0, (share * mass) ** 0.5))
