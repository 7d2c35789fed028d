r"""DDIM's family of steps: how much of the noise is drawn anew.

Given the data, :math:`x_t` has noise of variance :math:`v_t`, of which :math:`v_{t|s}` came after
s. Every step that draws noise of variance :math:`\sigma^2 \le v_s` and carries the rest,

.. math::
    x_s = \varphi_s x_0 + \sqrt{v_s - \sigma^2}\, \frac{x_t - \varphi_t x_0}{\sqrt{v_t}}
        + \sigma \xi, \qquad \sigma^2 = \eta^2\, \frac{v_s\, v_{t|s}}{v_t},

leads from the marginal at t to that at s. Its share of new noise is
:math:`\sigma^2 / v_s = \eta^2 v_{t|s} / v_t`: the bridge's at :math:`\eta = 1`, all of it at
:math:`\eta^2 = v_t / v_{t|s}`, where a step forgets the noise at t, and no marginal has more.

Of α-stable noise the α-th powers of scales add up, and so the same holds with α for 2:

.. math::
    x_s = \varphi_s x_0 + (c_s^\alpha - \sigma^\alpha)^{1/\alpha}\, \frac{x_t - \varphi_t x_0}{c_t}
        + \sigma \varepsilon, \qquad \sigma^\alpha = \eta^\alpha c_s^\alpha\,
        \frac{c_{t|s}^\alpha}{c_t^\alpha}.

References:
    | Denoising Diffusion Implicit Models (Song et al., 2021)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..validation import require, values_are_checked

ROUNDING = 1e-12


def carried(eta: float, late: Tensor, power: float = 2.0) -> Tensor:
    r""":math:`1 - \eta^2 v_{t|s} / v_t`, the share of noise that a step carries on.

    Arguments:
        eta: :math:`\eta \ge 0`.
        late: :math:`v_{t|s} / v_t`, in [0, 1].
        power: α in the place of 2, where the α-th powers of scales add up.

    Raises:
        ValueError: If more noise is asked for than there is at s.

    Example:
        >>> carried(2.0, torch.tensor([0.1, 0.25]))
        tensor([0.6000, 0.0000])
    """
    share = 1 - eta**power * late
    if values_are_checked(share):
        least = float(share.detach().min()) if share.numel() else 0.0
        if least < -ROUNDING:
            most = float(late.detach().max()) ** (-1 / power)
            rule = f"eta must be at most {most:.6g} in a step of this grid, where all noise is new"
            require(False, f"{rule}: no larger sigma keeps the marginals; it is {eta!r}")
    return torch.where(share.abs() <= ROUNDING, 0.0, share)
