r"""Times for training: the density of a process is kept as long as its numbers stay the same.

Times are :math:`t = F^{-1}(u)` with weights :math:`1 / f(t)`; f and F are those of the clock as it
is now.
"""

import importlib
import math

import pytest
import torch

import discdiff as dd
from discdiff.expectation import expected_path_kl

module = importlib.import_module("discdiff.times")
pytestmark = pytest.mark.usefixtures("float64")
X = torch.zeros(64, 2)
CLOCKS = {
    "numbers": lambda: dd.learn(dd.clock.Linear(0.1, 20.0)),
    "increments": lambda: dd.clock.Learned(dd.clock.Linear(0.1, 20.0), 8),
}


def diffusion(clock):
    return (dd.Linear(-0.5) + dd.Noise(1.0)).on(clock)


def drawn(process, **options):
    """Times and weights of one seed."""
    torch.manual_seed(3)
    return torch.stack(dd.times(process, X, **options))


@pytest.fixture
def made(monkeypatch):
    """One entry for every table that is made."""
    tables, table = [], module.Density
    monkeypatch.setattr(module, "Density", lambda *args: tables.append(args) or table(*args))
    return tables


def test_a_density_is_kept_by_stop(made):
    process = diffusion(dd.clock.Linear(0.1, 20.0))
    first = drawn(process)
    assert torch.equal(first, drawn(process)) and len(made) == 1
    late = drawn(process, stop=0.3)
    assert len(made) == 2 and bool((late[0] > 0.3).all())
    assert torch.equal(first, drawn(process)) and len(made) == 2
    drawn(diffusion(dd.clock.Linear(0.1, 20.0)))
    assert len(made) == 3


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("stop", [0.0, 0.1])
def test_a_change_of_a_learned_clock_is_seen(name, stop):
    process = diffusion(CLOCKS[name]())
    before = drawn(process, stop=stop)
    with torch.no_grad():
        for number in process.parameters():
            number.add_(torch.linspace(-1, 1, number.numel()).reshape(number.shape) + 0.3)
    after = drawn(process, stop=stop)
    assert float((after - before).abs().max()) > 1e-3
    module._known.clear()
    assert torch.equal(after, drawn(process, stop=stop))


def test_steps_of_an_optimiser_are_seen(made):
    process = diffusion(CLOCKS["increments"]())
    optimiser = torch.optim.SGD(process.parameters(), lr=0.1)
    for step in range(3):
        t, w = dd.times(process, X)
        assert len(made) == step + 1 and not t.requires_grad and not w.requires_grad
        (process.clock(t) ** 2).sum().backward()
        optimiser.step()


def test_a_density_of_inference_serves_training():
    process = diffusion(dd.clock.Linear(0.1, 20.0))
    with torch.inference_mode():
        dd.times(process, X)
    t, w = dd.times(process, X)
    scale = torch.ones((), requires_grad=True)
    (w * scale * t).mean().backward()
    torch.testing.assert_close(scale.grad, (w * t).mean())


def test_few_densities_are_kept():
    process = diffusion(dd.clock.Linear(0.1, 20.0))
    for i in range(2 * module.KEPT):
        dd.times(process, X, stop=0.01 * (i + 1))
    assert len(module._known[process].densities) <= module.KEPT


K = 32
CHAINS = {
    "walk": lambda: dd.Reflecting(K),
    "dense": lambda: dd.RateMatrix(torch.tensor([[-3.0, 1, 2], [0.5, -1, 0.5], [0.1, 0, -0.1]])),
    "mask": lambda: dd.Replace(dd.one_hot(4, 5)),
    "masks of their own": lambda: dd.Masking([1.0, 3.0, 0.1]),
    "ehrenfest": lambda: dd.Ehrenfest(5),
    "tree": lambda: dd.Clusters([[0, 0, 0, 0], [0, 0, 1, 1]]),
    "low rank": lambda: dd.LowRank(
        [[1.0, 0], [0.5, 0.5], [0, 1]], [[0.5, 0], [0.5, 0.2], [0, 0.8]]
    ),
    "sites": lambda: dd.RateMatrix(1 / 4 - torch.eye(4), sites=(2, 2)),
    "death": lambda: dd.Death(),
    "families": lambda: 0.5 * dd.Birth() + dd.Death(),
    "scalar": lambda: dd.Linear(-0.5) + dd.Noise(1.0),
    "diagonal": lambda: dd.Linear([-0.1, -5.0]) + dd.Noise(1.0),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("slow", [dd.clock.Constant(3.0), dd.clock.Linear(0.1, 20.0)])
def test_a_fast_process_on_a_slow_clock_has_the_same_law_of_own_time(name, slow):
    """(100 L).on(Λ) and L.on(100 Λ) are one process, so their own times are drawn alike."""
    fast = dd.clock.Function(lambda t: 100 * slow(t))
    times = []
    for process in ((100 * CHAINS[name]()).on(slow), CHAINS[name]().on(fast)):
        t, w = drawn(process)
        times.append(torch.stack([100 * slow(t), w * 100 * slow.rate(t)]))
    torch.testing.assert_close(*times, rtol=1e-7, atol=1e-12)


def test_walks_are_looked_at_until_they_have_forgotten():
    """A walk of 32 states forgets over τ = 1 … 300; of τ > 40 nothing used to be drawn."""
    process = dd.Reflecting(K).on(dd.clock.Constant(2000.0))
    torch.manual_seed(0)
    t, w = dd.times(process, torch.zeros(20000, 1))
    own = 2000 * t
    late = (own > 40) & (own < 400)
    assert float(late.double().mean()) > 0.15
    # the weights of a part of the path add up to its length
    assert float((w * late).mean()) == pytest.approx(360 / 2000, rel=0.05)


def test_the_path_kl_of_a_slow_walk_misses_nothing():
    """One site, a head that knows nothing: from own time 300 on, data are forgotten."""
    walk = dd.Reflecting(K)
    head = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, K))
    data = torch.arange(K).unsqueeze(1)
    uniform = torch.full((K,), 1 / K)
    quadrature = expected_path_kl(walk.on(dd.clock.Constant(2000.0)), head, data, uniform)
    assert float(quadrature.mean()) == pytest.approx(math.log(K), abs=1e-7)
