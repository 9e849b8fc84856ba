import math

import pytest
import torch

from reloc.nn.losses import contrastive_loss


def _none_ignored(count: int) -> torch.Tensor:
    return torch.zeros(count, count, dtype=torch.bool)


def test_distinct_codes_cost_nothing_and_equal_ones_the_logarithm_of_their_number() -> None:
    loss, hits = contrastive_loss(torch.eye(8), torch.eye(8), _none_ignored(8), 0.05)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(hits) == 1
    loss, _ = contrastive_loss(torch.ones(8, 4), torch.ones(8, 4), _none_ignored(8), 0.05)
    assert float(loss) == pytest.approx(math.log(8))


def test_ignored_pairs_are_no_negatives() -> None:
    codes = torch.eye(4)
    codes[1] = codes[0]
    ignored = _none_ignored(4)
    confused, _ = contrastive_loss(codes, codes, ignored, 0.05)
    ignored[0, 1] = ignored[1, 0] = True
    excused, _ = contrastive_loss(codes, codes, ignored, 0.05)
    assert float(confused) == pytest.approx(math.log(2) / 2, rel=1e-4)
    assert float(excused) == pytest.approx(0, abs=1e-6)
