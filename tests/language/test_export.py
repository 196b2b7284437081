"""Questions for models outside: what is scored here, word for word, with a task file that names them."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from clbench import cli
from clbench.configuration import stream_named
from clbench.task_streams.language.export import export


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stretch_that_is_scored_is_a_question(tmp_path):
    stream = stream_named("alg", "smoke")
    files = export(stream, tmp_path)
    task = stream.tasks[0]
    assert task.name == "recall" and len(files) == 2 * 6 + 1
    tokens, mask, *_ = task._test_set(stream.seed("evaluation", task))
    found = lines(tmp_path / "clbench_alg_1_recall.jsonl")
    assert len(found) == 4 * 256  # four keys are asked for in each
    from clbench.task_streams.language.vocabulary import vocabulary

    whole = vocabulary().render(tokens[0])
    for question in found[:4]:
        assert question["example"] == 0 and whole.startswith(f"<bos> {question['prompt']} {question['answer']} ")
    assert sum(len(question["answer"].split()) for question in found) == mask.sum() - 256  # <eos> is not asked for


def test_a_task_file_names_the_questions_and_how_they_are_asked(tmp_path):
    export(stream_named("comp", "smoke"), tmp_path)
    written = OmegaConf.to_container(OmegaConf.load(tmp_path / "clbench_comp_1_rev_swap.yaml"))
    assert written["task"] == "clbench_comp_1_rev_swap" and written["output_type"] == "generate_until"
    assert written["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "clbench_comp_1_rev_swap.jsonl")
    assert (written["doc_to_text"], written["doc_to_target"]) == ("{{prompt}}", "{{answer}}")
    assert written["generation_kwargs"]["max_gen_toks"] >= 6 * 4
    group = OmegaConf.to_container(OmegaConf.load(tmp_path / "clbench_comp_1.yaml"))
    assert group["group"] == "clbench_comp_1" and len(group["task"]) == 13
    assert all((tmp_path / f"{name}.yaml").is_file() for name in group["task"])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    (root / "books").mkdir(parents=True)
    rows = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(30))
    (root / "train.csv").write_text("text,label\n" + rows)
    (root / "test.csv").write_text("text,label\nnew,b\nold,a\n")
    (root / "books" / "one.txt").write_text("café " * 300)
    return root


def test_real_text_is_asked_as_it_was_read(folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["data", "export", "local-text", "--out", str(out), f"stream.folder={folder}", "stream.tokens=bytes"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "2 questions" in said and f"lm_eval --include_path {out} --tasks clbench_local_text_mine_1 " in said
    assert lines(out / "clbench_local_text_mine_1_mine.jsonl")[0] == {"prompt": "new", "choices": ["a", "b"], "answer": 1}
    assert OmegaConf.load(out / "clbench_local_text_mine_1_mine.yaml").output_type == "multiple_choice"
    text = "".join(row["text"] for row in lines(out / "clbench_local_text_mine_1_books.jsonl"))
    assert text.replace("\ufffd", "").startswith("caf")
    assert OmegaConf.load(out / "clbench_local_text_mine_1_books.yaml").output_type == "loglikelihood_rolling"


@pytest.mark.parametrize(
    "words, message",
    [
        (["data", "export", "comp"], "expected --out DIR"),
        (["data", "export", "toy", "--out", "{}"], "no text that can be written down"),
        (["data", "export", "comp", "--out", "{}", "agent=rmt"], "expected stream.OPTION=VALUE or budget=NAME, got 'agent=rmt'"),
        (["data", "export", "comp", "--out", "{}", "budget=none"], "none"),
        (["data", "export", "como", "--out", "{}"], "comp"),
        (["data", "check", "{}", "stream.x=1"], "stream.x says nothing of what a folder holds"),
    ],
)
def test_wrong_requests_are_one_line(words, message, tmp_path, capsys):
    assert cli.main([word.format(tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
