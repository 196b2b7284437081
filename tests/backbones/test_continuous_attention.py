"""C1 to C5, C7 and C8 of memory.md, section 9.3: the mathematics of a continuous signal, in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clbench.agents.backbones import continuous_attention as continuous
from clbench.agents.backbones.continuous_attention import Basis

LENGTH = 512
SORTING = {"tau": 0.75, "ridge": 1.0, "widths": (0.01, 0.05)}  # the settings that were released
LANGUAGE = {"tau": 0.5, "ridge": 0.5, "widths": (0.005, 0.01)}


def white(width: int = 64) -> Tensor:
    return torch.randn(LENGTH, width, dtype=torch.double)


def smooth(width: int = 64) -> Tensor:
    """Random waves of one to seven periods."""
    angle = 2 * math.pi * continuous.middles(LENGTH)[:, None] * torch.arange(1, 8)
    return torch.cat([angle.sin(), angle.cos()], dim=1) @ torch.randn(14, width, dtype=torch.double)


def error(basis: Basis, x: Tensor, ridge: float) -> float:
    """Mean square of what a fit at the middles of the cells misses there, in units of the signal's."""
    places = continuous.middles(len(x))
    fitted = basis(places) @ (continuous.regression(basis, places, ridge=ridge, zero_padding=False).T @ x)
    return ((fitted - x).square().mean() / x.square().mean()).item()


def generations(x: Tensor, fresh: list[Tensor], settings: dict[str, float], *, padding: bool, basis_functions: int) -> list[Tensor]:
    """Coefficients (N, D) of x alone, and after each of the vectors `fresh` has come in."""
    basis = continuous.gaussians(basis_functions, settings["widths"])
    options = {"ridge": settings["ridge"], "zero_padding": padding}
    places = continuous.middles(LENGTH)
    old, new = continuous.contraction(basis, LENGTH, LENGTH, tau=settings["tau"], **options)
    coefficients = [continuous.regression(basis, places, **options).T @ x]
    for vectors in fresh:
        coefficients.append(old.T @ (basis(places) @ coefficients[-1]) + new.T @ vectors)
    return coefficients


def test_c1_more_functions_reconstruct_a_smooth_signal_and_hardly_a_white_one() -> None:
    """The numbers of the specification's pilot at N = 16, 32, 64, 128, 256, 512."""
    counts = (16, 32, 64, 128, 256, 512)
    waves, noise = smooth(), white()
    errors = [error(continuous.gaussians(n, (0.01, 0.05)), waves, 1.0) for n in counts[:4]]
    assert errors == pytest.approx([0.383, 0.022, 0.0002, 0], abs=0.12)
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-3
    errors = [error(continuous.gaussians(n, (0.01, 0.05)), noise, 1.0) for n in counts]
    assert errors == pytest.approx([0.967, 0.934, 0.895, 0.869, 0.777, 0.771], abs=0.02)
    assert errors == sorted(errors, reverse=True)
    assert error(continuous.gaussians(512, (0.005, 0.01)), noise, 0.5) == pytest.approx(0.555, abs=0.02)


def test_c1_as_many_narrow_functions_as_vectors_are_exact_with_a_small_ridge() -> None:
    centres = torch.linspace(0, 1, LENGTH, dtype=torch.double)
    narrow = Basis(centres, torch.full_like(centres, 1 / LENGTH))
    assert error(narrow, white(), 1e-3) < 0.003
    assert error(narrow, white(), 1e2) > 0.003


@pytest.mark.parametrize("padding", [False, True])
def test_c2_contraction_is_the_regression_of_old_samples_and_new_vectors(padding: bool) -> None:
    """Least squares over the samples, the vectors, the zeros outside and one row sqrt(lambda) e_j = 0 for every coefficient."""
    L, S, N, tau, ridge = 12, 20, 10, 0.7, 0.3
    basis = continuous.gaussians(N, (0.05, 0.15))
    past, vectors = torch.randn(N, 3, dtype=torch.double), torch.randn(L, 3, dtype=torch.double)
    old, new = continuous.contraction(basis, L, S, tau=tau, ridge=ridge, zero_padding=padding)
    u = torch.tensor([(s + 0.5) / S for s in range(S)], dtype=torch.double)
    fresh = torch.tensor([tau + (1 - tau) * (i + 0.5) / L for i in range(L)], dtype=torch.double)
    samples = basis(u) @ past
    outside = torch.tensor([side for i in range(16) for side in (-(i + 0.5) / 32, 1 + (i + 0.5) / 32)], dtype=torch.double)
    places = torch.cat([tau * u, fresh, outside[: 32 if padding else 0]])
    targets = torch.cat([samples, vectors, torch.zeros(len(places) - L - S, 3, dtype=torch.double)])
    design = torch.cat([basis(places), ridge**0.5 * torch.eye(N, dtype=torch.double)])
    expected = torch.linalg.lstsq(design, torch.cat([targets, torch.zeros(N, 3, dtype=torch.double)])).solution
    torch.testing.assert_close(old.T @ samples + new.T @ vectors, expected, atol=1e-9, rtol=0)


def test_c3_the_expectation_is_the_integral_and_its_gradient_that_of_the_integral() -> None:
    basis = continuous.gaussians(12, (0.03, 0.1))
    mean, variance = torch.tensor([0.02, 0.4, 0.97], dtype=torch.double), torch.tensor([0.3, 0.002, 0.01], dtype=torch.double)
    t = torch.linspace(-8, 9, 400_001, dtype=torch.double)
    density = torch.exp(-((t - mean[:, None]) ** 2) / (2 * variance[:, None])) / (2 * math.pi * variance[:, None]) ** 0.5
    integral = density @ basis(t) * (t[1] - t[0])
    torch.testing.assert_close(basis.expected(mean, variance), integral, atol=1e-8, rtol=0)
    assert torch.autograd.gradcheck(basis.expected, (mean.requires_grad_(), variance.requires_grad_()))


def test_c3_a_sharp_density_reads_the_signal_at_a_place_and_a_flat_one_everywhere_alike() -> None:
    basis = continuous.gaussians(12, (0.03, 0.1))
    places = torch.linspace(0, 1, 7, dtype=torch.double)
    sharp = basis.expected(places, torch.full_like(places, 1e-12))
    torch.testing.assert_close(sharp, basis(places), atol=1e-6, rtol=0)
    flat = basis.expected(places, torch.full_like(places, 1e8))
    torch.testing.assert_close(flat, torch.full_like(flat, (2 * math.pi * 1e8) ** -0.5), atol=0, rtol=1e-6)


def test_c4_a_constant_stays_and_zeros_outside_make_it_sag_once() -> None:
    """With the released settings it sags to 0.96 between 0.1 and 0.9, and no further however often it is contracted."""
    ones = torch.ones(LENGTH, 1, dtype=torch.double)
    basis, places = continuous.gaussians(512, SORTING["widths"]), torch.linspace(0.1, 0.9, 161, dtype=torch.double)
    for padding in (False, True):
        coefficients = generations(ones, [ones] * 20, SORTING, padding=padding, basis_functions=512)
        after = [basis(places) @ coefficients[k] for k in (1, 5, 20)]
        if padding:
            assert [value.min().item() for value in after] == pytest.approx([0.944, 0.9635, 0.9635], abs=2e-3)
        else:
            assert all((value - 1).abs().max() < 1e-3 for value in after)


@pytest.mark.parametrize(
    ("settings", "signal", "expected"),
    [
        (SORTING, white, [0.475, 0.411, 0.353, 0.308, 0.270]),
        (LANGUAGE, white, [0.682, 0.489, 0.347, 0.245, 0.174]),
        (SORTING, smooth, [1.0] * 8),
        (LANGUAGE, smooth, [1.0] * 5),
    ],
)
@pytest.mark.parametrize("padding", [False, True])
def test_c5_old_content_fades_as_it_is_contracted(settings: dict[str, float], signal: object, expected: list[float], padding: bool) -> None:
    """Correlation of what is decoded after k = 0, 1, ... contractions with what went in; the specification's pilot."""
    basis, x = continuous.gaussians(512, settings["widths"]), signal()
    fresh = [signal() for _ in expected[1:]]
    coefficients = generations(x, fresh, settings, padding=padding, basis_functions=512)
    found = []
    for k, signal_then in enumerate(coefficients):
        decoded = basis(settings["tau"] ** k * continuous.middles(LENGTH)) @ signal_then
        found.append(torch.corrcoef(torch.stack([decoded.flatten(), x.flatten()]))[0, 1].item())
    assert found == pytest.approx(expected, abs=0.03)


def test_mass_is_what_the_normal_distribution_has_between_the_edges() -> None:
    mean, variance = torch.tensor([0.5, 0.1], dtype=torch.double), torch.tensor([0.01, 0.04], dtype=torch.double)
    # 0.5 to 0.6 is one standard deviation: 0.3413; from 0.1 to 0.2 half of one: 0.1915; 0.9 to 1.0 four to four and a half: 0.0000283
    found = continuous.mass(mean, variance, 10)
    assert found[0, 5].item() == pytest.approx(0.341345, abs=1e-6)
    assert found[1, 1].item() == pytest.approx(0.191462, abs=1e-6)
    assert found[1, 9].item() == pytest.approx(0.0000283, abs=1e-7)


def test_c7_a_sticky_memory_samples_where_attention_was() -> None:
    delta = continuous.mass(torch.tensor([[0.3]]), torch.tensor([[1e-6]]), 128)[0]  # bin 38 of 128 holds 0.297 to 0.305
    places = continuous.quantiles(delta, 512)
    assert ((places >= 38 / 128) & (places <= 39 / 128)).float().mean() >= 0.95
    assert (places.diff() >= 0).all()
    two = torch.zeros(1, 4)
    two[0, 1], two[0, 3] = 3.0, 1.0  # three quarters in the second cell, evenly within it
    expected = [0.25 * (1 + (s + 0.5) / 6) for s in range(6)] + [0.25 * (3 + (s + 0.5) / 2) for s in range(2)]
    assert continuous.quantiles(two, 8)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("even", [0.0, 2.5])
def test_c7_even_attention_samples_evenly(even: float) -> None:
    """Chi squared of 512 samples over 128 bins is 0; a random draw would have about 127."""
    places = continuous.quantiles(torch.full((2, 128), even, dtype=torch.double), 512)
    torch.testing.assert_close(places[1], continuous.middles(512), atol=1e-12, rtol=0)
    counts = torch.histc(places[0], 128, 0, 1)
    assert (((counts - 4) ** 2) / 4).sum() == 0


def test_c7_samples_are_in_expectation_as_many_as_attention_says() -> None:
    mass = torch.rand(3, 16, dtype=torch.double) + 0.01
    places = continuous.quantiles(mass, 1000)
    counts = torch.stack([torch.histc(row, 16, 0, 1) for row in places])
    assert (counts - 1000 * mass / mass.sum(1, keepdim=True)).abs().max() <= 1


def test_c8_the_divergence_vanishes_for_the_prior_variance_alone() -> None:
    prior = 0.05**2
    variance = torch.tensor([prior, 2 * prior, 0.5 * prior], dtype=torch.double)
    # 0.5 (2 - log 2 - 1) = 0.15343 and 0.5 (0.5 + log 2 - 1) = 0.09657
    assert continuous.divergence(variance, prior).tolist() == pytest.approx([0, 0.1534264, 0.0965736], abs=1e-7)
