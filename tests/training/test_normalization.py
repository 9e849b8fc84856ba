"""Normalisation while training, none afterwards: both networks say the same."""

import torch

from reloc.nn.encoder import SIZES, Encoder
from reloc.training.normalization import NormalizedConv, fold, normalize


def _trained() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(SIZES["small"])
    normalize(encoder, branch_ends="second", bare="project")
    # Statistics and gains that are not those of the beginning.
    encoder.train()
    for _ in range(3):
        encoder(torch.rand(2, 1, 64, 64))
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, NormalizedConv):
                module.gain.mul_(torch.rand_like(module.gain) + 0.5)
                module.shift.normal_()
    return encoder.eval()


def test_the_folded_network_gives_the_same_codes() -> None:
    encoder = _trained()
    plain = Encoder(SIZES["small"])
    plain.load_state_dict(fold(encoder.state_dict()))
    image = torch.rand(1, 1, 48, 80)
    torch.testing.assert_close(plain(image), encoder(image), rtol=1e-3, atol=1e-4)


def test_every_convolution_but_the_last_is_normalised() -> None:
    encoder = _trained()
    assert isinstance(encoder.project, torch.nn.Conv2d)
    assert sum(isinstance(module, NormalizedConv) for module in encoder.modules()) == 4 + 2 * 4
