"""What is installed here and whether it works: versions, processor, memory, disk, MuJoCo, rendering.

Exit code 1 where something that runs need is broken; what is only nice to have is a note.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..output import Output

NEEDED = ("torch", "numpy", "scipy", "gymnasium", "metaworld", "mujoco", "pandas", "hydra-core", "rich", "matplotlib", "plotly", "jinja2")
BROKEN = 1
SECONDS = 120
STEP = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_step(model, data, 10)
assert data.time > 0
"""
FRAME = (
    STEP
    + """
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().shape == (32, 32, 3)
"""
)


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at: `ok`, `note` (works without) or `broken`, and what was found."""

    what: str
    state: str
    found: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench doctor`."""
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Look at everything and say what was found."""
    signs = []
    for look in LOOKS:
        for sign in look():
            signs.append(sign)
            if not arguments.json:
                out.result(f"{sign.state:<7} {sign.what:<22} {sign.found}")
    broken = [sign for sign in signs if sign.state == "broken"]
    if arguments.json:
        out.json([asdict(sign) for sign in signs])
    elif broken:
        out.error(f"{len(broken)} of {len(signs)} are broken: {', '.join(sign.what for sign in broken)}")
    else:
        out.say("everything that runs need works here")
    return BROKEN if broken else 0


def _versions() -> Iterator[Sign]:
    yield Sign("clbench", "ok", f"{version('clbench')}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
    missing = []
    found = []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Sign("packages", "ok", ", ".join(found))
    if missing:
        yield Sign("missing packages", "broken", f"pip install {' '.join(missing)}")


def _processor() -> Iterator[Sign]:
    from ..runs import allowed_cores, cpu_model

    cores, there = allowed_cores(), os.cpu_count() or 1
    yield Sign("cores allowed", "ok", f"{cores} of {there}, {cpu_model()}")
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Sign(
        "threads",
        "ok",
        f"threads=1 by default; OMP_NUM_THREADS={threads or 'unset'}; CLBENCH_WORKERS={os.environ.get('CLBENCH_WORKERS', 'unset')}",
    )
    memory = _memory_mb()
    if memory is not None:
        yield Sign("memory", "ok" if memory >= 2048 else "note", f"{memory:,} MB available" + ("" if memory >= 2048 else "; use --jobs 1"))


def _memory_mb() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable")), None)


def _disk() -> Iterator[Sign]:
    results, cache = Path("results/runs"), _cache_folder()
    for what, path in (("disk for results", results), ("cache of demonstrations", cache)):
        there = _nearest(path)
        free = shutil.disk_usage(there).free // 2**20
        if not os.access(there, os.W_OK):
            advice = "type results_dir=DIR" if what.startswith("disk") else "set CLBENCH_CACHE=DIR"
            yield Sign(what, "broken" if what.startswith("disk") else "note", f"{path}: cannot be written; {advice}")
        else:
            yield Sign(what, "ok" if free > 500 else "note", f"{path}, {free:,} MB free")


def _cache_folder() -> Path:
    base = os.environ.get("CLBENCH_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clbench"


def _nearest(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _torch() -> Iterator[Sign]:
    said, code = _in_process(
        "import torch; print(torch.__version__, torch.get_num_threads(), torch.cuda.is_available(), torch.cuda.device_count())"
    )
    if code:
        yield Sign("torch", "broken", said)
        return
    name, threads, cuda, count = said.split()
    yield Sign("torch", "ok", f"{name} loads, {threads} threads of its own")
    if cuda == "True":
        said, code = _in_process("import torch; x = torch.ones(8, device='cuda'); print(float(x.sum()), torch.cuda.get_device_name(0))")
        yield Sign("GPU", "ok" if code == 0 else "broken", f"{count} of them, {said}" if code == 0 else said)
    else:
        yield Sign("GPU", "note", "none that torch can use; runs go on the processor")


def _faiss() -> Iterator[Sign]:
    said, code = _in_process("import faiss; print(faiss.__version__)")
    found = f"faiss {said}" if code == 0 else "no faiss, torch searches instead; faster with: pip install 'clbench[cpu]' (or [gpu])"
    yield Sign("nearest neighbours", "ok" if code == 0 else "note", found)


def _mujoco() -> Iterator[Sign]:
    said, code = _in_process(STEP)
    yield Sign("MuJoCo", "ok" if code == 0 else "broken", "loads and steps" if code == 0 else said)
    shown = []
    for name in ("egl", "osmesa"):
        said, code = _in_process(FRAME, MUJOCO_GL=name)
        shown.append(name) if code == 0 else None
        yield Sign(f"a frame with {name}", "ok" if code == 0 else "note", "drawn" if code == 0 else f"not drawn: {said}")
    if not shown:
        yield Sign(
            "videos", "note", "cannot be drawn here; runs do not need them. Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
        )


def _in_process(code: str, **environment: str) -> tuple[str, int]:
    """Last line that a fresh Python says of `code`, and its exit code: a crash in a driver stays over there."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} s", 1
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return (said[-1][:160] if said else f"left with code {done.returncode}"), done.returncode


LOOKS: tuple[Callable[[], Iterator[Sign]], ...] = (_versions, _processor, _disk, _torch, _faiss, _mujoco)
