"""Networks of tokens: what each output may and may not see."""

import pytest
import torch

import discdiff as dd
from discdiff.nn import (
    MLP,
    Attention,
    Concat,
    Energy,
    Film,
    HollowTransformer,
    Masked,
    Tokens,
    Transformer,
)

SIZE, LENGTH = 5, 6
SMALL = {"length": LENGTH, "width": 16, "layers": 2, "heads": 2}
READOUTS = [Concat, Film, Attention]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def hollow(readout=Concat, **options):
    return HollowTransformer(SIZE, readout=readout, **SMALL, **options)


def nets():
    """Every network that is blind to the site it speaks of, in float64."""
    inner = Transformer(SIZE + 1, outputs=SIZE, **SMALL, classes=3)
    scalar = Tokens(MLP((LENGTH, 4), (), width=16, classes=3), SIZE, dim=4)
    blind = {f"hollow, {r.__name__}": hollow(r, classes=3) for r in READOUTS}
    blind |= {"masked": Masked(inner, SIZE), "energy": Energy(scalar, SIZE)}
    return {name: net.double().eval() for name, net in blind.items()}


def changes(net, context=None):
    """Whether a change of token e changes the logits at d, for all other tokens: (D, D)."""
    x, t = torch.randint(SIZE, (1, LENGTH)), torch.rand(1, dtype=torch.float64)
    base, rows = net(x, t, context)[0], []
    for e in range(LENGTH):
        moved = torch.zeros(LENGTH)
        for c in range(SIZE):
            y = x.index_fill(1, torch.tensor([e]), c)
            moved = torch.maximum(moved, (net(y, t, context)[0] - base).abs().amax(-1))
        rows.append(moved)
    return torch.stack(rows, -1).detach()


@pytest.mark.parametrize("name", nets())
def test_a_site_is_seen_by_all_others_and_not_by_itself(name):
    """With equality to the last bit for one hollow call; Energy's batches round."""
    seen = changes(nets()[name])
    own = seen.diagonal()
    assert float(own.max()) == 0 if name != "energy" else float(own.max()) < 1e-14
    others = seen[~torch.eye(LENGTH, dtype=torch.bool)]
    assert float(others.min()) > 1e-8


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("training", [False, True])
def test_the_hollow_jacobian_is_zero_on_its_diagonal(readout, training):
    """Also while training with dropout, in float32, through the embedding of the tokens."""
    net = hollow(readout, dropout=0.1).train(training)
    x, t = torch.randint(SIZE, (3, LENGTH)), torch.rand(3)
    embedded = net.embedded(x).detach().requires_grad_()
    net.embedded.forward = lambda x: embedded
    logits = net(x, t)
    for d in range(LENGTH):
        (slope,) = torch.autograd.grad(logits[:, d].sum(), embedded, retain_graph=True)
        reach = slope.abs().amax(-1)
        assert bool((reach[:, d] == 0).all())
        assert training or bool((reach[:, torch.arange(LENGTH) != d] > 0).all())


def test_a_plain_transformer_sees_the_site_itself():
    seen = changes(Transformer(SIZE, **SMALL).double().eval())
    assert float(seen.min()) > 1e-8


@pytest.mark.parametrize("name", nets())
def test_time_and_label_matter_and_no_context_is_the_unknown_label(name):
    net = nets()[name]
    x, t = torch.randint(SIZE, (2, LENGTH)), torch.rand(2, dtype=torch.float64)
    label = torch.tensor([0, 2])
    assert not torch.allclose(net(x, t, label), net(x, t + 0.05, label))
    assert not torch.allclose(net(x, t, label), net(x, t, label.flip(0)))
    torch.testing.assert_close(net(x, t), net(x, t, torch.tensor([3, 3])))
    torch.testing.assert_close(net(x, t, label)[1:], net(x[1:], t[1:], label[1:]))


@pytest.mark.parametrize("make", [lambda **k: Transformer(SIZE, **SMALL, **k), hollow])
def test_labels_are_dropped_in_training_only(make):
    net = make(classes=3, drop=0.5, dropout=0.0)
    x = torch.zeros(400, LENGTH, dtype=torch.int64)
    t, label = torch.full((400,), 0.3), torch.zeros(400, dtype=torch.int64)
    close = lambda a, b: (a - b).abs().amax((1, 2)) < 1e-5
    unknown = close(net.train()(x, t, label), net(x, t))
    assert 0.4 < float(unknown.float().mean()) < 0.6
    assert not bool(close(net.eval()(x, t, label), net(x, t)).any())


def test_wrong_lengths_and_contexts_are_named():
    t = torch.rand(2)
    for net in (hollow(), Transformer(SIZE, **SMALL)):
        with pytest.raises(ValueError, match="must hold 6 tokens"):
            net(torch.zeros(2, 5, dtype=torch.int64), t)
        with pytest.raises(ValueError, match="classes=0"):
            net(torch.zeros(2, 6, dtype=torch.int64), t, torch.tensor([0, 1]))


def test_images_of_tokens_keep_their_shape():
    x, t = torch.randint(SIZE, (2, 2, 3)), torch.rand(2)
    inner = Transformer(SIZE + 1, outputs=SIZE, **SMALL)
    scalar = Tokens(MLP((2, 3, 4), (), width=16), SIZE, dim=4)
    for net in (hollow(), Transformer(SIZE, **SMALL), Masked(inner, SIZE), Energy(scalar, SIZE)):
        assert net(x, t).shape == (2, 2, 3, SIZE)


def test_energies_are_those_of_the_changed_states_and_each_is_asked_for_once():
    rows = 0

    def f(x, t, context=None):
        nonlocal rows
        rows += len(x)
        return (x * torch.tensor([1.0, 10.0])).sum(-1) + t

    net = Energy(f, 3)
    x, t = torch.tensor([[2, 0], [1, 1]]), torch.tensor([0.25, 0.5])
    found = net(x, t)
    assert rows == 2 * (2 * (3 - 1) + 1)
    first = torch.stack([x[:, 1] * 10 + c + t for c in range(3)], -1)
    second = torch.stack([x[:, 0] + 10 * c + t for c in range(3)], -1)
    assert torch.equal(found, torch.stack([first, second], 1))


def test_energies_of_networks_without_a_context_are_one_call_and_chunks_change_nothing():
    """The network is asked as heads ask: with (x, t) alone where there is no context."""
    calls = []

    def f(x, t):
        calls.append(len(x))
        return (x * torch.tensor([1.0, 10.0, 100.0])).sum(-1) * t

    x, t = torch.randint(4, (5, 3)), torch.rand(5)
    whole = Energy(f, 4)(x, t)
    assert calls == [5 * (3 * 3 + 1)]
    parts = Energy(f, 4, chunk=7)(x, t)
    assert calls[1:] == [7] * 7 + [1] and torch.equal(whole, parts)
    for d in range(3):
        for c in range(4):
            assert torch.equal(whole[:, d, c], f(x.index_fill(1, torch.tensor([d]), c), t))


def test_masked_networks_without_a_context_are_one_call_and_chunks_change_nothing():
    calls = []

    def f(x, t):
        calls.append(len(x))
        return x.cumsum(1).unsqueeze(-1) * torch.tensor([1.0, 2.0]) * t.reshape(-1, 1, 1)

    x, t = torch.randint(2, (5, 3)), torch.rand(5)
    whole = Masked(f, 2)(x, t)
    assert calls == [15] and torch.equal(whole, Masked(f, 2, chunk=4)(x, t))
    for d in range(3):
        assert torch.equal(whole[:, d], f(x.index_fill(1, torch.tensor([d]), 2), t)[:, d])


def test_networks_of_the_wrong_shape_are_named():
    x, t = torch.zeros(2, 3, dtype=torch.int64), torch.rand(2)
    rule = r"net must return \(B,\); it is \(14, 3\) for states of shape \(14, 3\)"
    with pytest.raises(ValueError, match=rule):
        Energy(lambda x, t: x.float(), 3)(x, t)
    with pytest.raises(ValueError, match=r"net must return \(B, \*event, K\); it is \(6,\)"):
        Masked(lambda x, t: t, 3)(x, t)
    with pytest.raises(ValueError, match="size must be an integer ≥ 2; it is 1"):
        Energy(lambda x, t: t, 1)
    with pytest.raises(ValueError, match="chunk must be an integer ≥ 1; it is 0"):
        Masked(lambda x, t: t, 3, chunk=0)


def test_contexts_that_are_dicts_reach_every_change():
    f = lambda x, t, context: context["shift"] * x.sum(-1)
    found = Energy(f, 2)(torch.zeros(2, 3, dtype=torch.int64), torch.rand(2),
                         {"shift": torch.tensor([1.0, 2.0])})  # fmt: skip
    assert torch.equal(found[..., 1], torch.tensor([[1.0] * 3, [2.0] * 3]))


@pytest.mark.parametrize("readout", READOUTS)
def test_a_hollow_network_learns_by_ratio_matching_and_samples(readout):
    """Two sites that agree: the loss falls to the entropy, and samples agree."""
    net = HollowTransformer(2, length=2, width=16, layers=1, heads=2, readout=readout, dropout=0.0)
    process = dd.Replace(torch.full((2,), 0.5)).on(dd.clock.Constant(4.0))
    head = dd.heads.LeaveOneOut(net)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        x_0 = torch.randint(2, (256, 1)).expand(256, 2)
        optimiser.zero_grad()
        t = torch.rand(256)
        dd.ratio_matching(process, head, x_0, t, weight=dd.weights.Flat()).mean().backward()
        optimiser.step()
    x = dd.sample(process, head, (500, 2), steps=60)
    assert float((x[:, 0] == x[:, 1]).float().mean()) > 0.85
