"""The network: what any network must pass, the paper's numbers, its reach, and errors that say what is needed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from spermseg.errors import ConfigError, ShapeError
from spermseg.model.unet import DoubleConvolution, UNet, count_parameters
from spermseg.model.unet_config import MAX_LEVELS, UNetConfig

CONFIGS = {
    "paper": UNetConfig(),
    "one level": UNetConfig(filters=(5,), bridge=7),
    "narrowing": UNetConfig(filters=(8, 4, 2), bridge=3),
    "subpixels": UNetConfig(filters=(4, 8), bridge=8, subpixel=2, classes=("cell", "head")),
    "grey, many classes": UNetConfig(filters=(4, 8), bridge=8, in_channels=1, classes=("head", "midpiece", "tail")),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def picture(config: UNetConfig, *, pictures: int = 2) -> torch.Tensor:
    side = 2 * config.multiple
    return torch.rand(pictures, config.in_channels, side, 2 * side, generator=torch.Generator().manual_seed(3))


@configs
def test_logits_have_the_size_of_the_picture_and_a_channel_a_class(config):
    x = picture(config)
    assert UNet(config)(x).shape == (2, len(config.classes), *x.shape[2:])


@configs
def test_gradients_reach_every_parameter(config):
    torch.manual_seed(0)
    network = UNet(config)
    network(picture(config)).square().sum().backward()
    dead = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not dead


@configs
def test_evaluation_gives_the_same_twice_and_changes_no_weight(config):
    network = UNet(config).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = picture(config)
    with torch.inference_mode():
        assert torch.equal(network(x), network(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@configs
def test_a_state_dict_makes_an_equal_network(config):
    network, other = UNet(config).eval(), UNet(config).eval()
    x = picture(config)
    with torch.inference_mode():
        assert not torch.equal(network(x), other(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(x), other(x))


@configs
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (3, 3)])
def test_a_size_that_does_not_halve_evenly_is_refused_with_the_next_that_does(config, down, right):
    m = config.multiple
    x = torch.zeros(1, config.in_channels, m + down % m, 2 * m + right % m)
    with pytest.raises(ShapeError) as raised:
        UNet(config)(x)
    up = f"{m * (1 + (down % m > 0))} x {m * (2 + (right % m > 0))}"
    assert raised.value.message == (
        f"got {x.shape[2]} x {x.shape[3]} px; multiples of {m} are needed, for example {up}"
    )


@configs
def test_an_empty_picture_and_another_number_of_channels_are_refused(config):
    network = UNet(config)
    with pytest.raises(ShapeError, match="multiples of"):
        network(torch.zeros(1, config.in_channels, 0, config.multiple))
    with pytest.raises(ShapeError, match=rf"\(N, {config.in_channels}, Y, X\) is needed"):
        network(torch.zeros(1, config.in_channels + 1, 2 * config.multiple, 2 * config.multiple))
    with pytest.raises(ShapeError, match="is needed"):
        network(torch.zeros(config.in_channels, config.multiple, config.multiple))


def test_the_paper_network_has_412865_parameters():
    assert count_parameters(UNet()) == 412_865


def test_parameters_are_counted_level_by_level():
    def double(i: int, o: int) -> int:  # 3x3 weights and biases, and two numbers a filter for each normalisation
        return 9 * i * o + o + 2 * o + 9 * o * o + o + 2 * o

    config = UNetConfig(filters=(5, 6), bridge=7, in_channels=4, classes=("head", "tail"))
    expected = double(4, 5) + double(5, 6) + double(6, 7) + double(7 + 6, 6) + double(6 + 5, 5) + 2 * 5 + 2
    assert count_parameters(UNet(config)) == expected


def test_the_decoder_joins_each_level_with_the_skip_of_its_size():
    network = UNet(UNetConfig(filters=(4, 6), bridge=8)).eval()
    x = picture(network.config)
    with torch.inference_mode():
        fine = network.encoder[0](x)
        coarse = network.encoder[1](nn.functional.max_pool2d(fine, 2))
        bridge = network.bridge(nn.functional.max_pool2d(coarse, 2))
        up = bridge
        for level, skip in zip(network.decoder, (coarse, fine), strict=True):
            doubled = nn.functional.interpolate(up, scale_factor=2)
            up = nn.Sequential(*level)(torch.cat([doubled, skip], dim=1))
        assert torch.allclose(network(x), network.head(up), atol=1e-6)


def open_network(levels: int, subpixel: int) -> UNet:
    """Positive weights: no ReLU closes, so all that may have a part in a logit has one."""
    network = UNet(UNetConfig(filters=(3,) * levels, bridge=3, subpixel=subpixel)).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.abs_()
                layer.bias.abs_()
    return network


def seen_along_x(network: UNet, column: int, width: int) -> torch.Tensor:
    """Columns with a part in the logits of one column, over pictures enough for each pixel to win a max-pooling."""
    seen = torch.zeros(width, dtype=torch.float64)
    for seed in range(6):
        shape = (1, 3, 2 * network.config.multiple, width)
        x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        x.requires_grad_()
        network(x)[..., column].sum().backward()
        seen += x.grad.abs().sum((0, 1, 2))
    return seen.nonzero().flatten()


@pytest.mark.parametrize(("levels", "subpixel"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2), (1, 3)])
def test_a_pixel_sees_just_as_far_as_its_reach(levels, subpixel):
    network = open_network(levels, subpixel)
    m, reach = network.config.multiple, network.config.reach
    left = right = 0
    for column in range(8 * m, 9 * m):
        seen = seen_along_x(network, column, 17 * m)
        left, right = max(left, column - int(seen.min())), max(right, int(seen.max()) - column)
    assert (left, right) == (reach, reach)


@pytest.mark.parametrize(
    "wrong",
    [
        {"filters": ()},
        {"filters": (4,) * (MAX_LEVELS + 1)},
        {"filters": (4, 0)},
        {"filters": (100_000,)},
        {"bridge": 0},
        {"in_channels": -1},
        {"subpixel": 0},
        {"classes": ()},
        {"classes": ("tail", "tail")},
    ],
    ids=str,
)
def test_a_shape_that_is_none_is_refused_in_one_line(wrong):
    with pytest.raises(ConfigError, match=r"^got .* needed$"):
        replace(UNetConfig(), **wrong)


@torch.inference_mode()
def test_a_residual_level_adds_what_its_second_convolution_sees():
    torch.manual_seed(0)
    level = DoubleConvolution(3, 5, residual=True).eval()
    x = torch.rand(1, 3, 8, 8)
    first = level[2](level[1](level[0](x)))
    assert torch.equal(level(x), torch.relu(level[4](level[3](first)) + first))


@pytest.mark.parametrize("residual", [False, True])
def test_a_residual_network_has_no_more_parameters(residual):
    assert count_parameters(UNet(UNetConfig(residual=residual))) == 412_865


@configs
@pytest.mark.parametrize("residual", [False, True])
def test_the_layout_that_is_told_without_pytorch_is_the_networks_own(config, residual):
    config = replace(config, residual=residual)
    with torch.device("meta"):
        weights = UNet(config).state_dict()
    assert config.layout == {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in weights.items()}
