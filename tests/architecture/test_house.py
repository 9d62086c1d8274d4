"""What stands at the top, and how large a file or a function may grow."""

import re
import shlex
import subprocess
import tomllib

import pytest

from tests.architecture.sources import ROOT, functions, parsed, source_files, where

TOP_LEVEL = {
    *("configs", "kvcache", "checkpoints", "engine", "heads", "server"),
    *("benchmarks", "deploy", "docs", "tests", ".ci"),
    *("headcount.py", "Makefile", "Dockerfile", "pyproject.toml", "constraints.txt"),
    *("README.md", "CONTRIBUTING.md", "LICENSE"),
    *(".gitignore", ".gitattributes", ".dockerignore", ".pre-commit-config.yaml"),
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def test_every_top_level_name_has_its_place_in_the_house() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_no_file_outgrows_a_reader() -> None:
    sizes = {where(path): path.read_text(encoding="utf-8").count("\n") for path in source_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_every_function_fits_on_a_screen() -> None:
    lengths = {
        f"{where(path, node)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in parsed()
        for node in functions(tree)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_check_and_pre_commit_run_the_same_commands() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv").replace("$(RUN)", ".venv/bin/python")
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    hooks = re.findall(r"entry: ([^,\n]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert recipe is not None
    assert [line.strip() for line in recipe[1].splitlines()] == hooks


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][^+\s]*", line) for line in pinned)
    names = {re.split(r"[\[<>=!~ ;]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names - {line.split("==")[0] for line in pinned} == set()


@pytest.mark.parametrize("script", [".ci/run", "deploy/install.sh"])
def test_scripts_can_be_run_and_stop_at_the_first_error(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o100
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(shlex.split(f"bash -n {path}"), check=True)
