"""Networks without values."""

import subprocess
import sys

import torch
from torch import nn

from reloc.nn.encoder import SIZES, Encoder
from reloc.nn.unfilled import unfilled


def test_networks_have_shapes_and_no_values_and_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    with unfilled():
        encoder = Encoder(SIZES["small"])
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    drawn = Encoder(SIZES["small"]).state_dict()
    assert {name: value.shape for name, value in encoder.state_dict().items()} == {
        name: value.shape for name, value in drawn.items()
    }


def test_outside_and_on_a_device_weights_are_drawn() -> None:
    with unfilled():
        weight = torch.zeros(100, device="cpu")
        nn.init.normal_(weight)
    assert float(weight.std()) > 0.5
    assert float(nn.Linear(50, 50).weight.detach().std()) > 0


def test_opening_the_encoder_does_not_load_the_compiler() -> None:
    """It takes a second or two of every command."""
    code = (
        "import sys; from reloc.nn.weights import encoder_path, load_encoder; "
        "load_encoder(encoder_path('base'), 'base'); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
