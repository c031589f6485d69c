"""Real services for tests, started natively with the commands and environment of docker-compose.yml."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import require_program

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Return the condition's first true value; poll, since these events happen in other processes."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"expected {what} within {timeout_s} s")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Fill ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as compose does."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":?":
            raise AssertionError(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\{([A-Z0-9_]+)(?:(:[-?])([^}]*))?\}", value, text)


@dataclass(frozen=True)
class ComposeService:
    """What docker-compose.yml says of one service, ready to be started natively."""

    command: list[str]
    environment: dict[str, str]


def compose_service(
    name: str, variables: Mapping[str, str], rewrite: Mapping[str, str], files: Sequence[str] = ("docker-compose.yml",)
) -> ComposeService:
    """Read a service from the compose files; `rewrite` puts loopback addresses where containers have names.

    Of several files the later ones count, as compose merges them: commands are replaced, environments added to.
    """
    service: dict[str, Any] = {}
    for file in files:
        said = yaml.safe_load((ROOT / file).read_text())["services"].get(name, {})
        service |= said | {"environment": service.get("environment", {}) | said.get("environment", {})}

    # In one pass: a port that was put in must not be rewritten again.
    old = re.compile("|".join(re.escape(text) for text in sorted(rewrite, key=len, reverse=True)) or "(?!)")

    def native(value: object) -> str:
        return old.sub(lambda match: rewrite[match.group()], interpolate(str(value), variables))

    command = [native(part) for part in service.get("command", [])]
    environment = {key: native(value) for key, value in service.get("environment", {}).items()}
    return ComposeService(command, environment)


@dataclass
class Postgres:
    """A database server in a folder of its own."""

    folder: Path
    port: int
    programs: Path
    user: str | None

    def control(self, *arguments: str) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        command = [self.programs / "pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options]
        subprocess.run([*map(str, command), *arguments], check=True, user=self.user, stdout=subprocess.DEVNULL)


@contextmanager
def postgres(variables: Mapping[str, str]) -> Iterator[Postgres]:
    """Start PostgreSQL with the compose file's user, database and password; stop it afterwards."""
    programs = Path(require_program("initdb")).resolve().parent
    service = compose_service("postgres", variables, {}).environment
    # PostgreSQL refuses to run as root, and its folder must be its user's.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="scale-postgres-"))
    try:
        secret = folder / "password"
        secret.write_text(service["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(folder, user)
            shutil.chown(secret, user)
        initialise = [
            "initdb",
            "-D",
            folder / "data",
            "-U",
            service["POSTGRES_USER"],
            "-A",
            "scram-sha-256",
            "--no-sync",
        ]
        initialise[0] = programs / "initdb"
        command = [*map(str, initialise), f"--pwfile={secret}"]
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL)
        server = Postgres(folder, free_port(), programs, user)
        server.control("start")
        try:
            address = ["-h", "127.0.0.1", "-p", str(server.port), "-U", service["POSTGRES_USER"]]
            environment = {**os.environ, "PGPASSWORD": service["POSTGRES_PASSWORD"]}
            subprocess.run([programs / "createdb", *address, service["POSTGRES_DB"]], check=True, env=environment)
            yield server
        finally:
            server.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Services:
    """Processes that were started, each in a session of its own so that all of its children can be ended."""

    folder: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, service: ComposeService, **more: str) -> subprocess.Popen[bytes]:
        program = BIN / service.command[0]
        if not program.exists():
            program = Path(require_program(service.command[0]))
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [str(program), *service.command[1:]],
            env={**self.environment, **service.environment, **more},
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self.processes[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def kill(self, name: str) -> None:
        """End a service and its children at once, as a power cut would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop_all(self) -> None:
        for name in reversed(list(self.processes)):
            process = self.processes.pop(name)
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(timeout=8)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


def is_healthy(api_url: str) -> bool:
    """Whether a Prefect server answers its health check."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
