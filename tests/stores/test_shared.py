"""One memory for all streams."""

from __future__ import annotations

import pytest
import torch

from clbench.agents.backbones import state as states
from clbench.agents.stores.faiss_index import Graph
from clbench.agents.stores.faiss_store import FaissStore
from clbench.agents.stores.least_recently_read import LeastRecentlyReadStore
from clbench.agents.stores.ring import RingStore
from clbench.agents.stores.shared import SharedStore
from clbench.agents.stores.store import State

B, H, M, D = 3, 2, 8, 4


def rows(length: int) -> torch.Tensor:
    return torch.randn(B, H, length, D, dtype=torch.double)


def empty(store: SharedStore) -> State:
    return store.empty(B, H, M, D, D, dtype=torch.double)


def test_the_state_has_no_streams() -> None:
    state = empty(SharedStore())
    assert {name: tuple(leaf.shape) for name, leaf in state.items()} == {"keys": (H, M, D), "values": (H, M, D), "ptr": (), "fill": ()}
    assert states.bytes(state) == M * SharedStore().entry_bytes(H, D, D, torch.double) + 8


@pytest.mark.parametrize("topk", [None, 2])
def test_each_stream_reads_what_any_of_them_wrote_last(topk: int | None) -> None:
    """Of 3 streams x 4 tokens the last 8 are held: in order of time those of tokens 1 (streams 1 and 2), 2 and 3."""
    store = SharedStore()
    k, v, q = rows(4), rows(4), rows(5)
    state = store.append(empty(store), k, v)
    kept = [(1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3)]
    keys, values = (torch.stack([x[b, :, t] for b, t in kept], 1) for x in (k, v))  # (H, M, D)
    scores = 0.5 * q @ keys.transpose(1, 2)
    if topk is not None:
        scores = scores.masked_fill(scores < scores.topk(topk).values[..., -1:], -torch.inf)
    output, lse, diagnostics = store.attend(state, q, topk, 0.5)
    torch.testing.assert_close(output, scores.softmax(-1) @ values, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-12, rtol=0)
    assert diagnostics["reads"].tolist() == [[H * (topk or M)] * 5] * B


def test_only_tokens_that_are_there_are_written_and_any_cut_of_all_streams_writes_the_same() -> None:
    store = SharedStore()
    k, v, valid = rows(9), rows(9), torch.rand(B, 9) < 0.5
    whole, state = store.append(empty(store), k, v, valid), empty(store)
    for part in torch.arange(9).split(2):
        state = store.append(state, k[:, :, part], v[:, :, part], valid[:, part])
    assert all(torch.equal(leaf, whole[name]) for name, leaf in state.items())
    assert whole["fill"].item() == min(M, int(valid.sum()))
    last = [(b, t) for t in range(9) for b in range(B) if valid[b, t]][-1]
    assert torch.equal(whole["keys"][:, (int(whole["ptr"]) - 1) % M], k[last[0], :, last[1]])


def test_nothing_is_read_of_an_empty_one() -> None:
    store = SharedStore()
    output, lse, _ = store.attend(empty(store), rows(2), 3)
    assert not output.any() and lse.isneginf().all()


def test_with_the_rule_of_the_least_recently_read_one_streams_reads_keep_an_entry_for_all() -> None:
    store = SharedStore(LeastRecentlyReadStore())
    keys = 10 * torch.eye(4, dtype=torch.double)
    state = store.empty(2, 1, 4, 4, 1, dtype=torch.double)
    number = torch.tensor([[0.0, 2.0], [1.0, 3.0]], dtype=torch.double)  # stream 0 writes 0 and 2, stream 1 writes 1 and 3
    state = store.append(state, keys[number.long()][:, None], number[:, None, :, None])
    attended = store.attend(state, keys[[2, 0]].view(2, 1, 1, 4), 1)  # stream 0 reads entry 2, stream 1 entry 0
    assert attended.output.flatten().tolist() == [2.0, 0.0]
    state = store.noted(state, attended)
    assert state["reads"].item() == 2
    new = torch.tensor([[[[5.0]]], [[[6.0]]]], dtype=torch.double)
    state = store.append(state, keys[:1].expand(2, 1, 1, 4), new)
    assert set(state["values"].flatten().tolist()) == {0.0, 2.0, 5.0, 6.0}  # 1 and 3, which nobody read, are gone


def test_an_index_follows_a_shared_memory() -> None:
    pytest.importorskip("faiss")
    store, exact = SharedStore(FaissStore(Graph())), SharedStore(RingStore())
    state = empty(store)
    for _ in range(12):
        state = store.append(state, rows(2), rows(2))
        q = rows(3)
        torch.testing.assert_close(store.attend(state, q, 3).output, exact.attend(state, q, 3).output, atol=1e-12, rtol=0)
    index = store.store._indexed
    store.attend(store.append(state, rows(1), rows(1)), rows(1), 3)
    assert store.store._indexed is index
