import pytest

from reloc.training.schedule import one_cycle, trapezoid


def test_one_cycle_starts_low_peaks_and_ends_at_almost_nothing() -> None:
    rates = [one_cycle(step, 1000, 5e-3) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == pytest.approx(5e-3, rel=1e-4)
    assert rates.index(max(rates)) == pytest.approx(300, abs=2)
    assert 0 < rates[-1] < 1e-6


def test_trapezoid_is_flat_between_its_slopes() -> None:
    rates = [trapezoid(step, 3000, 1.0, warm_up=100) for step in range(3000)]
    assert set(rates[100:2000]) == {1.0}
    assert rates[0] == 0.01
    assert rates[2500] == pytest.approx(0.5)
    assert min(rates) == 0.01


def test_a_run_of_one_step_has_a_rate() -> None:
    assert one_cycle(0, 1, 1.0) > 0
    assert trapezoid(0, 1, 1.0) > 0
