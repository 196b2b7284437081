"""From what is typed to a run: schemas come from constructors, values are checked twice, the same run has the same key from everywhere."""

import textwrap
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_models import tiny_model

from clbench import catalogue, configuration, overrides, registry, reproductions, schemas
from clbench.errors import UserError
from clbench.experiment import load
from clbench.stream import TaskStream
from clbench.task_streams import levels

EWC = ["stream=toy", "agent=ewc"]


def resolve(*words):
    return configuration.resolve(list(words))


def test_defaults_are_those_of_the_constructors():
    options = resolve(*EWC).request.agent.options
    for group, path in (("learners", "learner"), ("backbones", "backbone")):
        part = options["demonstrations"][path]
        for name, parameter in registry.options_of(registry.load(group, part["kind"])).items():
            assert part[name] == (list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default)
    assert options["methods"]["ewc"]["kind"] == "ewc"
    assert "device" not in options and "name" not in options


def test_overrides_reach_every_part():
    words = ["agent.methods.ewc.strength=5", "agent.demonstrations.learner.learning_rate=1e-4", "agent.text.backbone.width=128", "seed=7"]
    request = resolve(*EWC, *words).request
    options = request.agent.options
    assert options["methods"]["ewc"]["strength"] == 5.0 and isinstance(options["methods"]["ewc"]["strength"], float)
    assert options["demonstrations"]["learner"]["learning_rate"] == 1e-4
    assert options["text"]["backbone"]["width"] == 128
    assert request.seed == 7


def test_parts_are_exchanged_and_methods_added_by_name():
    options = resolve(
        *EWC, "agent.text.backbone=rmt", "agent.methods.replay=replay", "agent.methods.replay.capacity=11"
    ).request.agent.options
    assert options["text"]["backbone"]["kind"] == "rmt" and "memory_tokens" in options["text"]["backbone"]
    assert list(options["methods"]) == ["ewc", "replay"] and options["methods"]["replay"]["capacity"] == 11


@pytest.mark.parametrize("name", [n for n in catalogue.files("agent")])
def test_every_agent_composes_and_accepts_its_options(name):
    text_alone = "demonstrations" not in catalogue.find("agent", name).path.read_text()
    of_the_user = [f"agent.text.backbone.folder={tiny_model('gpt2')}"] if name == "pretrained" else []
    request = resolve(f"stream={'alg' if text_alone else 'toy'}", f"agent={name}", *of_the_user).request
    assert request.agent.name == name
    request.agent.build(request.stream.info(0), 0)


@pytest.mark.parametrize("name", [n for n in catalogue.files("stream")])
def test_every_stream_is_built_under_every_budget_it_names(name, tmp_path):
    for function in levels.functions:
        function.asked.clear()
    values = catalogue.find("stream", name).read()
    folder = []
    if values.get("folder", "") is None:  # of the user's
        (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(200)))
        folder = [f"stream.folder={tmp_path}"]
        name = f"{name}-{tmp_path.name.lower()}"
    for budget in values["budgets"]:
        stream = resolve(f"stream={values['name']}", "agent=random", f"budget={budget}", *folder).request.stream
        assert isinstance(stream, TaskStream) and stream.budget == budget and stream.name == name
    stored = levels.stored()
    missing = [key for each in levels.functions for key in each.asked if key not in stored.get(each.name, {})]
    assert not missing, f"{missing[0]}: run python tests/test_levels.py"


@pytest.mark.parametrize("name", [n for n in catalogue.files("experiment") if not n.startswith(reproductions.FOLDER)])
def test_every_experiment_resolves(name):
    """Those of claims are in test_reproductions."""
    assert all(configuration.resolve_each(load(name).commands))


def test_what_differs_in_its_seed_alone_is_built_once_and_is_what_it_would_be():
    commands = [["stream=toy", "agent=ewc", *seed] for seed in (["seed=3"], ["seed=0"], [], ["threads=2", "seed=1"], ["seed=1", "seed=2"])]
    each, alone = list(configuration.resolve_each(commands)), [configuration.resolve(words) for words in commands]
    assert [made.tree for made in each] == [made.tree for made in alone]
    assert [made.folder for made in each] == [made.folder for made in alone]
    assert [made.request.seed for made in each] == [3, 0, 0, 1, 2] and each[0].request.stream is each[1].request.stream
    with pytest.raises(UserError, match="seed must be an integer"):
        list(configuration.resolve_each([["stream=toy", "agent=ewc", "seed=0"], ["stream=toy", "agent=ewc", f"seed={10**12}"]]))


def test_references_cover_every_task_of_their_streams_with_at_least_three_seeds():
    requests = [made.request for made in configuration.resolve_each(load("references").commands)]
    for family in {request.stream.family for request in requests}:
        runs = [request for request in requests if request.stream.family == family]
        tasks = {task.name for request in runs for task in request.stream.tasks}
        covered = {(request.stream.tasks[request.stream.phases[0].columns[0]].name, request.seed) for request in runs}
        seeds = {request.seed for request in runs}
        assert seeds >= {0, 1, 2}
        assert covered == {(name, seed) for name in tasks for seed in seeds}


def test_the_budget_section_stands_under_what_is_typed():
    smoke = resolve("stream=toy", "agent=random").request.stream
    standard = resolve("stream=toy", "agent=random", "budget=standard").request.stream
    typed = resolve("stream=toy", "agent=random", "budget=standard", "stream.units=77").request.stream
    assert (smoke.phases[0].units, standard.phases[0].units, typed.phases[0].units) == (2048, 8192, 77)


def test_variants_of_a_stream_are_keys():
    assert resolve("stream=toy", "agent=random", "stream.joint=true").request.stream.role == "joint"
    assert resolve("stream=toy", "agent=random", "stream.only=1").request.stream.phases[0].columns == (1,)
    hidden = resolve("stream=toy", "agent=random", "stream.identity=hidden").request.stream
    assert {task.info.index for task in hidden.tasks} == {None}


def test_device_threads_and_folder_are_not_part_of_what_a_run_is():
    plain = resolve("stream=toy", "agent=ewc")
    other = resolve("stream=toy", "agent=ewc", "device=cpu", "threads=2", "results_dir=/elsewhere/my runs, 2")
    assert plain.request.run_key == other.request.run_key
    assert other.results_dir == Path("/elsewhere/my runs, 2")
    assert resolve("stream=toy", "agent=ewc", "seed=1").request.run_key != plain.request.run_key


def test_a_resolved_configuration_resolves_to_the_same_run():
    first = resolve(*EWC, "agent.methods.ewc.strength=3", "seed=4", "stream.units=99")
    again = configuration.resolve([], OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(first.tree))))
    assert again.request.run_key == first.request.run_key
    assert configuration.resolve(["seed=5"], first.tree).request.seed == 5


def test_from_python_and_from_the_command_line_it_is_the_same_run():
    typed = resolve(*EWC, "agent.methods.ewc.strength=3", "stream.units=99", "seed=2").request
    called = configuration.request("ewc", "toy", seed=2, agent_options={"methods.ewc.strength": 3}, stream_options={"units": 99})
    assert called.run_key == typed.run_key


class Mine:
    """An agent of one's own, with every kind of option."""

    def __init__(
        self, task, seed, *, rate: float = 1, sizes: tuple[int, ...] = (3, 4), mode: Literal["a", "b"] = "a", index: int | None = None
    ):
        self.options = (rate, sizes, mode, index)

    def begin_task(self, task): ...
    def learn(self, experience): ...
    def end_task(self, task): ...
    def policy(self, task): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...


def test_a_class_is_an_agent_and_its_keywords_are_checked():
    spec = configuration.agent_spec(Mine, {"sizes": [5], "mode": "b", "index": 3})
    assert spec.name == "mine"
    assert spec.options == {"rate": 1.0, "sizes": [5], "mode": "b", "index": 3}
    with pytest.raises(UserError, match="one of a, b, got 'c'"):
        configuration.agent_spec(Mine, {"mode": "c"})
    with pytest.raises(UserError, match=r"agent\.sizes"):
        configuration.agent_spec(Mine, {"sizes": ["x"]})


def test_a_path_names_an_agent_after_its_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        textwrap.dedent("""
        class MyNewAgent2:
            def __init__(self, task, seed, *, width: int = 8): ...
            def begin_task(self, task): ...
            def learn(self, experience): ...
            def end_task(self, task): ...
            def policy(self, task): ...
            def state_dict(self): ...
            def load_state_dict(self, state): ...
        """)
    )
    spec = resolve("stream=toy", "agent=./mine.py:MyNewAgent2", "agent.width=9").request.agent
    assert spec.name == "my-new-agent2" and spec.options == {"width": 9}


def test_a_yaml_file_of_one_s_own_may_be_put_together_from_parts(tmp_path):
    file = tmp_path / "strong.yaml"
    file.write_text("defaults: [ewc, _self_]\nname: strong\nkind: composed\nmethods: {ewc: {strength: 100}}\n")
    options = resolve("stream=toy", f"agent={file}").request.agent.options
    assert options["methods"]["ewc"]["strength"] == 100 and options["demonstrations"]["backbone"]["kind"] == "mlp"


def test_a_file_that_inherits_from_itself_is_refused(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text("defaults: [{/agent@_here_: ewc}, _self_]\nname: loop\nkind: composed\n")
    with pytest.raises(UserError, match="lead back to itself"):
        resolve("stream=toy", f"agent={file}")


def test_the_schema_keeps_types_and_refuses_others():
    node = schemas.node("agent", {"name": "mine", "kind": "x"}, Mine, "here")
    assert OmegaConf.to_container(node) == {
        "name": "mine",
        "kind": "x",
        "description": "",
        "rate": 1.0,
        "sizes": [3, 4],
        "mode": "a",
        "index": None,
    }
    with pytest.raises(UserError, match=r"here: rate: expected float, got 'fast'"):
        schemas.node("agent", {"name": "mine", "kind": "x", "rate": "fast"}, Mine, "here")
    with pytest.raises(UserError, match="here: unknown key 'rates'; did you mean rate"):
        schemas.node("agent", {"name": "mine", "kind": "x", "rates": 1}, Mine, "here")


def test_grids_are_products_in_the_order_typed():
    words = overrides.grid(["agent=a,./b.py:B", "seed=range(0,2)", "results_dir=x,y", "agent.k=[1,2]"])
    assert words == [[f"agent={a}", f"seed={s}", "results_dir=x,y", "agent.k=[1,2]"] for a in ("a", "./b.py:B") for s in (0, 1)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_every_value_survives_the_grammar_of_overrides(value):
    assert overrides.parse(f"agent.x={overrides.quoted(value)}").value() == value


def test_experiments_unfold_and_drop_doubles(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(
        "name: plan\nruns:\n  - {agents: [a, b], streams: [s], seeds: [0, 1]}\n  - {agents: [a], streams: [s], seeds: [1]}\n"
        "  - {agents: [a], streams: [s], seeds: [0], overrides: ['stream.only=range(0,2)']}\n"
    )
    commands = load(str(file), ["budget=standard", "results_dir=out"]).commands
    assert len(commands) == 6
    assert commands[0] == ("stream=s", "agent=a", "seed=0", "budget=standard", "results_dir=out")
    assert commands[-1] == ("stream=s", "agent=a", "seed=0", "budget=standard", "stream.only=1", "results_dir=out")
    assert {c[2] for c in load(str(file), ["seed=range(5,7)"]).commands} == {"seed=5", "seed=6"}


def test_a_mapping_can_be_typed_where_a_file_has_none():
    words = ["stream=alg", "agent=random", "stream.tasks=[recall,sort]", "stream.held_out=[]", "stream.units={recall: 160, sort: 320}"]
    assert [phase.units for phase in configuration.resolve(words).request.stream.phases] == [160, 320]


def test_runs_of_one_plan_are_what_each_is_by_itself(tmp_path):
    """Agents and streams are composed once in a plan: also where seeds vary, a part is exchanged, a device or a new key is said."""
    (tmp_path / "mine.yaml").write_text("name: mine\nkind: composed\ndefaults: [ewc, _self_]\nmethods: {ewc: {samples: '${seed}'}}\n")
    mine = f"agent={tmp_path}/mine.yaml"
    commands = [
        ("stream=toy", "agent=ewc", "seed=3", "agent.methods.ewc.strength=2"),
        ("stream=toy", "agent=ewc", "seed=4", "agent.methods.ewc.strength=2"),
        ("stream=toy", "agent=ewc", "seed=4", "agent.methods.replay=replay", "stream.units=64"),
        ("stream=alg", "agent=ewc", "agent.text.backbone=rmt", "agent.methods.ewc.strength=2", "device=cpu"),
        ("stream=toy", mine, "seed=7"),
        ("stream=toy", mine, "seed=8"),
        ("stream=toy", "agent=ewc", "agent.methods.more=replay", "+agent.methods.ewc.floor=1e-3", "threads=2", "results_dir=elsewhere"),
    ]
    planned = list(configuration.resolve_each(commands))
    for words, found in zip(commands, planned, strict=True):
        alone = resolve(*words)
        assert repr(found.tree) == repr(alone.tree)
        assert (found.folder, found.request.run_key) == (alone.folder, alone.request.run_key)
    assert planned[0].request.stream is planned[1].request.stream
    assert [run.request.agent.options["methods"]["ewc"]["samples"] for run in planned[4:6]] == [7, 8]


@pytest.mark.parametrize("word", ["agent.strength=5", "stream.unit=5", "sed=1", "seed=abc", "agent.text.backbone=rm", "threads=x"])
def test_a_mistake_in_a_plan_is_told_as_of_a_single_run(word):
    said = []
    for ask in (resolve, lambda *words: list(configuration.resolve_each([words]))):
        with pytest.raises(UserError) as error:
            ask(*EWC, word)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_an_option_may_be_a_name_or_several():
    """OmegaConf knows no unions with lists; what is checked then is the constructor's own type."""

    def build(*, name: str = "s", version: int = 1, budget: str = "b", text: str | int | list[str] | None = None): ...

    made = schemas.node("stream", {"name": "s", "kind": "k", "text": ["a", "b"]}, build, "here")
    assert OmegaConf.to_container(made)["text"] == ["a", "b"]
    with pytest.raises(UserError, match=r"here: text: expected str \| int \| list\[str\] \| None, got 1.5"):
        schemas.node("stream", {"name": "s", "kind": "k", "text": 1.5}, build, "here")
