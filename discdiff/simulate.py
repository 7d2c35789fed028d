r"""Forward paths: exact where the transition law is known, else Euler–Maruyama or Gillespie.

A chain that is Markov backward only is drawn from its end, :math:`p(x_T \mid x_0) \prod_k
p(x_{k-1} \mid x_k, x_0)`, which is the joint law of its states as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .chains import Stepwise
from .laws import draw, draw_categories
from .params import as_numbers
from .process import Chain, Leaf, Process, first_tensor, require_process
from .shapes import along, span
from .solve import Unsolved
from .strong import runge_kutta
from .terms import Diffusion, Drift, Jump
from .validation import require, require_count, shown, values_are_checked

State = Any


@torch.no_grad()
def simulate(
    process: Process,
    x_0: State,
    times: Tensor | list[float],
    steps: int = 64,
    strong: bool = False,
) -> State:
    r"""Draws paths of the process at given times.

    Where an engine knows the transition law the paths are exact, and where a chain is declared by
    its steps back, given the data: then ``x_0`` are these, and the path is drawn from its end.
    Otherwise diffusions take
    ``steps`` Euler–Maruyama steps between two times, and jump processes are followed jump by jump
    (Gillespie), which is exact for rates that do not vary in time.

    Arguments:
        process: The process.
        x_0: Starting states, (B, *event) or a dict.
        times: Increasing times, T of them.
        steps: Euler–Maruyama steps between two times.
        strong: Whether diffusions without a closed form take stochastic Runge–Kutta steps of
            strong order 3/2 instead, for noise that acts entry by entry (`StateNoise`, scalars).

    Returns:
        Shape (T, B, *event), or a dict of such.

    Raises:
        ValueError: If the times do not increase.
    """
    require_process(process)
    x = process.check_state(x_0, "x_0")
    steps = require_count(steps, "steps")
    times = as_numbers(times, "times")
    last = 1.0 if process.timed else torch.inf
    rule = f"times must be a vector that increases within [0, {last:g}]; it is {shown(times, 8)}"
    require(
        times.dim() == 1 and len(times) >= 1 and bool(((times >= 0) & (times <= last)).all()), rule
    )
    require(bool((times.diff() >= 0).all()), rule)
    first = first_tensor(x)
    instants = [time.expand(first.shape[0]).to(first.device) for time in times]
    s, path = torch.zeros(first.shape[0], dtype=torch.float64, device=first.device), []
    if any(isinstance(term, Stepwise) and term.backward for term in _terms(process, s)):
        return _stack(_backward(process, x, instants))
    for t in instants:
        x = advance(process, x, s, t, steps, strong)
        path.append(x)
        s = t
    return _stack(path)


def _backward(process: Process, x_0: State, times: list[Tensor]) -> list[State]:
    """States at increasing times, (B,) each, drawn from the last to the first given the data."""
    data, path, later = process.as_estimate(x_0), [], None
    for t in reversed(times):
        if not bool(t.any()):
            x = x_0
        elif later is None:
            x = draw(process._marginal(x_0, t))
        elif not torch.equal(t, later):
            x = draw(process._bridge(data, x, t, later))
        later = t
        path.append(x)
    return path[::-1]


@torch.no_grad()
def advance(
    process: Process, x: State, s: Tensor, t: Tensor, steps: int = 64, strong: bool = False
) -> State:
    """States at times t, given those at times s, each of shape (B,): see `simulate`."""
    try:
        return draw(process._transition(x, s, t))
    except Unsolved:
        steps_lead_there = all(isinstance(v, Drift | Diffusion | Jump) for v in _terms(process, s))
        if isinstance(process, Chain) or not steps_lead_there:
            raise
        moved = x
        for leaf, goal in zip(process.leaves(s), process.leaves(t), strict=True):
            moved = goal.put(moved, _follow(leaf, goal, leaf.get(x), steps, strong))
        return moved


def _terms(process: Process, t: Tensor) -> list[Any]:
    """All terms of a process, or of that which a chain is taken from."""
    inside = process.process if isinstance(process, Chain) else process
    return [term for leaf in inside.leaves(t) for term in leaf.core.terms]


def _follow(leaf: Leaf, goal: Leaf, x: Tensor, steps: int, strong: bool) -> Tensor:
    terms = leaf.core.terms
    if all(isinstance(term, Jump) for term in terms):
        return _gillespie(terms, x, span(leaf.time, goal.time))
    if not all(isinstance(term, Drift | Diffusion) for term in terms):
        raise Unsolved("jumps and diffusions in one sum are not simulated")
    step = span(leaf.time, goal.time) / steps
    require(bool(step.isfinite().all()), "times must be finite in the process's own time here")
    if strong:
        return runge_kutta(terms, x, float(leaf.time[0]), float(goal.time[0]), steps)
    for k in range(steps):
        x = _euler(terms, x, leaf.time + k * step, step)
    if values_are_checked(x) and not bool(x.isfinite().all()):
        raise ValueError(
            f"paths of {leaf.core!r} left the finite numbers before the own time "
            f"{float(goal.time.max()):g}, in steps of {float(step.max()):g}: take more steps"
        )
    return x


def _euler(terms: Any, x: Tensor, t: Tensor, step: Tensor) -> Tensor:
    moved = x
    for term in terms:
        scale = term.scale.to(x.dtype)
        if isinstance(term, Drift):
            moved = moved + along(step, x) * scale * term.velocity(x, t)
        else:
            noise = term.mix(term.white(x), x, t)
            moved = moved + (along(step, x) * scale).sqrt() * noise
    return moved


def _gillespie(terms: Any, x: Tensor, tau: Tensor) -> Tensor:
    """Every entry jumps by itself until its time is over."""
    axes = terms[0].event_axes
    sites = x.shape[: x.dim() - axes]
    left = along(tau, torch.empty(sites), torch.float64).expand(sites).clone()
    require(bool(left.isfinite().all()), "times must be finite in the process's own time here")
    while True:
        found = [term.out(x) for term in terms]
        points = torch.cat([p for p, _ in found], -1 - axes)
        rates = torch.cat([t.scale * r for t, (_, r) in zip(terms, found, strict=True)], -1)
        own = points == x.unsqueeze(-1 - axes)
        rates = torch.where(own.all(-1) if axes else own, 0.0, rates.double())
        total = rates.sum(-1)
        wait = torch.empty_like(total).exponential_() / total
        left = left - wait
        jumps = left > 0
        if not bool(jumps.any()):
            return x
        still = (total > 0).unsqueeze(-1)  # elsewhere no jump is left, and any index serves
        index = draw_categories(torch.where(still, rates, 1.0).log())
        if axes:
            index = index[..., None, None].expand(*index.shape, 1, points.shape[-1])
            target = points.gather(-2, index).squeeze(-2)
            x = torch.where(jumps.unsqueeze(-1), target, x)
        else:
            x = torch.where(jumps, points.gather(-1, index.unsqueeze(-1)).squeeze(-1), x)


def _stack(path: list[State]) -> State:
    if isinstance(path[0], Mapping):
        return {k: _stack([x[k] for x in path]) for k in path[0]}
    return torch.stack(path)
