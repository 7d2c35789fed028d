"""The control variate of the path-KL: mean zero, less variance, the same gradients."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import AffineTransform, Normal

import discdiff as dd
from discdiff.certificate.vectors import nodes
from discdiff.control import variate
from discdiff.solve import Unsolved

CLOCK = dd.clock.Linear(0.1, 20.0)
vp = (dd.Linear(-0.5) + dd.Noise(1.0)).on(CLOCK)
cld = (dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])).on(
    dd.clock.Constant(4.0)
)
SUBJECTS = {
    "scalar": vp,
    "drifting": (dd.Linear(-0.5, 1.0) + dd.Noise(2.0)).on(CLOCK),
    "spreading": dd.zoo.edm(),
    "diagonal": (dd.Linear([-0.5, -1.0]) + dd.Noise([1.0, 0.3])).on(CLOCK),
    "in time": (dd.Linear(lambda t: -t) + dd.Noise(1.0)).on(dd.clock.Constant(2.0)),
    "matrix": cld,
    "lift": cld.lift(Normal(0.5, 0.1)),
    "third order": dd.zoo.malda(),
}
none = dd.heads.Score(lambda x, t: torch.zeros_like(x))


@pytest.mark.parametrize("name", list(SUBJECTS))
@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_its_mean_is_zero_at_every_time(float64, name, t):
    process = SUBJECTS[name]
    data = torch.tensor([0.7]) if isinstance(process, dd.Lifted) else torch.tensor([[0.7, -1.0]])
    law = process.marginal(data, t)
    full = getattr(law, "covariance_matrix", law.variance.diag_embed())
    y, w = nodes(law.mean, torch.linalg.cholesky(full))
    y = y.reshape(len(w), -1)
    times = torch.full((len(w),), t)
    values = variate(process, data.expand(len(w), *data.shape[1:]), y, times)
    assert abs(float(w @ values)) < 1e-10 * float(w @ values.abs())


COMBINED = {
    "known": vp.given((torch.tensor([1.0, 0.0]), torch.tensor([True, False]))),
    "scaled": SUBJECTS["lift"].scaled(lambda t: 1 - t / 2),
    "pushed": vp.push(AffineTransform(1.0, 2.0)),
    "mixture": dd.Mixture([0.5, 0.5], vp, SUBJECTS["drifting"]),
    "product": dd.Product(a=vp, b=SUBJECTS["third order"]),
}


@pytest.mark.parametrize("name", list(COMBINED))
def test_it_follows_every_combinator(float64, name):
    """The variate is Σ over entries that move of ½ tr M (ε² − 1): its mean by 50 000 draws."""
    process, x = COMBINED[name], torch.tensor([1.0, 0.3]).expand(50_000, 2)
    x = {"a": x, "b": -x} if name == "product" else x
    x = process.label(x) if name == "mixture" else x
    t = torch.full((50_000,), 0.4)
    values = variate(process, x, process.marginal(x, t).sample(), t)
    assert abs(float(values.mean())) < 5 * float(values.std()) / math.sqrt(50_000)


@pytest.mark.parametrize("name", ["scalar", "diagonal", "matrix", "lift", "third order"])
def test_a_head_that_says_nothing_leaves_no_variance(name):
    """With ŝ = 0 the loss is the quadratic term; less the variate, the trace alone."""
    torch.manual_seed(0)
    process, x = SUBJECTS[name], torch.randn(1, 2).expand(64, 2)
    plain, less = (dd.path_kl(process, none, x, nodes=24, control=c) for c in (None, 1.0))
    assert float(less.std()) < 1e-5 * float(plain.std())
    error = float(plain.std()) / 8
    assert abs(float(plain.mean() - less.mean())) < 5 * error


@pytest.mark.parametrize(("name", "size"), [("scalar", 3), ("third order", 9)])
def test_untrained_networks_have_less_variance(name, size):
    torch.manual_seed(0)
    process, x = SUBJECTS[name], torch.randn(2000, 3) / 2
    net = nn.Sequential(nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, size))
    head = dd.heads.Epsilon(lambda y, t: net(y.flatten(1)).reshape(y.shape))

    def draws(control):
        torch.manual_seed(1)
        with torch.no_grad():
            return dd.path_kl(process, head, x, nodes=24, control=control)

    plain, less = draws(None), draws(1.0)
    change = plain - less
    assert abs(float(change.mean())) < 5 * float(change.std()) / math.sqrt(len(x))
    gain = float(plain.var() / less.var())
    best = float(torch.cov(torch.stack([plain, change]))[0, 1] / change.var())
    print(f"{name}: variance / {gain:.1f} at 1, best coefficient {best:.2f}")
    assert gain > 4
    assert 0.8 < best < 1.3


def gradients(control):
    torch.manual_seed(0)
    process = dd.learn(dd.zoo.cld())
    net = nn.Linear(2, 2)
    bound = dd.elbo(process, dd.heads.Epsilon(lambda y, t: net(y)), torch.randn(8, 3), **control)
    bound.sum().backward()
    every = [*process.parameters(), *net.parameters()]
    return [p.grad for p in every if p.grad is not None]


@pytest.mark.parametrize("options", [{}, {"nodes": 5}])
def test_gradients_are_left_alone(float64, options):
    plain, less = gradients(options), gradients({"control": 0.9, **options})
    assert len(plain) > 4
    for a, b in zip(plain, less, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_it_is_refused_where_there_is_none():
    words = dd.Replace(torch.full((3,), 1 / 3)).on(dd.clock.LogLinear())
    head, x = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, 3)), torch.zeros(2, 1)
    with pytest.raises(Unsolved, match=r"control.*linear diffusions.*Replace"):
        dd.elbo(words, head, x.long(), control=1.0)
    for bad in (math.nan, math.inf, "1"):
        with pytest.raises(ValueError, match="control must be a finite number"):
            dd.path_kl(vp, none, x, control=bad)
