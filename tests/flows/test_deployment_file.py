"""flows/prefect.yaml and docker-compose.yml agree with the code and with each other."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())
COMPOSE_FILES = ("docker-compose.yml", "docker-compose.scaled.yml")
S3 = yaml.safe_load((ROOT / "docker-compose.s3.yml").read_text())
COMPOSE, SCALED = (yaml.safe_load((ROOT / file).read_text()) for file in COMPOSE_FILES)


@pytest.mark.parametrize("deployment", DEPLOYMENTS["deployments"], ids=lambda d: d["name"])
def test_entrypoints_import_and_take_the_parameters(deployment):
    path, name = deployment["entrypoint"].split(":")
    flow = getattr(import_module(path.removesuffix(".py").replace("/", ".")), name)
    signature = inspect.signature(flow.fn)
    assert set(deployment.get("parameters", {})) <= set(signature.parameters)
    required = {n for n, p in signature.parameters.items() if p.default is inspect.Parameter.empty}
    assert required <= set(deployment.get("parameters", {}))
    flow.validate_parameters(deployment.get("parameters", {}))


@pytest.mark.parametrize("deployment", DEPLOYMENTS["deployments"], ids=lambda d: d["name"])
def test_recipes_of_deployments_are_shipped(deployment):
    from flows.parameters import find_recipe

    recipe = deployment.get("parameters", {}).get("recipe")
    if recipe is not None and not recipe.startswith("{{ $"):
        assert find_recipe(recipe).is_file()


def test_schedules_have_slugs_so_that_they_can_be_changed_in_place():
    slugs = [s.get("slug") for d in DEPLOYMENTS["deployments"] for s in d.get("schedules", [])]
    assert all(slugs)
    assert len(set(slugs)) == len(slugs)


def test_pull_is_stated():
    assert DEPLOYMENTS["pull"]


def test_every_pool_has_a_worker_in_compose():
    pools = {d["work_pool"]["name"] for d in DEPLOYMENTS["deployments"]}
    served = {s["command"][s["command"].index("--pool") + 1] for s in COMPOSE["services"].values()
              if "--pool" in s.get("command", [])}  # fmt: skip
    assert pools <= served


def test_ports_are_bound_to_loopback():
    for name, service in [*COMPOSE["services"].items(), *SCALED["services"].items()]:
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), (name, port)


def test_no_secret_has_a_default():
    text = "".join((ROOT / file).read_text() for file in (*COMPOSE_FILES, "docker-compose.s3.yml"))
    for match in re.finditer(r"\$\{([A-Z0-9_]*(?:PASSWORD|AUTH|SECRET)[A-Z0-9_]*)([^}]*)\}", text):
        assert match.group(2).startswith(":?") or match.group(2) in (":-", ""), match.group(0)


def test_services_have_health_checks_and_named_volumes():
    assert "healthcheck" in S3["services"]["s3"]
    for name in ("postgres", "prefect-server", "dask-scheduler"):
        assert "healthcheck" in COMPOSE["services"][name], name
    for name in ("redis", "prefect-api"):
        assert "healthcheck" in SCALED["services"][name], name
    for file in (COMPOSE, SCALED):
        for service in file["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert source in file["volumes"] or source.startswith("${"), volume


def test_images_are_pinned():
    for name, service in [*COMPOSE["services"].items(), *SCALED["services"].items()]:
        if service == SCALED["services"]["prefect-server"]:
            continue  # adds to the one of docker-compose.yml
        tag = service["image"].rsplit(":", 1)[1]
        assert tag not in ("latest", "3-latest"), name
        assert re.search(r"\d", tag), name
    assert "python:3.11." in (ROOT / "Dockerfile").read_text()
    assert "USER scale" in (ROOT / "Dockerfile").read_text()


def test_scaled_out_servers_share_what_one_server_has_and_only_one_process_runs_the_services():
    base = COMPOSE["services"]["prefect-server"]
    scaled = SCALED["services"]
    assert "--no-services" not in base["command"]
    for name in ("prefect-server", "prefect-api"):
        assert "--no-services" in scaled[name]["command"]
        assert [part for part in scaled[name]["command"] if part != "--no-services"] == base["command"]
    assert scaled["prefect-services"]["command"] == ["prefect", "server", "services", "start"]
    whole = base["environment"] | scaled["prefect-server"]["environment"]
    for name in ("prefect-api", "prefect-services", "migrate"):
        assert scaled[name]["environment"] == whole, name
    # Two servers that meet an empty database both register its block types, and one of them fails.
    assert scaled["prefect-api"]["depends_on"] == {"prefect-server": {"condition": "service_healthy"}}
