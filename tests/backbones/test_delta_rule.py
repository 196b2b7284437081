"""The delta rule by its definition: chunks against the recurrence, what is overwritten, and what linear attention keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clbench.agents.backbones.delta_rule import Tokens, features, recall, recall_all, write_at_once

B, H, K, V = 2, 3, 4, 5


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def inputs(T: int) -> list[Tensor]:
    """q, k, v, strength, log_decay and a matrix that is in use."""
    q, k = (normalize(numbers(B, H, T, K), dim=-1) for _ in range(2))
    return [q, k, numbers(B, H, T, V), numbers(B, H, T).sigmoid(), -numbers(B, H, T).exp(), numbers(B, H, K, V)]


def by_definition(given: list[Tensor], erase: bool) -> tuple[Tensor, Tensor]:
    """S = alpha (I - beta k k^T) S + beta k v^T, token by token."""
    q, k, v, strength, log_decay, S = given
    outputs = []
    for t in range(q.shape[2]):
        key, beta = k[:, :, t, :, None], strength[:, :, t, None, None]
        turned = torch.eye(K, dtype=torch.double) - beta * key @ key.mT if erase else torch.eye(K, dtype=torch.double)
        S = log_decay[:, :, t, None, None].exp() * turned @ S + beta * key @ v[:, :, t, None, :]
        outputs.append((S.mT @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, dim=2), S


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 150])
@pytest.mark.parametrize("erase", [True, False])
def test_chunks_are_the_recurrence(T: int, erase: bool) -> None:
    given = inputs(T)
    expected, last = by_definition(given, erase)
    outputs, matrix = recall_all(Tokens(*given[:5]), given[5], erase=erase)
    torch.testing.assert_close(outputs, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(matrix, last, atol=1e-9, rtol=0)


def test_the_gradient_of_chunks_is_that_of_the_recurrence() -> None:
    given = [part.requires_grad_() for part in inputs(70)]
    found, expected = (
        torch.autograd.grad(outputs.square().sum() + matrix.sum(), given)
        for outputs, matrix in (recall_all(Tokens(*given[:5]), given[5]), by_definition(given, True))
    )
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-9, rtol=0)


def test_hard_fading_is_finite_in_single_precision() -> None:
    """Over 64 tokens of log alpha -20 the products of alpha leave the numbers: only their quotients may be formed."""
    q, k, v, strength, log_decay, matrix = (part.float() for part in inputs(64))
    log_decay = (torch.zeros_like(log_decay) - 20).requires_grad_()
    outputs, _ = recall_all(Tokens(q, k, v, strength, log_decay), matrix)
    assert outputs.isfinite().all()
    assert torch.autograd.grad(outputs.sum(), log_decay)[0].isfinite().all()


@pytest.mark.parametrize("erase", [True, False])
def test_a_key_bound_again_stands_for_its_last_value_and_in_linear_attention_for_the_sum(erase: bool) -> None:
    k = torch.eye(K, dtype=torch.double)[[0, 1, 0]].expand(B, H, 3, K)
    v, whole = numbers(B, H, 3, V), torch.ones(B, H, 3, dtype=torch.double)
    outputs, _ = recall_all(Tokens(k, k, v, whole), torch.zeros(B, H, K, V, dtype=torch.double), erase=erase)
    torch.testing.assert_close(outputs[:, :, 2], v[:, :, 2] if erase else v[:, :, 0] + v[:, :, 2])
    torch.testing.assert_close(outputs[:, :, 1], v[:, :, 1])


def test_the_matrix_stays_in_single_precision() -> None:
    q, k, v, strength, log_decay, matrix = (part.to(torch.bfloat16) for part in inputs(3))
    outputs, after = recall_all(Tokens(q, k, v, strength, log_decay), matrix.float())
    assert (outputs.dtype, after.dtype) == (torch.bfloat16, torch.float32)


def test_features_are_products_of_shifted_halves() -> None:
    """x = (1, -2): halves (1, 0, 0, 2); shifted by one (2, 1, 0, 0), by two (0, 2, 1, 0)."""
    assert features(torch.tensor([1.0, -2.0]), rolls=2).tolist() == [2, 0, 0, 0, 0, 0, 0, 0]
    assert features(numbers(7, 4)).shape == (7, 24)
    assert (features(numbers(7, 4)) >= 0).all()


def empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(B, 24, V, dtype=torch.double), torch.zeros(B, 24, dtype=torch.double)


def test_an_associated_value_is_read_again_and_replaced() -> None:
    k, whole = features(numbers(B, 1, 4)), torch.ones(B, 1, 1, dtype=torch.double)
    state = empty()
    for _ in range(3):
        v = numbers(B, 1, V)
        state = write_at_once(*state, k, v, whole)
        torch.testing.assert_close(recall(*state, k), v, atol=1e-3, rtol=0)  # but for the 1e-5 under the fraction
    torch.testing.assert_close(state[1], k[:, 0], atol=1e-4, rtol=0)  # the normaliser has not grown with the writes


def test_half_a_write_goes_half_the_way() -> None:
    k, v, half = features(numbers(B, 1, 4)), numbers(B, 1, V), torch.full((B, 1, 1), 0.5, dtype=torch.double)
    state = write_at_once(*empty(), k, v, half)
    torch.testing.assert_close(recall(*state, k), 0.5 * v, atol=1e-3, rtol=0)
    torch.testing.assert_close(recall(*write_at_once(*state, k, v, half), k), 0.75 * v, atol=1e-3, rtol=0)


def test_rows_written_at_once_do_not_see_each_other() -> None:
    k, v, strength = features(numbers(B, 3, 4)), numbers(B, 3, V), torch.rand(B, 3, 1, dtype=torch.double)
    state = write_at_once(*empty(), features(numbers(B, 2, 4)), numbers(B, 2, V), torch.ones(B, 2, 1, dtype=torch.double))
    matrix, normaliser = write_at_once(*state, k, v, strength)
    alone = [write_at_once(*state, k[:, m : m + 1], v[:, m : m + 1], strength[:, m : m + 1]) for m in range(3)]
    torch.testing.assert_close(matrix - state[0], sum(one[0] - state[0] for one in alone))
    torch.testing.assert_close(normaliser - state[1], sum(one[1] - state[1] for one in alone))


def test_how_much_is_new_has_no_gradient() -> None:
    """The sum of gamma k then changes by gamma, the same for each entry of k."""
    other, k = features(numbers(B, 1, 4)), features(numbers(B, 1, 4)).requires_grad_()
    whole = torch.ones(B, 1, 1, dtype=torch.double)
    state = write_at_once(*empty(), 0.1 * other, numbers(B, 1, V), whole)
    _, normaliser = write_at_once(*state, k, numbers(B, 1, V), whole)
    (gradient,) = torch.autograd.grad(normaliser.sum(), k)
    torch.testing.assert_close(gradient, ((normaliser - state[1]).sum(-1) / k.sum((1, 2)))[:, None, None].expand(B, 1, 24))
    assert ((gradient > 0) & (gradient < 1)).any()  # part of the key was there
