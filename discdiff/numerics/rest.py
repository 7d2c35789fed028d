r"""Sums over the states of a law but two, with few passes over them.

Of a law p on K states of which two are marked, a and b, and S the states that are not,

.. math::
    p_a, \quad p_b, \quad r = \sum_{y \in S} p_y, \quad
    \ell = \sum_{y \in S} \pi_y \log \Big( 1 + \frac{o\, p_y}{\pi_y h} \Big), \qquad
    h = r + k_a p_a + k_b p_b \text{ or } 1,

with slopes that one more table holds, :math:`v_y = \pi_y / (p_y + h \pi_y / o)`,

.. math::
    \frac{\partial \ell}{\partial p_y} = v_y, \qquad
    \frac{\partial \ell}{\partial o} = \frac1o \sum_{y \in S} p_y v_y, \qquad
    \frac{\partial}{\partial h} (\ell + m \log h) = \frac1o \sum_{y \in S} \pi_y v_y, \qquad
    m = \sum_{y \in S} \pi_y .

The value is wanted in two parts, of which one is small, but their slopes by h nearly cancel: so
the slope of :math:`\ell` is that of both, and :math:`m \log h` is to be added as a constant. A law
sums to one, so r moves as :math:`-p_a - p_b` does, and h as
:math:`-(1 - k_a) p_a - (1 - k_b) p_b`: their slopes need no table. Recorded step by step, five
tables on the way would be kept and read again; here p alone is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .factors import recorded

Sums = tuple[Tensor, Tensor, Tensor, Tensor]


def rest_sums(p: Tensor, marks: Tensor, odds: Tensor, pi: Tensor, k: Tensor | None = None) -> Sums:
    r"""The probabilities of the marked states, r, h and :math:`\ell`.

    They can be differentiated twice, along laws: p must come from a softmax or the like.

    Arguments:
        p: The law, shape (*rows, K), floating; the other numbers are of its dtype.
        marks: a and b, which may be one state, shape (*rows, 2), int64.
        odds: o > 0, shape (*rows).
        pi: :math:`\pi`, shape (K,), or 1/K alone, shape (1,), if all are that.
        k: :math:`k_a, k_b` and :math:`1 - k_a, 1 - k_b`, either of which may be rounding beside
            1, shape (2, *rows, 2), with :math:`k_b = 0` where a is b; h = 1 if not given.

    Returns:
        Shapes (*rows, 2), (*rows), (*rows) and (*rows). Slopes of the last are those of
        :math:`\ell + m \log h`.

    Example:
        >>> p, marks, one = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0, 0]]), torch.ones(1)
        >>> rest_sums(p, marks, one, one / 3)
        (tensor([[0.2000, 0.2000]]), tensor([0.8000]), tensor([1.]), tensor([0.5194]))
    """
    inputs = (p, odds) if k is None else (p, odds, k)
    if not recorded(*inputs) or pi.requires_grad or torch.compiler.is_compiling():
        return _sums(p, marks, odds, pi, k)
    return _Sums.apply(p, marks, odds, pi, k)  # type: ignore[return-value]


def _sums(p: Tensor, marks: Tensor, odds: Tensor, pi: Tensor, k: Tensor | None) -> Sums:
    marked = p.gather(-1, marks)
    u = _without(p * (odds.unsqueeze(-1) / pi), marks)
    rest = _weighed(u, pi) / odds
    if k is None:
        h = torch.ones_like(rest)
    else:
        h = rest + (k[0] * marked).sum(-1)
        u = u / h.unsqueeze(-1)  # not by o / (π h), which may overflow where p / h is small
    logs = _weighed(u.log1p() if torch.is_grad_enabled() else u.log1p_(), pi)
    if k is not None and torch.is_grad_enabled():
        mass = _weighed(_without(torch.ones_like(p), marks), pi)
        logs = logs + mass * (h.log() - h.detach().log())
    return marked, rest, h, logs


def _without(table: Tensor, marks: Tensor) -> Tensor:
    """A table of ours with zeros at marked states; in place where nothing is recorded of it."""
    if torch.is_grad_enabled():
        return table.scatter(-1, marks, 0.0)
    return table.scatter_(-1, marks, 0.0)


def _less(table: Tensor, v: Tensor) -> Tensor:
    """A table of ours less a number per row, likewise in place."""
    return table - v if torch.is_grad_enabled() else table.sub_(v)


def _weighed(table: Tensor, pi: Tensor) -> Tensor:
    return table.sum(-1) * pi if len(pi) == 1 else table @ pi


class _Sums(Function):
    """`_sums`, with its adjoint where π is not learned."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, marks: Tensor, odds: Tensor, pi: Tensor, k: Tensor | None) -> Sums:
        return _sums(p, marks, odds, pi, k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Sums) -> None:
        ctx.save_for_backward(*inputs, output[0], output[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, marks, odds, pi, k, marked, h = ctx.saved_tensors
        by_marked, by_rest, by_h, by_logs = grads
        by_odds = by_k = None
        below, top = p + (h / odds).unsqueeze(-1) * pi, by_logs.unsqueeze(-1)
        if k is not None or ctx.needs_input_grad[2]:
            slope = _without(pi / below, marks)
            by_odds = by_logs * (p * slope).sum(-1) / odds if ctx.needs_input_grad[2] else None
        by_both = -by_rest.unsqueeze(-1).expand(marked.shape)
        if k is not None:
            by_h = (by_h + by_logs * _weighed(slope, pi) / odds).unsqueeze(-1)
            by_both = by_both - by_h * k[1]
            by_k = torch.stack([by_h * marked, torch.zeros_like(marked)])
        one = (marks[..., :1] == marks[..., 1:]).expand(marks.shape)
        own = by_marked + torch.where(one, by_both[..., :1] / 2, by_both)  # added up at one state
        sure = _slope_of_the_sure(own, marked, one)
        own = own - torch.where(one, 0.5, 1.0).to(own.dtype) * sure
        by_p = _less(top * pi / below if k is None else top * slope, sure)
        return _without(by_p, marks).scatter_add_(-1, marks, own), None, by_odds, None, by_k


def _slope_of_the_sure(own: Tensor, marked: Tensor, one: Tensor) -> Tensor:
    """The slope by a marked state that has more than half of the mass, else 0, (*rows, 1).

    It is taken from all slopes, which changes none along laws: softmax would take nearly all of
    it from that state's own, and leave rounding.
    """
    own = torch.where(one, (own + own.flip(-1)) / 2, own)
    return torch.where(marked > 0.5, own, 0.0).sum(-1, keepdim=True)
