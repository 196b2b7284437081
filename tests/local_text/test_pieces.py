"""Real text in the pieces of a model's own tokenizer: they are the library's, nothing is lost, and the model says of them what it says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_models import tiny_reader

from clbench import cli
from clbench.agents.composed import Composed
from clbench.errors import UserError
from clbench.task_streams.local_text.encoding import FIRST, Encoding
from clbench.task_streams.local_text.stream import local_stream

TEXT = "The dog sat on the mat. Où est le chat? 日本 🙂\n\n" * 9


@pytest.fixture(scope="module")
def pieces():
    return Encoding(tiny_reader())


@pytest.fixture
def folder(tmp_path):
    """Plain text, and questions with answers in words."""
    for place in ("book", "questions"):
        (tmp_path / place).mkdir()
    (tmp_path / "book" / "book.txt").write_text(TEXT * 10)
    rows = [{"prompt": f"Where is the cat {n}?", "answer": ("on the mat", "in the park")[n % 2]} for n in range(60)]
    (tmp_path / "questions" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def stream(folder, **options):
    given = {"tokens": tiny_reader(), "longest": 24, "test_examples": 20, **options}
    return local_stream(name="local-text", version=1, budget="smoke", folder=str(folder), **given)


def test_pieces_are_the_librarys_behind_the_marks(pieces):
    import transformers

    own = transformers.AutoTokenizer.from_pretrained(tiny_reader(), local_files_only=True)
    ids = own(TEXT, add_special_tokens=False)["input_ids"]
    assert pieces.encode(TEXT) == [FIRST + number for number in ids]
    assert len(pieces.written) == pieces.size == FIRST + len(own)
    assert [pieces.written[FIRST + number] for number in ids[:9]] == own.convert_ids_to_tokens(ids[:9])


@pytest.mark.parametrize("longest", [1, 7, 1000])
def test_documents_put_together_are_the_text(pieces, longest):
    parts = pieces.cut(TEXT, longest)
    assert "".join(parts) == TEXT and all(parts)
    assert max(len(pieces.encode(part)) for part in parts) <= longest + 4  # a letter of four bytes may be cut between its pieces


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_on_its_own_pieces_says_what_the_library_says(folder, family):
    import transformers

    place = tiny_reader(family)
    task = next(task for task in stream(folder, tokens=place).tasks if task.name == "book")
    text = {"learner": {"kind": "language-modelling"}, "backbone": {"kind": "pretrained", "folder": place, "segment_length": 64}}
    policy = Composed(task.info, 0, text=text, device="cpu").policy(task.info)
    own = transformers.AutoModelForCausalLM.from_pretrained(place, local_files_only=True).eval()
    ids = torch.tensor([Encoding(place).encode(task.test_rows[0].prompt)]) - FIRST
    begins = torch.full((1, 2), own.config.bos_token_id)  # one that the learner puts in front, one of the text
    with torch.no_grad():
        expected = own(torch.cat([begins, ids], 1)).logits[:, 1:]
    found, _ = policy.logits(torch.cat([begins[:, :1], FIRST + ids], 1).numpy(), None)
    np.testing.assert_allclose(found[:, :, FIRST:], expected.numpy(), atol=1e-5)
    bits = task.evaluate(policy, 0).facts["bits_per_byte"][0]
    said = torch.log_softmax(torch.from_numpy(found), -1)[0, :-1].gather(1, FIRST + ids[0][:, None]).sum()
    assert bits == pytest.approx(-float(said) / np.log(2) / len(task.test_rows[0].prompt.encode()), rel=1e-5)


def test_answers_in_words_are_read_and_scored(folder):
    task = next(task for task in stream(folder, verbal=True).tasks if task.name == "questions")
    tokens, mask = task.test.rows(np.arange(3), task.test.longest)
    assert mask.any(axis=1).all() and tokens.max() < task.info.output_size


def test_the_stream_is_named_by_the_content_of_its_tokenizer(folder, tmp_path):
    there = tmp_path / "elsewhere"
    shutil.copytree(tiny_reader(), there)
    one, other = stream(folder, tasks=["book"]), stream(folder, tasks=["book"], tokens=str(there))
    assert one.hash() == other.hash()
    changed = json.loads((there / "tokenizer.json").read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:-5]
    (there / "tokenizer.json").write_text(json.dumps(changed))
    assert stream(folder, tasks=["book"], tokens=str(there)).hash() != one.hash()


def test_a_whole_run_of_a_model_over_its_own_pieces(folder, tmp_path, capsys):
    words = [f"stream.folder={folder}", f"stream.tokens={tiny_reader()}", "stream.epochs=1", "stream.test_examples=10", "stream.points=1"]
    model = [f"agent.text.backbone.folder={tiny_reader()}", "agent.text.backbone.lora_rank=2", "agent.text.backbone.tokens=held"]
    more = ["agent.methods.replay=replay", f"results_dir={tmp_path / 'runs'}", "stream.verbal=true"]
    assert cli.main(["run", "stream=local-text", "agent=pretrained", *words, *model, *more]) == 0
    assert "Performance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"), [(None, "expected a folder with tokenizer.json"), ("{}", "cannot be read"), ("[", "cannot be read")]
)
def test_folders_without_a_tokenizer_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Encoding(str(tmp_path))


def test_a_misspelled_unit_is_no_folder():
    with pytest.raises(UserError, match="Did you mean words"):
        Encoding("word")
