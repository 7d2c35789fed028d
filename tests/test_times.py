r"""Times for training: the density of a process is kept as long as its numbers stay the same.

Times are :math:`t = F^{-1}(u)` with weights :math:`1 / f(t)`; f and F are those of the clock as it
is now.
"""

import importlib

import pytest
import torch

import discdiff as dd

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
