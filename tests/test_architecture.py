"""The house rules that a reader should be able to trust: layers, file sizes, what imports cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.import_graph import cycle, folders, import_graph

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "extract", "aggregate", "probe", "flows")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
WRITTEN = [*SOURCES, *(path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py")))]
MAX_LINES = 400


def test_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_circle_of_imports_lazy_and_type_only_ones_counted():
    graph = import_graph(ROOT, PACKAGES)
    assert graph["pipeline.store.selection"] >= {"pipeline.sets.handles", "pipeline.exchange.hdf5"}  # both kinds seen
    assert cycle(graph) == []
    assert cycle(folders(graph)) == []


def test_a_circle_of_imports_is_seen(tmp_path):
    files = {
        "__init__": "",
        "a/__init__": "",
        "a/one": "def later():\n    from top.b.two import x",
        "a/three": "",
        "b/__init__": "",
        "b/two": "if TYPE_CHECKING:\n    import top.a.three",
    }
    for name, text in files.items():
        path = tmp_path / "top" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = import_graph(tmp_path, ["top"])
    assert cycle(graph) == []
    assert set(cycle(folders(graph))) == {"top.a", "top.b"}
    (tmp_path / "top" / "a" / "three.py").write_text("from top.a import one")
    assert set(cycle(import_graph(tmp_path, ["top"]))) == {"top.a.one", "top.b.two", "top.a.three"}


def test_a_file_holds_one_idea():
    too_long = {str(p.relative_to(ROOT)): n for p in WRITTEN if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert too_long == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_and_nothing_prints(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"dill", "cloudpickle", "joblib"}, path
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "os.system", "print"}, f"{path}: {name}"
            assert not name.startswith("pickle."), f"{path}: {name}"  # its exceptions may be caught, nothing more
            if name == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_parquet_is_read_in_one_place_without_threads_that_outlive_the_work():
    """A thread of Arrow that lets go of Python's bytes while the interpreter ends aborts the process."""
    readers = ("read_table", "ParquetFile", "ParquetDataset", "read_csv", "open_csv", "read_feather")
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in readers
    }
    assert found == {"pipeline/storage/parquet.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_its_page(package):
    page = (ROOT / package / "README.md").read_text()
    assert len(page.splitlines()) > 10


HEAVY = ("torch", "faiss", "av", "prefect", "distributed", "pytorchvideo", "sklearn", "transformers")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_querying_the_store_pays_for_nothing_heavy():
    assert _loaded_after("import pipeline; from pipeline import FeatureStore") == set()


def test_the_command_line_starts_without_torch_or_prefect():
    assert _loaded_after("import flows.cli") == set()


def test_the_recipe_reference_says_what_the_models_say():
    import runpy

    generator = runpy.run_path(str(ROOT / "docs" / "generate_recipe_reference.py"))
    assert (ROOT / "docs" / "recipe.md").read_text() == generator["render"](), (
        "run `python docs/generate_recipe_reference.py` and commit docs/recipe.md"
    )
