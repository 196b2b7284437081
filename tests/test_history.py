"""Packs that were handed in before this branch began stay as they are."""

import subprocess

import pytest

from clbench import history, known_streams
from clbench.cli import main
from clbench.errors import UserError

OLD, NEW = "results/submissions/s@1/smoke/old/2026-01-01-lab", "results/submissions/s@1/smoke/new/2026-01-02-lab"


def git(folder, *words):
    identity = ("-c", "user.name=n", "-c", "user.email=n@n", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def write(folder, name, text="x"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "m")


@pytest.fixture
def repository(tmp_path):
    """A pack on main, then a branch with another one, then on main a third that the branch does not have."""
    git(tmp_path, "init", "-b", "main")
    for file in ("SHA256SUMS", "evals.csv", "runs/s000-000000000000/run.json"):
        write(tmp_path, f"{OLD}/{file}")
    write(tmp_path, "leaderboard.md")
    commit(tmp_path)
    git(tmp_path, "switch", "-c", "branch")
    write(tmp_path, f"{NEW}/SHA256SUMS")
    write(tmp_path, "leaderboard.md", "more")
    commit(tmp_path)
    git(tmp_path, "switch", "main")
    write(tmp_path, "results/submissions/later/SHA256SUMS")
    commit(tmp_path)
    git(tmp_path, "switch", "branch")
    return tmp_path


def found(repository, base="main"):
    return [(finding.file, finding.found) for finding in history.changes([repository / "results"], base)]


def test_new_packs_and_what_came_to_the_base_later_are_no_change(repository):
    write(repository, f"{NEW}/evals.csv", "not committed")
    assert found(repository) == []


@pytest.mark.parametrize("committed", [False, True])
def test_what_changed_in_an_old_pack_is_named(repository, committed):
    write(repository, f"{OLD}/evals.csv", "better")
    (repository / OLD / "runs/s000-000000000000/run.json").unlink()
    write(repository, f"{OLD}/runs/s001-000000000000/run.json")
    if committed:
        commit(repository)
    assert sorted(found(repository)) == [
        (f"{OLD}/evals.csv", "changed"),
        (f"{OLD}/runs/s000-000000000000/run.json", "removed"),
        (f"{OLD}/runs/s001-000000000000/run.json", "added"),
    ]


def test_a_pack_that_was_moved_away_is_missed(repository):
    git(repository, "mv", OLD, OLD + "2")
    commit(repository)
    assert [verb for _, verb in found(repository)] == ["removed"] * 3


def test_without_repository_or_branch_there_is_one_line(repository, tmp_path_factory, capsys):
    with pytest.raises(UserError, match="give a branch or commit"):
        found(repository, "nowhere")
    with pytest.raises(UserError, match="git rev-parse says"):
        history.changes([tmp_path_factory.mktemp("outside")], "main")
    assert main(["submit", "runs", "--base", "main"]) == 2
    assert "--base goes with --check" in capsys.readouterr().err


def test_packs_of_an_earlier_version_stay_and_take_no_company(tmp_path, monkeypatch, capsys):
    """Toy is at its second version now; the pack of the first one landed while it was the present one."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "stream=toy", "agent=random", "seed=0,1", "--quiet"]) == 0
    words = ["submit", "results/runs", "--out", "results/submissions", "--tuning", "none", "--date", "2026-01-01", "--team"]
    assert main([*words, "old"]) == 0
    (tmp_path / ".gitignore").write_text("results/runs\n")
    git(tmp_path, "init", "-b", "main")
    commit(tmp_path)
    git(tmp_path, "switch", "-c", "branch")
    check = ["submit", "--check", "results/submissions"]
    assert main([*check, "--base", "main"]) == 0 and main(check) == 0
    built = known_streams._built
    monkeypatch.setattr(known_streams, "_built", lambda spec: {**built(spec), "version": 2})
    capsys.readouterr()
    assert main([*check, "--base", "main"]) == 0
    assert "findings: 0" in capsys.readouterr().out
    assert main(check) == 0
    assert "of earlier versions of their streams, which take no new packs (--base tells which those are): 1" in capsys.readouterr().out
    assert main([*words, "new"]) == 0
    capsys.readouterr()
    assert main([*check, "--base", "main"]) == 3
    said = capsys.readouterr().out
    assert "2026-01-01-new" in said and "stream.spec.version: expected 2, found 1" in said and "2026-01-01-old" not in said
