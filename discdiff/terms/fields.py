"""Drifts and noise that are any functions of the state."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..validation import require
from .kinds import Diffusion, Drift
from .numbers import broadcasts, is_tensor, require_fit


class Field(Drift):
    r"""Motion along any velocity field, :math:`dx = v(x, t)\, dt`; simulated, not solved.

    Arguments:
        velocity: A function of a state (B, *event) and a time (B,).

    Example:
        >>> import torch
        >>> circle = Field(lambda x, t: torch.stack([-x[:, 1], x[:, 0]], -1))
        >>> circle.velocity(torch.tensor([[1.0, 0.0]]), torch.zeros(1))
        tensor([[-0., 1.]])
    """

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(velocity), f"velocity must be a function of (x, t); it is {velocity!r}")
        self._velocity = velocity

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        found = self._velocity(x, t)
        require_fit(found, x, "velocity", found.shape == x.shape if is_tensor(found) else False)
        return found


class StateNoise(Diffusion):
    r"""Noise that depends on the state, :math:`dx = g(x, t)\, dW`; simulated, not solved.

    It acts entry by entry, in the sense of Itô. Its reversal drifts along
    :math:`g^2 \nabla \log p_t + \nabla g^2`, the second term entry by entry.

    Arguments:
        g: A function of a state (B, *event) and a time (B,), of values that broadcast with the
            state.

    Example:
        >>> import torch
        >>> price = StateNoise(lambda x, t: 0.2 * x)
        >>> price.mix(torch.ones(1, 2), torch.tensor([[1.0, 5.0]]), torch.zeros(1))
        tensor([[0.2000, 1.0000]])

    References:
        | Reverse-time diffusion equation models (Anderson, 1982)
    """

    def __init__(self, g: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(g), f"g must be a function of (x, t); it is {g!r}")
        self._g = g

    def level(self, x: Tensor, t: Tensor) -> Tensor:
        """g at a state and a time, of a shape that broadcasts with the state's."""
        found = self._g(x, t)
        require_fit(found, x, "g", is_tensor(found) and broadcasts(found, x))
        return found

    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level(x, t) * noise

    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level(x, t) * vector
