r"""Checks of what users hand in, and the switch that turns the costly ones off.

Shapes, dtypes and kinds are always checked. Values of data are checked against
:attr:`Process.support` where that costs no synchronisation: on the CPU, and not while
:func:`torch.compile` traces. The switch is the package's own: the first ``torch.compile`` of a
program turns torch's distribution checks off for the whole process, and must not turn off these.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor
from torch.distributions import constraints

_enabled = True
_everywhere = False


class HasStates(Protocol):
    """What `validate` asks of a process."""

    def check_data(self, x_0: Any, name: str) -> Any: ...


def set_validation(enabled: bool) -> None:
    """Turns the checks of data values on (the default) or off.

    Arguments:
        enabled: Whether public verbs compare data with the support of the process.

    Example:
        >>> set_validation(True)
    """
    global _enabled
    require(isinstance(enabled, bool), f"enabled must be True or False; it is {enabled!r}")
    _enabled = enabled


def validate(process: HasStates, x_0: Any) -> None:
    """Checks data against the support of a process: on any device, whatever the switch says.

    Call it once on what was loaded: on accelerators the other verbs check shapes and kinds only.

    Arguments:
        process: The process.
        x_0: Data, shape (B, *event) or a dict.

    Raises:
        ValueError: Naming the argument, its shape, the rule and the offending values.

    Example:
        >>> from discdiff import Death
        >>> validate(Death(), torch.tensor([[3.0], [0.5]]))
        Traceback (most recent call last):
        ValueError: x_0 of shape (2, 1) must lie in ...; it contains [0.5]
    """
    global _everywhere
    able = hasattr(process, "check_data")
    require(able, f"process must be a Process; it is {described(process)}")
    before, _everywhere = _everywhere, True
    try:
        process.check_data(x_0, "x_0")
    finally:
        _everywhere = before


def values_are_checked(x: Tensor) -> bool:
    """Whether the values of this tensor are to be checked now."""
    if _everywhere:
        return True
    return _enabled and x.device.type == "cpu" and not torch.compiler.is_compiling()


def require(holds: bool, message: str) -> None:
    """Raises ``ValueError(message)`` unless the rule holds."""
    if not holds:
        raise ValueError(message)


class NotANumber(ValueError):
    """A network returned NaN, or what leads to it, as one whose training diverged does."""


def require_numbers(output: Tensor, kind: str, part: Tensor | None = None) -> None:
    """Raises `NotANumber` if the network of a head of this kind returned NaN.

    Arguments:
        output: What it returned.
        kind: The kind of the head.
        part: What is used of the output, if not all: NaN elsewhere may stand.
    """
    seen = output.detach()
    total = seen.sum() if part is None else part.detach().sum()
    if math.isnan(float(total)) and bool(seen.isnan().any()):  # ∞ − ∞ is NaN as well
        rows = seen.reshape(len(seen), -1).isnan().any(1).nonzero()[:, 0]
        raise NotANumber(f"the network of {kind} returned NaN, in rows {shown(rows)} of the batch")


def require_finite(sums: Tensor, what: str) -> None:
    """Raises `NotANumber` if a sum of what is about to be drawn from is NaN or infinite.

    Arguments:
        sums: Sums, of a batch.
        what: What was summed.
    """
    if not values_are_checked(sums) or math.isfinite(float(sums.detach().sum())):
        return
    bad = ~sums.detach().isfinite()
    if bool(bad.any()):  # a sum of large numbers may overflow
        raise NotANumber(
            f"{what} must have a finite sum; it is {shown(sums[bad])} in {int(bad.sum())} of "
            f"{bad.numel()} entries. Has the network returned ∞, or −∞ for all states, or NaN?"
        )


def described(value: Any) -> str:
    """What an argument is that should be something else; a class lacks its brackets.

    Example:
        >>> described(3.0), described(float)
        ('a float', 'the class float, not one of its kind: call it')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}, not one of its kind: call it"
    return f"a {type(value).__name__}"


def require_kind(value: Any, kind: Any, rule: str) -> None:
    """Raises unless the value is an instance of a class (or of one of a union)."""
    if not isinstance(value, kind):
        raise ValueError(f"{rule}; it is {described(value)}")


def require_tensor(x: Any, name: str) -> None:
    """Raises unless this is a tensor with a batch dimension that holds something."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor; it is {described(x)}")
    if x.dim() < 1:
        raise ValueError(f"{name} must have a batch dimension; its shape is ()")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty; its shape is {tuple(x.shape)}")
    if x.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor; it is {x.layout}")


def as_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """The shape of a state, (B, *event).

    Raises:
        ValueError: If it is none, or leaves nothing.
    """
    listed = isinstance(shape, tuple | list) and len(shape) >= 1
    require(
        listed and all(isinstance(n, SupportsIndex) and int(n) >= 1 for n in shape),
        f"{name} must be (B, *event), a tuple of integers ≥ 1; it is {shape!r}",
    )
    return tuple(int(n) for n in shape)


def require_count(value: Any, name: str) -> int:
    """The value as an integer; raises unless it is one, at least 1."""
    whole = isinstance(value, SupportsIndex) and not isinstance(value, bool | Tensor)
    require(whole and int(value) >= 1, f"{name} must be an integer ≥ 1; it is {value!r}")
    return int(value)


def shown(values: Tensor, limit: int = 4) -> str:
    """A few offending values, for an error message."""
    values = values.detach().reshape(-1)
    head = ", ".join(f"{v:g}" for v in values[:limit].tolist())
    return f"[{head}{', …' if values.numel() > limit else ''}]"


def require_values(x: Tensor, support: constraints.Constraint, name: str) -> None:
    """Raises unless every entry of ``x`` lies in ``support``.

    Raises:
        ValueError: Naming the argument, its shape, the support and the offending values.
    """
    if _holds_fast(x, support):
        return
    inside = support.check(x)
    if x.is_floating_point() and inside.shape == x.shape:
        inside = inside & x.isfinite()  # torch counts ±∞ among the reals
    if not bool(inside.all()):
        bad = x.reshape(inside.shape + x.shape[inside.dim() :])[~inside]
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} must lie in {support!r}; it contains {shown(bad)}"
        )


def require_countable(x: Tensor, name: str) -> None:
    """Raises unless every count, and the next one, is a number of the tensor's dtype."""
    last, most = 2 / torch.finfo(x.dtype).eps, float(x.detach().max())
    require(
        most < last,
        f"{name} of shape {tuple(x.shape)} holds counts up to {most:g}, and {x.dtype} counts to "
        f"{last:g} only: use float64",
    )


def _holds_fast(x: Tensor, support: constraints.Constraint) -> bool:
    """Whether one cheap pass shows that every entry is inside; if not, nothing is shown."""
    if x.numel() == 0:
        return True
    if support is constraints.real:
        return math.isfinite(float(x.detach().sum()))  # NaN and ∞ do not leave a finite sum
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if x.is_floating_point() or low is None or high is None:
        return False
    least, most = x.aminmax()
    return low <= int(least) and int(most) <= high


def as_time(t: float | Tensor, x: Tensor, name: str, end: float = math.inf) -> Tensor:
    r"""A time argument as float64 of shape :math:`(B,)` on the device of the state ``x``.

    Raises:
        ValueError: If the shape is neither () nor (B,), or a time is negative, NaN or past the
            end.
    """
    batch = x.shape[0]
    if not isinstance(t, Tensor):
        require(isinstance(t, float | int), f"{name} must be a number or a tensor; it is {t!r}")
        require(t >= 0, f"{name} must be a time ≥ 0; it is {t}")
        require(t <= end, f"{name} must lie in [0, {end:g}] on a clock; it is {t}")
        return torch.tensor(float(t), dtype=torch.float64, device=x.device).expand(batch)
    if t.dim() != 0 and t.shape != (batch,):
        raise ValueError(
            f"{name} must be a number or have shape () or ({batch},), the batch; "
            f"its shape is {tuple(t.shape)}"
        )
    t = t.to(device=x.device, dtype=torch.float64)
    if values_are_checked(t) and t.numel():
        least, most = (float(v) for v in t.detach().aminmax())  # NaN if one is
        if not least >= 0:
            raise ValueError(f"{name} must hold times ≥ 0; it contains {shown(t[~(t >= 0)])}")
        if most > end:
            late = f"it contains {shown(t[t > end])}"
            raise ValueError(f"{name} must lie in [0, {end:g}] on a clock; {late}")
    return t.expand(batch)


def require_order(s: Tensor, t: Tensor) -> None:
    """Raises unless s ≤ t everywhere."""
    if values_are_checked(t) and values_are_checked(s):
        bad = s > t
        if bool(bad.any()):
            raise ValueError(
                f"times must satisfy s ≤ t; s contains {shown(s[bad])} where t is {shown(t[bad])}"
            )
