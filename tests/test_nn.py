"""The reference networks: shapes, conditions, and inputs on one scale."""

import math

import pytest
import torch

import discdiff as dd
from discdiff import nn
from discdiff.nn import (
    MLP,
    Category,
    Columns,
    Diffusers,
    Local,
    Number,
    Standardise,
    Tokens,
    Trunk,
    Waves,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("features", "outputs", "shape"),
    [(5, None, (5,)), (5, 3, (3,)), ((2, 4), (2, 4, 7), (2, 4, 7)), ((), (2,), (2,))],
)
def test_mlp_maps_event_shapes(features, outputs, shape):
    net = MLP(features, outputs, width=16)
    event = (features,) if isinstance(features, int) else features
    assert net(torch.randn(3, *event), torch.rand(3)).shape == (3, *shape)


def test_mlp_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\(B, 2, 4\).*\(3, 8\)"):
        MLP((2, 4), width=16)(torch.zeros(3, 8), torch.rand(3))


def test_mlp_takes_double_states_and_times():
    x, t = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    assert MLP(4, width=16)(x, t).dtype == torch.float32


def test_items_of_a_batch_do_not_mix():
    net = MLP(4, width=16, classes=3).eval()
    x, t, y = torch.randn(6, 4), torch.rand(6), torch.arange(6) % 4
    torch.testing.assert_close(net(x, t, y)[2:3], net(x[2:3], t[2:3], y[2:3]))


def test_time_and_label_matter():
    net = MLP(4, width=16, classes=3).eval()
    x, t = torch.randn(1, 4), torch.tensor([0.3])
    label = torch.tensor([1])
    assert not torch.allclose(net(x, t, label), net(x, t + 0.01, label))
    assert not torch.allclose(net(x, t, label), net(x, t, label + 1))


def test_no_context_means_unknown():
    net = Trunk(16, classes=3).eval()
    h, t = torch.randn(2, 16), torch.rand(2)
    assert torch.equal(net(h, t), net(h, t, torch.tensor([3, 3])))


def test_a_context_without_classes_is_refused():
    with pytest.raises(ValueError, match="classes=0"):
        Trunk(16)(torch.randn(2, 16), torch.rand(2), torch.tensor([0, 1]))


def test_dropout_acts_in_training_only():
    net = MLP(4, width=64, dropout=0.5)
    x, t = torch.randn(2, 4), torch.rand(2)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_tokens_give_logits():
    net = Tokens(MLP((6, 4), (6, 3), width=16), size=5, dim=4)
    assert net(torch.randint(5, (2, 6)), torch.rand(2)).shape == (2, 6, 3)


def test_waves_by_hand():
    x = torch.tensor([0.0, 1.0, 2.0])
    features = Waves(unit=1.0, octaves=2)(x)
    expected = [
        torch.ones(3),
        x / 4,
        torch.cos(math.pi * x),
        torch.cos(math.pi * x / 2),
        torch.sin(math.pi * x),
        torch.sin(math.pi * x / 2),
    ]
    torch.testing.assert_close(features, torch.stack(expected, -1))


class _Ones(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x, t, context=None):
        return torch.ones(x.shape[0], *self.shape)


def test_local_reads_each_entry_against_its_own_features():
    waves = Waves(octaves=1)
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    net = Local(_Ones((2, waves.features)), waves)
    torch.testing.assert_close(net(x, torch.rand(2)), waves(x).sum(-1))
    pair = Local(_Ones((2, 2, waves.features)), waves)
    assert pair(x, torch.rand(2)).shape == (2, 2, 2)


class _Keep(torch.nn.Module):
    """Returns its input."""

    def forward(self, x, t, context=None):
        return x


@pytest.mark.parametrize(
    ("process", "data"),
    [
        (dd.Death().on(dd.clock.Logistic(15.0)), torch.poisson(torch.full((40000, 2), 6.0))),
        (
            (dd.Death() + dd.Immigration(2.0)).on(dd.clock.LogLinear()),
            torch.poisson(torch.full((40000, 2), 6.0)),
        ),
        (
            (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)),
            3 + 2 * torch.randn(40000, 2),
        ),
    ],
)
@pytest.mark.parametrize("t", [0.02, 0.4, 0.6])
def test_standardised_inputs_have_mean_zero_and_variance_one(process, data, t):
    net = Standardise(_Keep(), process, data.mean(0), data.std(0))
    times = torch.full((len(data),), t, dtype=torch.float64)
    scaled = net(process.marginal(data, times).sample(), times)
    # 80 000 draws: five standard errors of a mean are 0.018, of a variance at most 0.05
    assert scaled.mean().abs() < 0.018
    assert abs(float(scaled.var()) - 1) < 0.05


def test_standardise_is_finite_where_the_state_is_certain():
    process = dd.Death().on(dd.clock.Logistic(15.0))
    net = Standardise(_Keep(), process, 5.0, 6.0)
    assert torch.equal(net(torch.zeros(2, 3), torch.ones(2)), torch.zeros(2, 3))


def test_diffusers_adapter_scales_time_and_unwraps():
    calls = []

    class Output:
        def __init__(self, sample):
            self.sample = sample

    def unet(x, timestep, class_labels=None):
        calls.append((timestep, class_labels))
        return Output(2 * x)

    net = Diffusers(unet)
    x, t, y = torch.ones(2, 1, 4, 4), torch.tensor([0.25, 1.0], dtype=torch.float64), torch.ones(2)
    assert torch.equal(net(x, t), 2 * x)
    assert torch.equal(net(x, t, y), 2 * x)
    assert torch.equal(calls[0][0], torch.tensor([250.0, 1000.0]))
    assert calls[0][1] is None
    assert calls[1][1] is y


def test_columns_feed_a_product_head():
    table = dd.Product(
        income=(dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)),
        job=dd.Replace(torch.full((4,), 0.25)).on(dd.clock.LogLinear()),
        visits=dd.Death().on(dd.clock.Logistic(15.0)),
    )
    columns = {"income": Number(), "job": Category(4), "visits": Number(mean=3, std=2, unit=1)}
    head = dd.heads.Product(
        Columns(columns, width=16, classes=2),
        income=dd.heads.Epsilon,
        job=dd.heads.LeaveOneOut,
        visits=dd.heads.Missing,
    )
    x_0 = {
        "income": torch.randn(8),
        "job": torch.randint(4, (8,)),
        "visits": torch.poisson(torch.full((8,), 3.0)),
    }
    loss = dd.loss(table, head, x_0, 0.5, context=torch.arange(8) % 3)
    assert loss.shape == (8,)
    loss.mean().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_columns_with_events_and_several_outputs():
    net = Columns({"a": Number((3,), (2,)), "b": Category(5, (2,))}, width=16)
    state = {"a": torch.randn(4, 3), "b": torch.randint(5, (4, 2))}
    shapes = {name: tuple(y.shape) for name, y in net(state, torch.rand(4)).items()}
    assert shapes == {"a": (4, 3, 2), "b": (4, 2, 5)}


EMPTY = {
    "MLP": (lambda: nn.MLP((3, 2), (3, 2, 5), width=8), torch.zeros(0, 3, 2), (0, 3, 2, 5)),
    "MLP of numbers": (lambda: nn.MLP((), (), width=8), torch.zeros(0), (0,)),
    "Transformer": (lambda: nn.Transformer(5, 6, width=8, layers=1, heads=2), None, (0, 6, 5)),
    "Concat": (lambda: hollow(nn.Concat), None, (0, 6, 5)),
    "Film": (lambda: hollow(nn.Film), None, (0, 6, 5)),
    "Attention": (lambda: hollow(nn.Attention), None, (0, 6, 5)),
    "Tokens": (lambda: nn.Tokens(nn.MLP((6, 4), (6, 5), width=8), 5, 4), None, (0, 6, 5)),
    "Masked": (
        lambda: nn.Masked(nn.Transformer(6, 6, outputs=5, width=8, layers=1, heads=2), mask=5),
        None,
        (0, 6, 5),
    ),
    "Energy": (
        lambda: nn.Energy(nn.Tokens(nn.MLP((6, 4), (), width=8), 5, 4), 5),
        None,
        (0, 6, 5),
    ),
    "Waves": (lambda: lambda x, t: nn.Waves(4)(x), torch.zeros(0, 6), (0, 6, 12)),
}


def hollow(readout):
    return nn.HollowTransformer(5, 6, width=8, layers=1, heads=2, readout=readout)


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_has_empty_outputs(name):
    """As of a part of a data set that happens to have no rows."""
    make, x, shape = EMPTY[name]
    x = torch.zeros(0, 6, dtype=torch.int64) if x is None else x
    assert make()(x, torch.zeros(0)).shape == shape


def test_an_empty_table_has_empty_outputs():
    net = nn.Columns({"job": nn.Category(4), "visits": nn.Number(unit=1.0)}, width=8)
    x = {"job": torch.zeros(0, dtype=torch.int64), "visits": torch.zeros(0)}
    found = {name: tuple(y.shape) for name, y in net(x, torch.zeros(0)).items()}
    assert found == {"job": (0, 4), "visits": (0,)}
