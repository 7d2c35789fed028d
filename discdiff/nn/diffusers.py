"""`Diffusers`: networks of the diffusers library, called as ``net(x, t, context)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Diffusers(nn.Module):
    """Adapts ``UNet2DModel(sample, timestep, class_labels)`` and its relatives.

    Arguments:
        unet: The network object. Its output, or the ``sample`` of its output, is returned.
        scale: The timestep that stands for t = 1.
    """

    def __init__(self, unet: Callable[..., Any], scale: float = 1000.0) -> None:
        super().__init__()
        self.unet, self.scale = unet, scale

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        timestep = (self.scale * t).to(x.dtype)
        if context is None:
            output = self.unet(x, timestep)
        else:
            output = self.unet(x, timestep, class_labels=context)
        return getattr(output, "sample", output)
