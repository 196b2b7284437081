"""The test examples of a text stream as questions for any language model: a file of lines for each task, and how to ask them.

    clbench data export comp --out questions
    lm_eval --include_path questions --tasks clbench_comp_1 --model hf --model_args pretrained=...

Each task is a `.jsonl` file of prompts and answers as people write them, and a `.yaml` file for lm-evaluation-harness (Gao et al.,
EleutherAI/lm-evaluation-harness, version 0.4): free generation and exact match, or the likeliest of the choices, or the likelihood of plain
text. Where an answer has given parts (the keys that are asked for), there is a question for each part that has to be said, behind the right
answers to those before it, as predictors are scored here when teacher forced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clbench.errors import UserError
from clbench.files import make_folder, write_whole
from clbench.stream import TaskStream


@dataclass(frozen=True)
class Sheet:
    """The questions of one task: generation {prompt, answer}, choice {prompt, choices, answer: its number}, text {text}."""

    kind: Literal["generation", "choice", "text"]
    rows: Sequence[dict[str, Any]]


def export(stream: TaskStream, folder: Path) -> list[Path]:
    """Write all tasks of `stream`, those held out too, into `folder`; the files, that of the whole stream last.

    A task that can be written has `sheet(seed)`, the examples that `evaluate(policy, seed)` scores.
    """
    tasks = [*stream.tasks, *(stream.few_shot.tasks if stream.few_shot else ())]
    if any(not hasattr(task, "sheet") for task in tasks):
        raise UserError(f"stream '{stream.name}' is no text that can be written down; expected one of text, as alg or comp")
    prefix = _name(f"clbench_{stream.name}_{stream.version}")
    make_folder(folder)
    names, written = [], []
    for task in tasks:
        sheet: Sheet = task.sheet(stream.seed("evaluation", task))  # type: ignore[attr-defined]
        name = _name(f"{prefix}_{task.name}")
        lines = folder / f"{name}.jsonl"
        write_whole(lines, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sheet.rows))
        write_whole(folder / f"{name}.yaml", _yaml(name, lines.resolve(), sheet))
        names.append(name)
        written += [lines, folder / f"{name}.yaml"]
    group = folder / f"{prefix}.yaml"
    write_whole(group, "".join([f"group: {prefix}\n", "task:\n", *(f"  - {name}\n" for name in names)]))
    return [*written, group]


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _yaml(name: str, lines: Path, sheet: Sheet) -> str:
    data = ["dataset_path: json", "dataset_kwargs:", "  data_files:", f"    test: {json.dumps(str(lines))}", "test_split: test"]
    exact = ["metric_list:", "  - metric: exact_match", "    aggregation: mean", "    higher_is_better: true"]
    likeliest = ["metric_list:", "  - metric: acc", "    aggregation: mean", "    higher_is_better: true"]
    longest = max((len(str(row.get("answer", ""))) for row in sheet.rows), default=1)
    asked = {
        "generation": [
            "output_type: generate_until",
            'doc_to_text: "{{prompt}}"',
            'doc_to_target: "{{answer}}"',
            "generation_kwargs:",
            '  until: ["\\n"]',
            "  do_sample: false",
            f"  max_gen_toks: {longest + 8}",
            *exact,
        ],
        "choice": [
            "output_type: multiple_choice",
            'doc_to_text: "{{prompt}}"',
            "doc_to_choice: choices",
            "doc_to_target: answer",
            *likeliest,
        ],
        "text": [
            "output_type: loglikelihood_rolling",
            'doc_to_text: ""',
            'doc_to_target: "{{text}}"',
            "metric_list:",
            "  - metric: bits_per_byte",
        ],
    }[sheet.kind]
    return "\n".join([f"task: {name}", *data, *asked, "metadata:", "  version: 1.0", ""])
