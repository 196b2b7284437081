from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clbench.agents.backbones import state as states
from clbench.agents.backbones.state import State


@pytest.fixture
def memory() -> State:
    return {"rows": torch.arange(12.0).view(3, 2, 2), "clock": torch.tensor([5, 6, 7], dtype=torch.int32)}


def test_select_takes_streams_in_the_order_of_the_index(memory: State) -> None:
    taken = states.select(memory, [2, 0])
    assert taken["clock"].tolist() == [7, 5]
    assert taken["rows"][:, 0, 0].tolist() == [8, 0]


def test_cat_undoes_select(memory: State) -> None:
    joined = states.cat([states.select(memory, [0]), states.select(memory, slice(1, 3))])
    assert all(torch.equal(joined[name], leaf) for name, leaf in memory.items())


def test_where_and_reset_choose_stream_by_stream(memory: State) -> None:
    fresh = {"rows": torch.full((3, 2, 2), -1.0), "clock": torch.zeros(3, dtype=torch.int32)}
    done = torch.tensor([False, True, False])
    for chosen in (states.where(done, fresh, memory), states.reset(memory, fresh, done)):
        assert chosen["clock"].tolist() == [5, 0, 7]
        assert chosen["clock"].dtype == torch.int32
        assert chosen["rows"][:, 1, 1].tolist() == [3, -1, 11]
    assert memory["clock"].tolist() == [5, 6, 7]


def test_clone_shares_no_storage(memory: State) -> None:
    copy = states.clone(memory)
    copy["rows"].zero_()
    assert memory["rows"].sum() == 66


def test_to_changes_the_type_of_floating_leaves_only(memory: State) -> None:
    half = states.to(memory, dtype=torch.bfloat16)
    assert half["rows"].dtype == torch.bfloat16
    assert half["clock"].dtype == torch.int32
    assert states.to(memory, device="meta")["clock"].device.type == "meta"


def test_bytes_counts_every_leaf(memory: State) -> None:
    assert states.bytes(memory) == 12 * 4 + 3 * 4


def test_detach_ends_the_graph(memory: State) -> None:
    memory["rows"].requires_grad_()
    grown = {**memory, "rows": memory["rows"] * 2}
    assert not states.detach(grown)["rows"].requires_grad
    assert grown["rows"].requires_grad


def test_save_writes_the_streams_it_was_given_and_not_the_storage_behind_them(memory: State, tmp_path: Path) -> None:
    states.save({"rows": torch.zeros(100_000, 4)[:1]}, tmp_path / "state.pt", "a")
    assert (tmp_path / "state.pt").stat().st_size < 10_000


def test_save_replaces_a_file_whole(memory: State, tmp_path: Path) -> None:
    for digest in ("a", "b"):
        states.save(memory, tmp_path / "state.pt", digest)
    loaded = states.load(tmp_path / "state.pt", "b")
    assert all(torch.equal(loaded[name], leaf) for name, leaf in memory.items())
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
