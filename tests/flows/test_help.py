"""Every command says what it does, what it takes, what is meant when something is left out, and shows an example."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from flows.cli import app, run
from flows.cli.examples import EXAMPLES
from flows.cli.options import check_output
from pipeline.errors import InvalidInputError
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {"bool", "flag"}


def _walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{name} {key}".strip())
    if not hasattr(command, "commands"):
        yield name, command


COMMANDS = dict(_walk(get_command(app)))


def options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option" and one.name != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_means_and_what_it_is_when_left_out(name: str) -> None:
    for one in options(COMMANDS[name]):
        assert one.help, f"{name} {one.name}: no help"
        says_default = one.required or one.is_flag or isinstance(one.show_default, str) or one.default is not None
        assert says_default, f"{name} {one.name}: the help does not say what is meant without it"


@pytest.mark.parametrize("name", COMMANDS)
def test_settings_have_one_variable_everywhere(name: str) -> None:
    for one in COMMANDS[name].params:
        is_setting = one.name in Settings.model_fields and not (name == "compare" and one.name == "store")
        is_first_of_two = one.name == "store" and name in ("sql", "lineage", "backup", "import")
        if is_setting and not is_first_of_two:
            assert one.envvar == f"SCALE_{one.name.upper()}", f"{name} {one.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_can_be_typed(name: str) -> None:
    for line in EXAMPLES[name]:
        words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
        assert words[: 1 + len(name.split())] == ["scale", *name.split()], line
        given = words[1 + len(name.split()) :]
        context = COMMANDS[name].make_context(name, given or ["store"] if name == "info" else given)
        assert context.params is not None


@pytest.mark.parametrize("columns", ["40", "120"])
def test_the_help_shows_variables_defaults_and_examples(capsys, monkeypatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for name in ("run", "status", "weights add"):
        assert run([*name.split(), "--help"]) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= max(int(columns), 50)  # narrower than 50 nothing is written
        shown = "".join(re.sub(r"[│╭╮╰╯─]", "", printed).split())
        assert f"Examples:{''.join(EXAMPLES[name][0].split())}" in shown
        assert "…" not in shown
        for one in COMMANDS[name].params:
            variable = isinstance(one.envvar, str) and f"envvar:{one.envvar}"
            assert not variable or variable in shown
            default = isinstance(getattr(one, "show_default", None), str) and "".join(one.show_default.split())
            assert not default or f"default:({default})" in shown


def test_every_variable_is_documented_and_nothing_else_is() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    documented = set(re.findall(r"`(SCALE_[A-Z0-9_]+)`", page))
    read = {f"SCALE_{name.upper()}" for name in Settings.model_fields if name != "recipe_dir"}
    for folder in ("pipeline", "extract", "aggregate", "probe", "flows", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            found = re.findall(r'(?:environ\b[^"\n]*|envvar=|setenv\()"(SCALE_[A-Z0-9_]+)"', file.read_text())
            read |= {name for name in found if not name.startswith("SCALE_TEST_")}
    for file in ROOT.glob("docker-compose*.yml"):
        text = file.read_text()
        read |= set(re.findall(r"\$\{(SCALE_[A-Z_]+)", text))
        for service in yaml.safe_load(text)["services"].values():
            read |= {name for name in service.get("environment") or {} if name.startswith("SCALE_")}
    assert documented == read
    compose = {n for f in ROOT.glob("docker-compose*.yml") for n in re.findall(r"\$\{([A-Z0-9_]+)", f.read_text())}
    assert {name for name in compose if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "x.yaml", "--stroe", "s"], "--store"),
        (["retry", "s", "--status", "unreadible"], "did you mean unreadable?"),
        (["run", "flows/recipes/demmo.yaml"], "did you mean flows/recipes/demo.yaml?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(capsys, monkeypatch, arguments: list[str], meant: str) -> None:
    monkeypatch.chdir(ROOT)
    assert run(arguments) in (2, 3)
    assert meant in " ".join(capsys.readouterr().err.split())


def test_commands_that_ask_a_store_heed_the_variable(capsys, monkeypatch, tmp_path: Path) -> None:
    from tests.support.stores import make_store

    make_store(tmp_path / "s", 4)
    monkeypatch.setenv("SCALE_STORE", str(tmp_path / "s"))
    questions = (["info"], ["status"], ["query"], ["runs"], ["verify"], ["sql", "SELECT count(*) AS n FROM toy.videos"])
    for question in questions:
        assert run([*question, "--json"]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out
    monkeypatch.delenv("SCALE_STORE")
    for question, missing in ((["info"], "STORE"), (["sql", "SELECT 1"], "QUERY")):
        assert run(question) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert missing in said
        assert "set SCALE_STORE" in said


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    check_output(None)
    check_output(tmp_path / "new.html")
    for wrong, said in ((tmp_path, "found the folder"), (tmp_path / "no" / "x.html", "found none at")):
        with pytest.raises(InvalidInputError, match=said):
            check_output(wrong)
