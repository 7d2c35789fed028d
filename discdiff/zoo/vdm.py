"""The variance-preserving diffusion with a learned log-signal-to-noise ratio."""

from __future__ import annotations

from ..clock import Learned, LogSNR
from ..process import Process
from ..terms import Linear, Noise


def vdm(low: float = -13.3, high: float = 5.0, panels: int = 16) -> Process:
    r"""The variational diffusion model: :math:`\gamma = -\log \mathrm{SNR}` is learned.

    .. math:: z_t = \alpha_t x + \sigma_t \varepsilon, \qquad
              \alpha_t^2 = \operatorname{sigmoid}(-\gamma(t)), \quad
              \sigma_t^2 = \operatorname{sigmoid}(\gamma(t))

    :math:`\gamma` is increasing and piecewise linear between pinned ends. The paper's
    :math:`z_0` is already noisy, with variance :math:`\operatorname{sigmoid}(\gamma(0))`, 1.7e-6
    by default. Here time starts from :math:`z_0` as the data, so all transitions from s < t are
    the paper's:

    .. math:: z_t \mid z_s \sim \mathcal{N}\Big(\frac{\alpha_t}{\alpha_s} z_s,\;
              \sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2\Big)

    Arguments:
        low: :math:`\gamma(0)`.
        high: :math:`\gamma(1)`.
        panels: Panels of the learned function; its parameters are those of the process.

    References:
        | Variational Diffusion Models (Kingma et al., 2021)

    Example:
        >>> import torch
        >>> clock = vdm().clock
        >>> clock.survival(torch.tensor(0.5)).sqrt(), [p.shape for p in clock.parameters()]
        (tensor(0.9922, dtype=torch.float64, grad_fn=...), [torch.Size([16])])
    """
    return (Linear(-0.5) + Noise(1.0)).on(Learned(LogSNR(low, high), panels))
