from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import pytest
import safetensors.torch
import torch
from torch import nn

from reloc.input_error import InputError
from reloc.nn.backbones import NETWORKS, TrunkName, load_trunk, make_network, restore_trunk

# Parameters of torchvision's networks (Inception-ResNet-v2: of the checkpoint by Cadene), and some
# of the names in their checkpoints, with shapes.
EXPECTED = {
    "squeezenet1_0": (1_248_424, {"features.12.expand3x3.weight": (256, 64, 3, 3)}),
    "resnet18": (11_689_512, {"layer4.0.downsample.1.running_var": (512,)}),
    "resnet34": (21_797_672, {"layer3.5.conv2.weight": (256, 256, 3, 3), "fc.bias": (1000,)}),
    "resnet50": (25_557_032, {"layer1.0.downsample.0.weight": (256, 64, 1, 1)}),
    "googlenet": (
        13_004_888,
        {"inception4e.branch2.1.conv.weight": (320, 160, 3, 3), "aux2.fc1.weight": (1024, 2048)},
    ),
    "vgg16": (138_357_544, {"features.28.weight": (512, 512, 3, 3), "classifier.6.bias": (1000,)}),
    "efficientnet_b0": (
        5_288_548,
        {
            "features.2.0.block.1.0.weight": (96, 1, 3, 3),
            "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
            "features.8.0.weight": (1280, 320, 1, 1),
            "classifier.1.weight": (1000, 1280),
        },
    ),
    "inception_resnet_v2": (
        55_843_464 + 1537,
        {"repeat_1.19.branch1.1.conv.weight": (160, 128, 1, 7), "last_linear.bias": (1001,)},
    ),
}
# Channels and stride of the maps.
MAPS = {
    "squeezenet1_0": (512, 16),
    "resnet18": (512, 32),
    "resnet50": (2048, 32),
    "googlenet": (1024, 32),
    "efficientnet_b0": (1280, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_have_the_names_and_shapes_of_the_official_checkpoints(name: str) -> None:
    with torch.device("meta"):
        network = make_network(name)
    count, shapes = EXPECTED[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    state = network.state_dict()
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape


@pytest.mark.parametrize("name", NETWORKS)
def test_all_weights_of_a_trunk_make_maps(name: TrunkName) -> None:
    """What only names things is taken away: training has no part of it, and no map holds it."""
    with torch.device("meta"):
        whole = make_network(name)
        trunk = restore_trunk(name, _without_names(whole))
        asked = set()
        for key, module in trunk.named_modules():
            module.register_forward_hook(lambda *_, key=key: asked.add(key))
        with torch.no_grad():
            trunk(torch.zeros(1, 3, 160, 160))
    for key, module in trunk.named_modules():
        assert key in asked or not module._parameters, key


def _without_names(network: nn.Module) -> dict[str, torch.Tensor]:
    names = ("classifier.", "fc.", "aux1.", "aux2.", "last_linear.")
    state = network.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(names)}


def test_a_trunk_is_restored_and_weights_of_another_are_refused() -> None:
    trunk = load_trunk("encoder", None)
    state = trunk.network.state_dict()
    again = restore_trunk("encoder", state)
    rgb = torch.linspace(0, 1, 3 * 32 * 48).reshape(1, 3, 32, 48)
    assert torch.equal(again(rgb), trunk(rgb))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(InputError, match="not those of the trunk resnet18"):
        restore_trunk("resnet18", state)


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_channels_and_the_stride_that_are_said(name: str) -> None:
    network = make_network(name).eval()
    channels, stride = MAPS[name]
    with torch.no_grad():
        maps = network.features_of(torch.zeros(1, 3, 128, 160))  # type: ignore[operator]
    assert maps.shape[1] == channels
    assert abs(maps.shape[2] - 128 / stride) <= 1
    assert abs(maps.shape[3] - 160 / stride) <= 1


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="--trunk-weights"):
        load_trunk("resnet18", None)
    with pytest.raises(InputError, match="cannot be read"):
        load_trunk("resnet18", tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="weights of its own"):
        load_trunk("encoder", tmp_path / "absent.safetensors")
    torch.manual_seed(0)
    state = make_network("squeezenet1_0").state_dict()
    path = tmp_path / "some.safetensors"
    safetensors.torch.save_file(state, path)
    load_trunk("squeezenet1_0", path)
    with pytest.raises(InputError, match="another network"):
        load_trunk("resnet18", path)
    named = tmp_path / f"some-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.safetensors"
    named.write_bytes(path.read_bytes())
    load_trunk("squeezenet1_0", named)
    wrong = tmp_path / "some-00000000.safetensors"
    wrong.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="damaged"):
        load_trunk("squeezenet1_0", wrong)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="no file of weights"):
        load_trunk("squeezenet1_0", path)


@pytest.mark.data
def test_squeezenet_names_what_photos_show(shared_data: Path) -> None:
    """The weights are a proof of the network: one wrong layer, and no photo would be known."""
    weights = shared_data / "weights" / "squeezenet1_0.safetensors"
    network = make_network("squeezenet1_0").eval()
    network.load_state_dict(safetensors.torch.load_file(weights))
    photos = sorted((shared_data / "photos" / "imagenet").glob("*.jpg"))[:6]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    sure = []
    for photo in photos:
        rgb = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
        image = torch.from_numpy(cv2.resize(rgb, (227, 227), interpolation=cv2.INTER_AREA)) / 255
        with torch.no_grad():
            logits = network(((image - mean) / std).permute(2, 0, 1)[None])
        sure.append(float(logits.softmax(-1).max()))
    # An untrained network, or a broken one, gives each of a thousand classes a thousandth.
    assert sum(sure) / len(sure) > 0.2
