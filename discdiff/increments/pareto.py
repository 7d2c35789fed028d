r"""Pareto's family, which is of three shapes by the sign of its concentration."""

from __future__ import annotations

import torch

from .base import Increment
from .registry import increment, standardises


@standardises(torch.distributions.GeneralizedPareto)
def generalised_pareto(law: torch.distributions.GeneralizedPareto) -> Increment:
    """Of Pareto's shape, exponential, or a share's, by the sign of its concentration."""
    xi = torch.as_tensor(law.concentration, dtype=torch.float64)
    if float(xi) == 0:
        return increment(torch.distributions.Exponential(torch.ones_like(xi)))
    if float(xi) < 0:
        return increment(torch.distributions.Beta(torch.ones_like(xi), -1 / xi))
    return increment(torch.distributions.Pareto(torch.ones_like(xi), 1 / xi))
