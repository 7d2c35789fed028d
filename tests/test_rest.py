"""Sums over the states of a law but two: against the definition, state by state."""

import math

import mpmath
import pytest
import torch

from discdiff.numerics.rest import rest_sums

K = 6
LAWS = {
    "even": torch.full((1,), 1 / K, dtype=torch.float64),
    "uneven": torch.tensor([1, 5, 2, 7, 1, 4], dtype=torch.float64) / 20,
}
MARKS = torch.tensor([[0, 1], [3, 3], [5, 2]])


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def numbers():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, K, generator=generator)
    odds, k = torch.tensor([0.3, 4.0, 1e-3]), torch.rand(3, 2, generator=generator)
    return [v.requires_grad_() for v in (logits, odds, k)]


def naive(logits, odds, k, pi):
    """Row by row and state by state."""
    rows = []
    pi = pi.expand(K)
    for row, (a, b) in enumerate(MARKS.tolist()):
        p = logits[row].softmax(-1)
        others = [y for y in range(K) if y not in (a, b)]
        rest = sum(p[y] for y in others)
        h = torch.ones(()) if k is None else rest + k[row, 0] * p[a] + k[row, 1] * p[b] * (a != b)
        logs = sum(pi[y] * torch.log(1 + odds[row] * p[y] / (pi[y] * h)) for y in others)
        logs = logs + sum(pi[y] for y in others) * (h.log() - h.detach().log())
        rows.append(torch.stack([p[a], p[b], rest, h, logs]))
    return torch.stack(rows)


def both(k, marks):
    """k, which is 0 of the second of two marks of one state, and 1 - k."""
    if k is None:
        return None
    k = k * torch.stack([marks[..., 0] >= 0, marks[..., 0] != marks[..., 1]], -1)
    return torch.stack([k, 1 - k])


def ours(logits, odds, k, pi):
    marks = MARKS[: len(logits)]
    marked, *others = rest_sums(logits.softmax(-1), marks, odds, pi, both(k, marks))
    return torch.cat([marked, torch.stack(others, -1)], -1)


def inputs(with_k):
    logits, odds, k = numbers()
    return logits, odds, k if with_k else None


@pytest.mark.parametrize("with_k", [True, False], ids=["k", "one"])
@pytest.mark.parametrize("name", LAWS)
def test_sums_and_their_slopes_of_both_orders_are_those_of_the_definition(name, with_k):
    torch.manual_seed(1)
    args = [v for v in inputs(with_k) if v is not None]
    pi, found = LAWS[name], []
    for rule in (ours, naive):
        value = rule(args[0], args[1], args[2] if with_k else None, pi)
        weight = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
        slopes = torch.autograd.grad((weight * value).sum(), args, create_graph=True)
        turned = sum((torch.linspace(-1, 1, v.numel()) * v.flatten()).sum() for v in slopes)
        found.append([value, *slopes, *torch.autograd.grad(turned, args)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_slopes_are_along_laws_only():
    """Of numbers that no softmax made, the slopes by r are others: so the docstring says."""
    p = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.1, 0.2]], requires_grad=True)
    _, rest, _, _ = rest_sums(p, MARKS[:1], torch.ones(1), LAWS["even"])
    (slope,) = torch.autograd.grad(rest.sum(), p)
    assert slope.tolist() == [[-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("with_k", [True, False], ids=["k", "one"])
@pytest.mark.parametrize("name", LAWS)
def test_learned_weights_have_slopes(name, with_k):
    logits, odds, k = inputs(with_k)
    found = []
    for rule in (ours, naive):
        pi = LAWS["uneven"].clone().requires_grad_()
        value = rule(logits, odds, k, pi)
        found.append(torch.autograd.grad(value.square().sum(), (pi, logits)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_batches_of_slopes():
    """vmap over samples, and a Jacobian whose rows are found at once."""
    logits, odds, k = numbers()
    pi = LAWS["uneven"]

    def one(logits, marks, odds, k):
        return torch.cat(
            [v.reshape(-1) for v in rest_sums(logits.softmax(-1), marks, odds, pi, both(k, marks))]
        )

    goal = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda v, n=n: naive(v, odds, k, pi)[n], logits.detach()
            )[:, n]
            for n in range(3)
        ]
    )
    each = torch.func.vmap(torch.func.jacrev(one))(logits, MARKS, odds, k)
    torch.testing.assert_close(each, goal, rtol=1e-12, atol=1e-13)
    whole = torch.autograd.functional.jacobian(
        lambda v: ours(v, odds.detach(), k.detach(), pi), logits.detach(), vectorize=True
    )
    for n in range(3):
        torch.testing.assert_close(whole[n, :, n], goal[n], rtol=1e-12, atol=1e-13)


SURE = [(o, g) for o in (1e-30, 1e-8, 1.0, 1e8, 1e15) for g in (0, 30, 75) if o > 1e-8 or g < 31]


@pytest.mark.parametrize(("odds", "gap"), [pair for pair in SURE if pair != (1e-30, 30)])
def test_single_precision_where_the_law_is_sure(odds, gap):
    """Relative to the truth in many digits, values and slopes, where o r is a normal number."""
    with mpmath.workdps(60):
        p = [mpmath.mpf(1)] + [mpmath.e ** (-gap - y) for y in range(1, K)]
        p = [v / sum(p) for v in p]
        rest = sum(p[1:])
        h = rest + p[0] / (1 + odds * K)
        logs = sum(mpmath.log(1 + odds * K * v / h) for v in p[1:]) / K
        slope = [-p[1] * odds / (h + odds * K * v) for v in p[1:]]
        total = sum(v * odds / (h + odds * K * v) for v in p[1:])
        mass = mpmath.mpf(K - 1) / K  # slopes are those of logs + mass log h
        by_h = (mass - total) / h * (1 - 1 / (1 + mpmath.mpf(odds) * K))
        # d / d logits: p_y (v_y + by_h [y ≠ a] - mean)
        mean = total + by_h * rest
        slope = [p[y] * (odds / (h + odds * K * p[y]) + by_h - mean) for y in range(1, K)]
        slope = [-p[0] * mean, *slope]
        goal = [float(v) for v in (rest, h, logs)], [float(v) for v in slope]
    logits = torch.tensor([0.0, *[-gap - y for y in range(1, K)]]).float().requires_grad_()
    o = torch.tensor(odds).float()
    u = o.double() * K
    k = torch.stack([1 / (1 + u), u / (1 + u)]).unsqueeze(-1) * torch.tensor([1.0, 0.0])
    pi = torch.full((1,), 1 / K).float()
    args = logits.softmax(-1)[None], torch.tensor([[0, 0]]), o[None], pi, k.unsqueeze(1).float()
    _, *sums = rest_sums(*args)
    for a, b in zip(sums, goal[0], strict=True):
        assert math.isclose(float(a.detach()), b, rel_tol=3e-6), (float(a), b)
    (found,) = torch.autograd.grad(sums[-1].sum(), logits)
    scale = max(abs(v) for v in goal[1])
    assert bool(found.isfinite().all())
    assert max(abs(a - b) for a, b in zip(found.tolist(), goal[1], strict=True)) < 1e-5 * scale
