"""The model file: what is written is read, and a file that is damaged, foreign or hostile is an error in one line."""

import io
import json
import math
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from spermseg.cells.confidence import Confidence
from spermseg.errors import ConfigError, ModelFileError, ObjectMissingError
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model import description, saved
from spermseg.model.description import ModelDescription, digest_of
from spermseg.model.saved import decode_model, encode_model, load_model
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location

DESCRIPTION = ModelDescription(
    network=UNetConfig(filters=(3, 4), bridge=5, classes=("head", "tail")),
    view=Tiles(scale=0.25, tile=64, halo=16),
    threshold=0.45,
    min_area=30,
    recipe="clinic",
    settings={"epochs": 3, "name": "Änne", "nested": {"rate": 1e-3}},
    training_data_sha256="0" * 64,
    um_per_px=0.11,
    scores={"val_dice": 0.8125},
    confidence=Confidence(temperature=1.5, slope=0.6, offset=0.35),
    calibration_data_sha256="1" * 64,
    version="0.1.0",
)


def some_weights(config: UNetConfig = DESCRIPTION.network) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = UNet(config)
    network(torch.rand(2, config.in_channels, 32, 32))  # so that the running statistics are not the first ones
    return network.state_dict()


WEIGHTS = some_weights()
MODEL = encode_model(WEIGHTS, DESCRIPTION)


def description_fields() -> dict:
    length = int.from_bytes(MODEL[:8], "little")
    return json.loads(json.loads(MODEL[8 : 8 + length])["__metadata__"]["spermseg"])


def forge(weights: dict[str, torch.Tensor] = WEIGHTS, **changes: object) -> bytes:
    """Write a file with other fields, whose digest is right: not damage but another writer."""
    fields = {name: value for name, value in (description_fields() | changes).items() if name != "sha256"}
    fields["sha256"] = digest_of(fields, saved.stored(weights))
    return save(weights, metadata={"spermseg": json.dumps(fields)})


def refused(data: bytes) -> str:
    """Return the message of the refusal, which is one readable line that names the file."""
    with pytest.raises(ModelFileError) as raised:
        decode_model(data, "night.safetensors")
    message = raised.value.message
    assert message.startswith("night.safetensors")
    assert "\n" not in message
    assert len(message) < 300
    assert message.isprintable()
    return message


@pytest.mark.parametrize("view", [WholeFrame(size=128), Tiles(scale=0.5, tile=128, halo=32)])
@pytest.mark.parametrize("filters", [(3,), (3, 4, 5)])
def test_what_is_written_is_read(view, filters):
    description = replace(DESCRIPTION, view=view, network=replace(DESCRIPTION.network, filters=filters))
    weights = some_weights(description.network)
    model = decode_model(encode_model(weights, description))
    assert model.description == description
    assert not model.network.training
    read = model.network.state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_a_model_that_was_read_can_be_trained_on():
    network = decode_model(MODEL).network.train()
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_same_input_gives_the_same_bytes_and_the_same_name():
    turned = dict(reversed(WEIGHTS.items()))
    assert {encode_model(WEIGHTS, DESCRIPTION) for _ in range(5)} == {MODEL}
    assert encode_model(turned, DESCRIPTION) == MODEL
    model = decode_model(MODEL)
    assert encode_model(model.network.state_dict(), model.description) == MODEL
    assert model.sha256 == decode_model(MODEL).sha256
    assert model.sha256 != decode_model(encode_model(WEIGHTS, replace(DESCRIPTION, threshold=0.46))).sha256


def test_a_model_is_read_from_where_it_lies_and_a_missing_one_says_so(tmp_path):
    place = Location(str(tmp_path / "model.safetensors"))
    with pytest.raises(ObjectMissingError):
        load_model(place)
    place.write_bytes(MODEL)
    assert load_model(place).description == DESCRIPTION
    (tmp_path / "bad.safetensors").write_bytes(MODEL[:-1])
    with pytest.raises(ModelFileError, match=r"bad\.safetensors"):
        load_model(Location(str(tmp_path / "bad.safetensors")))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(MODEL) - 1), st.integers(1, 255))
@example(0, 1)
@example(7, 255)
@example(len(MODEL) - 1, 1)
def test_a_changed_byte_is_noticed_wherever_it_is(place, change):
    data = bytearray(MODEL)
    data[place] ^= change
    refused(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(MODEL) - 1))
@example(0)
@example(8)
def test_a_cut_file_is_noticed_wherever_it_was_cut(length):
    refused(MODEL[:length])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
@example(MODEL + b"\0")
@example((2**63).to_bytes(8, "little") + b"{}")
@example((2).to_bytes(8, "little") + b"[]")
@example((2).to_bytes(8, "little") + b"{}")
@example((20).to_bytes(8, "little") + b'{"__metadata__": []}')
def test_other_bytes_are_refused(data):
    refused(data)


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_refused_without_loading_it():
    torch_file = io.BytesIO()
    torch.save(Bomb(), torch_file)
    assert "is not a model file" in refused(pickle.dumps(Bomb()))
    assert "is not a model file" in refused(torch_file.getvalue())


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_somebody_else_is_refused(metadata):
    assert "no spermseg description" in refused(save(WEIGHTS, metadata=metadata))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"x"', "[" * 100_000, "\x00"])
def test_a_description_that_is_no_json_object_is_refused(text):
    assert "description" in refused(save(WEIGHTS, metadata={"spermseg": text}))


@pytest.mark.parametrize("format_version", [2, 0, "1", None])
def test_another_format_is_refused_by_its_number(format_version):
    expected = f"has format {format_version}; this version reads format 1"
    assert expected in refused(save(WEIGHTS, metadata={"spermseg": json.dumps({"format": format_version})}))
    assert expected in refused(forge(format=format_version))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", math.nan),
        ("threshold", 0.0),
        ("threshold", 1),
        ("threshold", "high"),
        ("min_area", -1),
        ("um_per_px", 0.0),
        ("um_per_px", math.inf * -1),
        ("view", {"kind": "spiral"}),
        ("view", {"kind": "tiles", "scale": 2.0}),
        ("view", {"kind": "tiles", "scale": 0}),
        ("view", {"kind": "tiles", "scale": 1e-300}),
        ("view", {"kind": "tiles", "scale": math.nan}),
        ("view", {"kind": "tiles", "scale": -math.inf}),
        ("view", {"kind": "tiles", "tile": 10**9 // 16 * 16}),
        ("view", {"kind": "tiles", "tile": 16 * 10**400}),
        ("view", {"kind": "tiles", "halo": -16}),
        ("view", {"kind": "tiles", "halo": 2**40}),
        ("view", {"kind": "whole-frame", "size": 2**30}),
        ("view", {"kind": "whole-frame", "size": 0}),
        ("um_per_px", math.inf),
        ("min_area", 10**30),
        ("confidence", {"temperature": math.nan}),
        ("network", {"filters": [10**6]}),
        ("network", {"filters": [3, 4], "classes": [str(number) for number in range(10_000)]}),
        ("network", {"filters": [3, 4], "classes": ["a" * 100_000, "a" * 100_000]}),
        ("network", {"filters": [1] * 100_000}),
        ("network", {"filters": []}),
        ("network", {"filters": [3, 4], "bridge": 0}),
        ("network", {"filters": [10**30]}),
        ("settings", None),
        ("scores", {"val_dice": "good"}),
        ("scores", {"val\ndice" + 99 * "e": "good"}),
    ],
    ids=str,
)
def test_a_description_that_cannot_be_used_is_refused_with_the_field(field, value):
    message = refused(forge(**{field: value}))
    assert f"a description that cannot be used: {field}" in message


@pytest.mark.parametrize(
    ("network", "view", "said"),
    [
        ({"in_channels": 4}, {"kind": "whole-frame"}, "pictures of 4 channels; 3 are needed"),
        ({}, {"kind": "tiles", "tile": 32, "halo": 16}, "a view that its network cannot read: got tile 32"),
        ({"filters": [1] * 5}, {"kind": "whole-frame", "size": 144}, "a view that its network cannot read: got 144"),
        ({"filters": [256]}, {"kind": "whole-frame", "size": 4096}, "takes 32 GiB for a window of 4096 x 4096 px"),
        ({"filters": [64]}, {"kind": "tiles", "halo": 4096}, "takes 32 GiB for a window of 8208 x 8208 px"),
    ],
    ids=str,
)
def test_a_view_that_its_network_cannot_read_or_not_in_any_memory_is_refused_when_it_is_loaded(network, view, said):
    network = {"filters": [3, 4], "bridge": 5} | network
    weights = UNet(UNetConfig(**network)).state_dict()
    assert said in refused(forge(weights, network=network, view=view))


def test_a_file_of_which_too_much_would_be_parsed_is_refused_before(monkeypatch, tmp_path):
    def fail(*_):
        raise AssertionError("it was parsed")

    huge = save(
        WEIGHTS, metadata={"spermseg": json.dumps({"format": 1, "settings": "x" * description.DESCRIPTION_BYTES})}
    )
    with monkeypatch.context() as patch:
        patch.setattr(description, "deserialize", fail)
        assert "is not a model file" in refused((description.HEADER_BYTES + 1).to_bytes(8, "little") + b"{" * 100)
    with monkeypatch.context() as patch:
        patch.setattr(description, "_is_deep", fail)
        assert "a description of 1048605 characters; at most 1048576 are read" in refused(huge)
    with (tmp_path / "night.safetensors").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match=r"night\.safetensors is not a model file: it has 1099511627776 bytes"):
        load_model(Location(str(tmp_path / "night.safetensors")))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [40, 400, 900, 100_000])
def test_settings_that_are_nested_deeper_than_calls_are_refused(opening, depth):
    nested = opening * depth + "0" + {"[": "]", "{": "}"}[opening[0]] * depth
    text = json.dumps(description_fields())[:-1] + f', "settings": {nested}}}'
    assert "description" in refused(save(WEIGHTS, metadata={"spermseg": text}))


@pytest.mark.parametrize(
    "network",
    [
        {"filters": [100_000] * 50},
        {"filters": [4096] * 8, "bridge": 4096},
        {"filters": [3, 4], "bridge": 6, "classes": ["head", "tail"]},
        {"filters": [3, 4], "bridge": 5, "classes": ["head"]},
        {"filters": [3, 4, 4], "bridge": 5, "classes": ["head", "tail"]},
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused_before_a_network_is_built(network, monkeypatch):
    monkeypatch.setattr(saved, "UNet", lambda _: pytest.fail("a network was built"))
    message = refused(forge(network=network))
    assert "do not fit" in message or "cannot be used" in message


def test_a_network_is_built_without_memory_of_its_own(monkeypatch):
    def build(config: UNetConfig) -> UNet:
        assert torch.get_default_device().type == "meta"
        return UNet(config)

    monkeypatch.setattr(saved, "UNet", build)
    decode_model(MODEL)


def test_weights_of_another_type_or_name_are_refused():
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in WEIGHTS.items()}
    assert "do not fit" in refused(forge(half))
    assert "do not fit" in refused(forge({**WEIGHTS, "extra": torch.zeros(1)}))
    assert "do not fit" in refused(forge({name: WEIGHTS[name] for name in list(WEIGHTS)[1:]}))


def test_scores_that_are_no_number_are_left_out_and_settings_that_are_none_are_refused():
    diverged = replace(DESCRIPTION, scores={"val_loss": math.nan, "val_dice": 0.5})
    assert decode_model(encode_model(WEIGHTS, diverged)).description.scores == {"val_dice": 0.5}
    with pytest.raises(ConfigError, match="JSON cannot hold"):
        encode_model(WEIGHTS, replace(DESCRIPTION, settings={"rate": math.inf}))
