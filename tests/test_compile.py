"""``torch.compile(fullgraph=True)`` of perturb + loss: one graph, and the eager values."""

import pytest
import torch

import discdiff as dd

K, MASK = 5, 4


def chain():
    torch.manual_seed(1)
    Q = torch.rand(K, K)
    return dd.RateMatrix(Q - Q.sum(1).diag()).on(dd.clock.Constant(2.0))


def logits(x, t):
    return torch.nn.functional.one_hot(x, K).float() * (1 + t.float())[:, None, None]


MARKET = {
    "vp": (
        lambda: (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)),
        lambda: dd.heads.Epsilon(lambda x, t: x * t.float()[:, None]),
        lambda: torch.randn(6, 3),
    ),
    "masked": (
        lambda: dd.Replace(dd.one_hot(MASK, K)).on(dd.clock.LogLinear()),
        lambda: dd.heads.Posterior(logits, absent=MASK),
        lambda: torch.randint(0, MASK, (6, 3)),
    ),
    "uniform": (
        lambda: dd.Replace(torch.full((K,), 1 / K)).on(dd.clock.LogLinear()),
        lambda: dd.heads.LeaveOneOut(logits),
        lambda: torch.randint(0, K, (6, 3)),
    ),
    "blackout": (
        lambda: dd.Death().on(dd.clock.Logistic(15.0)),
        lambda: dd.heads.Missing(lambda x, t: x - t.float()[:, None]),
        lambda: torch.randint(0, 17, (6, 3)).float(),
    ),
    "ring": (
        lambda: dd.Ring(K).on(dd.clock.Constant(2.0)),
        lambda: dd.heads.Posterior(logits),
        lambda: torch.randint(0, K, (6, 3)),
    ),
    "dense chain": (
        chain,
        lambda: dd.heads.LeaveOneOut(logits),
        lambda: torch.randint(0, K, (6, 3)),
    ),
}


@pytest.fixture(params=list(MARKET))
def example(request):
    """A process, a head and data; compilers and generators are left as they were."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    process, head, x_0 = (make() for make in MARKET[request.param])
    with torch._inductor.config.patch(fallback_random=True):
        yield process, head, x_0
    torch._dynamo.reset()


def steps(process, head, x_0):
    """Times outside, perturb + loss inside: what a training step compiles."""
    t, w = dd.times(process, x_0)

    def step(x_0, t, w):
        return (w * dd.loss(process, head, x_0, t)).mean()

    return step, (x_0, t, w)


def test_perturb_and_loss_are_one_graph(example):
    step, args = steps(*example)
    report = torch._dynamo.explain(step)(*args)
    assert report.graph_break_count == 0, report.break_reasons
    assert report.graph_count == 1


def test_compiled_values_are_the_eager_values(example):
    step, args = steps(*example)
    compiled = torch.compile(step, fullgraph=True)
    for seed in (3, 4):  # the second run uses the cached graph
        torch.manual_seed(seed)
        eager = step(*args)
        torch.manual_seed(seed)
        found = compiled(*args)
        assert torch.allclose(found, eager, rtol=2e-5, atol=1e-6), (found, eager)
        assert bool(found.isfinite())


FRESH = MARKET | {
    "reflecting": (lambda: dd.Reflecting(K).on(dd.clock.Constant(2.0)), *MARKET["ring"][1:]),
    "killing": (
        lambda: dd.Killing(dd.Ring(K - 1)),
        lambda: dd.heads.Posterior(logits, absent=MASK),
        lambda: torch.randint(0, MASK, (6, 3)),
    ),
    "cld": (
        lambda: dd.zoo.cld(),
        lambda: dd.heads.Epsilon(lambda x, t: x),
        lambda: torch.randn(6, 3),
    ),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_process_may_be_used_for_the_first_time_in_a_graph(name):
    """Plans and tables look at numbers, so they are made before the graph that reads them."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    make, head, data = FRESH[name]
    process, head, x_0, t = make(), head(), data(), torch.full((6,), 0.4)
    x_t = FRESH[name][0]().marginal(x_0, t).sample()

    def step(x_0, t, x_t):
        return dd.loss(process, head, x_0, t, x_t=x_t)

    found = torch.compile(step, fullgraph=True, backend="aot_eager")(x_0, t, x_t)
    assert torch.allclose(found, step(x_0, t, x_t), rtol=1e-5), found
    torch._dynamo.reset()


def test_gradients_pass_through_the_graph():
    torch._dynamo.reset()
    torch.manual_seed(0)
    process, _, data = (make() for make in MARKET["vp"])
    net = torch.nn.Linear(3, 3)
    head = dd.heads.Epsilon(lambda x, t: net(x))
    step, args = steps(process, head, data)
    with torch._inductor.config.patch(fallback_random=True):
        torch.manual_seed(5)
        step(*args).backward()
        eager = net.weight.grad.clone()
        net.zero_grad()
        torch.manual_seed(5)
        torch.compile(step, fullgraph=True)(*args).backward()
    assert torch.allclose(net.weight.grad, eager, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


def test_another_batch_size_needs_no_other_code():
    torch._dynamo.reset()
    process, head, data = (make() for make in MARKET["masked"])
    step, args = steps(process, head, data)
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 5, 3):
        assert bool(compiled(*(v[:size] for v in args)).isfinite())
    torch._dynamo.reset()


def damped():
    drift = dd.Linear([[0.0, 4.0], [-1.0, -4.0]])
    return (drift + dd.Noise([[0.0], [2**0.5]])).on(dd.clock.Constant(4.0))


BOUNDS = {
    "vp": MARKET["vp"],
    "masked": MARKET["masked"],
    "blackout": MARKET["blackout"],
    "vectors": (damped, MARKET["vp"][1], lambda: torch.randn(6, 2)),
    "lift": (
        lambda: damped().lift(torch.distributions.Normal(0.0, 0.1)),
        lambda: dd.heads.Epsilon(lambda x, t: x * t.float()[:, None, None]),
        lambda: torch.randn(6, 3),
    ),
}


@pytest.mark.parametrize("nodes", [None, 3])
@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_one_graph_with_the_eager_values(name, nodes):
    """Also of a process that has never been asked for anything before it is compiled."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    process, head, x_0 = (make() for make in BOUNDS[name])
    bound = lambda x_0: dd.path_kl(process, head, x_0, nodes=nodes)
    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    for seed in (3, 4):
        torch.manual_seed(seed)
        found = compiled(x_0)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, bound(x_0), rtol=2e-5, atol=1e-5)
    torch._dynamo.reset()
