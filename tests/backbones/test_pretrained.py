"""Models that were trained before: they say what the library says, read on as they read whole, and of them only what should learns."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from tiny_models import WORDS, tiny_model

from clbench.agents.backbones.pretrained import Pretrained
from clbench.agents.composed import Composed
from clbench.agents.learners.language_modelling import TokenModel
from clbench.configuration import resolve
from clbench.errors import UserError
from clbench.interfaces import TaskInfo
from clbench.task_streams.language.stream import knowledge_stream

FAMILIES = ["gpt2", "llama", "gpt-neox", "mistral"]
WIDTH = 16
V = len(WORDS)


def model(family: str = "gpt2", written: tuple[str, ...] = WORDS, **options) -> TokenModel:
    backbone = Pretrained(WIDTH, folder=tiny_model(family), **options)
    return TokenModel(backbone, len(written), rows=backbone.token_rows(written, len(written))).eval()


def tokens(*shape: int, high: int = V) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def library(request):
    """The library's own model of a family, from the same folder."""
    import transformers

    return lambda family: transformers.AutoModelForCausalLM.from_pretrained(tiny_model(family), local_files_only=True).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_the_library_says(family, library):
    text = tokens(3, 12)
    ours = model(family, segment_length=16)
    with torch.no_grad():
        expected = library(family)(input_ids=text).logits
        found = ours(text, ours.initial_state(3)).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("memory_tokens", [0, 2])
def test_read_in_parts_it_says_the_same(family, memory_tokens):
    ours, text = model(family, segment_length=5, memory_tokens=memory_tokens), tokens(3, 17)
    with torch.no_grad():
        whole = ours(text, ours.initial_state(3))
        state, parts = ours.initial_state(3), []
        for part in text.split([1, 3, 1, 5, 4, 2, 1], dim=1):
            logits, state, *_ = ours(part, state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, atol=2e-6, rtol=0)
    for name, leaf in whole.state.items():
        torch.testing.assert_close(state[name], leaf, atol=2e-6, rtol=0, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_memory_tokens_carry_anything_over_a_segments_end(family):
    early, late = tokens(1, 10), tokens(1, 10).clone()
    late[0, 1] = (late[0, 1] + 1) % V  # in the first segment
    for memory_tokens, carried in ((0, False), (2, True)):
        ours = model(family, segment_length=5, memory_tokens=memory_tokens)
        with torch.no_grad():
            one, other = (ours(text, ours.initial_state(1)).logits for text in (early, late))
        assert not torch.equal(one[:, 1:5], other[:, 1:5])
        assert torch.equal(one[:, 5:], other[:, 5:]) != carried


@pytest.mark.parametrize(("segments", "reaches"), [(0, True), (1, False)])
def test_gradients_reach_back_through_as_many_segments_as_are_asked(segments, reaches):
    backbone = Pretrained(WIDTH, folder=tiny_model("llama"), segment_length=4, memory_tokens=2, bptt_segments=segments)
    x = torch.randn(1, 12, WIDTH, requires_grad=True)
    backbone(x, backbone.initial_state(1)).hidden[:, -1].sum().backward()
    assert bool(x.grad[:, :8].any()) == reaches
    assert bool(backbone.memory.grad is not None and backbone.memory.grad.any()) == reaches


# -- the rows of a stream's tokens ------------------------------------------------------------------------------------------


def rows_of(family: str, written: tuple[str, ...], **options):
    return Pretrained(WIDTH, folder=tiny_model(family, **options)).token_rows(written, len(written))


def test_tokens_of_the_models_own_names_have_its_rows_and_marks_its_marks(library):
    rows = rows_of("llama", ("<pad>", "<bos>", "word7", "is", "<ans>"))
    own = library("llama")
    read, spoken = own.get_input_embeddings().weight, own.get_output_embeddings().weight
    ids = [0, 1, WORDS.index("word7"), WORDS.index("is")]
    assert torch.equal(rows.read[:4], read[ids]) and torch.equal(rows.spoken[:4], spoken[ids])
    assert torch.equal(rows.first, read[1])  # a text begins with the model's own first token
    assert (read - rows.read[4]).abs().amax(1).min() > 0  # the model has no <ans>


def test_other_words_begin_with_their_pieces_in_order(library):
    rows = rows_of("llama", ("where is", "is where", "<bos>", "nowhere", "a"))
    read = library("llama").get_input_embeddings().weight
    where, is_ = (read[WORDS.index(word)] for word in ("where", "is"))
    torch.testing.assert_close(rows.read[0], (2 * where + is_) / 3)
    torch.testing.assert_close(rows.read[1], (2 * is_ + where) / 3)
    assert torch.equal(rows.read[2], read[1]) and torch.equal(rows.read[4], read[WORDS.index("a")])
    assert (read - rows.read[3]).abs().amax(1).min() > 0  # unknown: drawn, and not the row of <unk>


def test_where_nothing_is_known_of_tokens_rows_are_drawn_like_the_models():
    for rows in (rows_of("gpt2", WORDS, tokenizer=False), Pretrained(WIDTH, folder=tiny_model("gpt2")).token_rows((), V)):
        assert rows.read.shape == (V, WIDTH) and rows.spoken is None
        assert rows.read.std() == pytest.approx(0.02, rel=0.2)


def test_rows_are_asked_once_and_copies_do_not_hold_them():
    backbone = Pretrained(WIDTH, folder=tiny_model("gpt2"))
    assert backbone.token_rows(WORDS, V) is not None and backbone.token_rows(WORDS, V) is None


def test_rows_may_be_held():
    learned, held = (model("llama", tokens=how) for how in ("learned", "held"))
    for part in ("embedding", "head"):
        assert getattr(learned, part).weight.requires_grad and not getattr(held, part).weight.requires_grad


# -- learning ---------------------------------------------------------------------------------------------------------------


def stream():
    return knowledge_stream(name="k", version=1, budget="b", entities=16, attributes=1, values=4, phases=2, exposures=4, points=1)


def agent(methods=None, **backbone) -> tuple[TaskInfo, Composed]:
    info = stream().tasks[0].info
    options = {"folder": tiny_model("gpt2"), "segment_length": 16, "memory_tokens": 2, **backbone}
    learner = {"kind": "language-modelling", "learning_rate": 1e-2, "batch_size": 8, "warmup": 0}
    text = {"learner": learner, "backbone": {"kind": "pretrained", **options}}
    return info, Composed(info, 3, text=text, methods=methods, device="cpu")


def lived(built: Composed, units: int = 64) -> Composed:
    for task in stream().tasks:
        experience = task.experience(1)
        experience.meter.grant(units)
        built.begin_task(task.info)
        built.learn(experience)
        built.end_task(task.info)
    return built


def test_all_of_it_learns_or_the_adapters_alone():
    for rank in (0, 2):
        _, built = agent(lora_rank=rank, tokens="held" if rank else "learned")
        before = {name: weight.clone() for name, weight in built._learner.networks.state_dict().items()}
        lived(built)
        after = built._learner.networks.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if rank:
            assert changed == {name for name in before if "lora" in name or name == "backbone.memory"}
            assert built.parameters == sum(before[name].numel() for name in changed)
        else:
            layers = {name for name in before if ".h." in name}
            assert layers and layers <= changed and {"backbone.memory", "embedding.weight"} <= changed


@pytest.mark.parametrize("kind", ["ewc", "l2", "mas", "replay", "a-gem", "packnet", "variational", "reset", "cloning", "knn"])
def test_it_goes_with_every_method_and_goes_on_where_it_was_saved(kind):
    info, built = agent({"one": {"kind": kind}}, lora_rank=2)
    state = lived(built).state_dict()
    again = agent({"one": {"kind": kind}}, lora_rank=2)[1]
    again.load_state_dict(state)
    asked = tokens(2, 6, high=info.input_size).numpy()
    said = []
    for one in (built, again):
        policy = lived(one).policy(info)
        said.append(policy.logits(asked, policy.initial_state(2))[0])
    assert (said[0] == said[1]).all()


def test_it_acts_where_it_is_asked_to():
    backbone = Pretrained(5, folder=tiny_model("gpt2"), segment_length=4)
    assert backbone(torch.randn(2, 6, 5), backbone.initial_state(2)).hidden.shape == (2, 6, WIDTH)


# -- what cannot be used ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mamba", "bloom"])
def test_a_model_that_cannot_be_cut_is_refused(family):
    with pytest.raises(UserError, match=rf"expected a causal transformer that reads vectors .* \({family}\) does not"):
        Pretrained(WIDTH, folder=tiny_model(family))


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"cannot be read as a causal language model: .*T5Config"):
        Pretrained(WIDTH, folder=tiny_model("t5"))


def test_folders_without_a_model_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model("gpt2"), broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / "config.json").write_text("{")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "of-tomorrow"}))
    mute = tmp_path / "mute"
    shutil.copytree(tiny_model("gpt2"), mute)
    (mute / "tokenizer.json").write_text("{}")
    expected = {
        str(mute): "the tokenizer in '.*mute' cannot be read",
        None: "give agent.text.backbone.folder=PATH",
        "gpt2": "got 'gpt2', where none lies",
        str(tmp_path / "empty"): "where none lies",
        str(broken): "cannot be read as a causal language model",
        str(unreadable): "cannot be read as a causal language model",
        str(foreign): "cannot be read as a causal language model.*of-tomorrow",
    }
    for folder, message in expected.items():
        with pytest.raises(UserError, match=message) as refused:
            Pretrained(WIDTH, folder=folder)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_length": 0}, "segment_length must be at least 1"),
        ({"memory_tokens": -1}, "at least 0, got"),
        ({"lora_dropout": 1.0}, r"lora_dropout in \[0, 1\)"),
        ({"tokens": "hold"}, "Did you mean held"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"segment_length": 253, "memory_tokens": 2}, "reads 256 tokens at once, .* is 257"),
        ({"lora_rank": 2, "lora_targets": ("nothing",)}, "no adapters for gpt2"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Pretrained(WIDTH, folder=tiny_model("gpt2"), **options)


def test_a_window_of_attention_is_a_limit():
    Pretrained(WIDTH, folder=tiny_model("mistral"), segment_length=24)
    with pytest.raises(UserError, match="reads 24 tokens at once"):
        Pretrained(WIDTH, folder=tiny_model("mistral"), segment_length=25)


def test_nothing_is_asked_of_the_network(monkeypatch, tmp_path):
    folder = Path(tiny_model("llama"))

    def refused(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert Pretrained(WIDTH, folder=str(folder), lora_rank=2).output_size == WIDTH
    with pytest.raises(UserError, match="where none lies"):
        Pretrained(WIDTH, folder="gpt2")


def test_the_code_of_a_folder_is_not_run(tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(tiny_model("gpt2"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be read"):
        Pretrained(WIDTH, folder=str(folder))
    assert not (tmp_path / "was-run").exists()


def asked(folder: str):
    return resolve(["stream=world-qa", "agent=pretrained", f"agent.text.backbone.folder={folder}"]).request


def test_a_run_is_known_by_what_lies_in_the_folder_and_not_by_where_it_lies(tmp_path):
    here, there = tiny_model("gpt2"), tmp_path / "moved"
    shutil.copytree(here, there)
    (there / "README.md").write_text("as it was found")
    first, moved = asked(here), asked(str(there))
    assert moved.run_key == first.run_key
    assert moved.agent.options["text"]["backbone"]["folder"] == str(there)  # which is what is opened
    known = first.manifest()["agent"]["config"]["text"]["backbone"]["folder"]
    assert known.startswith("gpt2@") and str(there) not in json.dumps(moved.manifest())
    assert asked(tiny_model("llama")).run_key != first.run_key
    weights = next(there.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of the last number one bit
    weights.write_bytes(content)
    assert asked(str(there)).run_key != first.run_key


def test_a_folder_without_a_model_is_refused_where_it_is_opened_and_not_before(tmp_path):
    request = asked(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="expected the folder of a model"):
        request.agent.build(request.stream.tasks[0].info, 0)
