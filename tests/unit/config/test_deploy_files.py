"""The deployment files (Procfile, Dockerfile, Compose, locks), checked against the code."""

import importlib
import importlib.metadata
import importlib.util
import json
import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from celery.bin.celery import celery as celery_command
from gunicorn.config import Config
from honcho.environ import parse_procfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from windrow.api.bind import check_bind
from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import load_settings
from windrow.version import __version__

ROOT = Path(__file__).parents[3]
PROCFILE: dict[str, str] = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements/lock.txt", "requirements/dev.txt")

#: Variables that other tools define.
COMMON_VARIABLES = {"CELERY_BROKER_URL", "HF_HOME", "PATH", "PORT", "PYTHONUNBUFFERED", "WEB_CONCURRENCY"}
#: Time that a worker may take to finish its batches, in seconds.
WORKER_DRAIN_S = 30


def interpolated(text: str) -> str:
    """Replace ``${NAME:-default}`` by the default, then ``$$`` by ``$``, as Compose does in an empty environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE_TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WINDROW_SERVICES = {name: service for name, service in SERVICES.items() if service["image"] == "windrow"}


def words(command: str | list[str]) -> list[str]:
    """Split a command, without ``mkdir ... &&`` and ``exec`` before it."""
    parts = shlex.split(command) if isinstance(command, str) else command
    parts = parts[parts.index("&&") + 1 :] if "&&" in parts else parts
    return parts[1:] if parts[0] == "exec" else parts


def docker_variables() -> dict[str, str]:
    """Return the environment variables that the final image sets."""
    final = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    pairs = (pair for line in re.findall(r"^ENV (.+)$", final, re.M) for pair in shlex.split(line))
    return dict(pair.split("=", 1) for pair in pairs)


def windrow_commands() -> dict[str, list[str]]:
    """Return every command line that starts or checks a Windrow process, by its place."""
    found = {f"Procfile {name}": words(command) for name, command in PROCFILE.items()}
    found["Dockerfile CMD"] = json.loads(re.findall(r"^CMD (.+)$", DOCKERFILE, re.M)[-1])
    for name, service in WINDROW_SERVICES.items():
        found[f"compose {name}"] = words(service["command"])
        kind, *check = service["healthcheck"]["test"]
        found[f"compose {name} healthcheck"] = words(check[0] if kind == "CMD-SHELL" else check)
    return found


COMMANDS = windrow_commands()


def pins(lock: str) -> dict[str, Version]:
    """Return the package versions of a lock file by name."""
    lines = (line.split("#")[0].strip() for line in (ROOT / lock).read_text().splitlines())
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in lines if line}


def test_compose_file_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/fixtures/compose-spec/compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(COMPOSE)
    validator.validate(yaml.safe_load(COMPOSE_TEXT))


@pytest.mark.parametrize("where", COMMANDS)
def test_a_command_line_is_valid(where: str) -> None:
    program, *arguments = COMMANDS[where]
    if program == "celery":
        assert arguments[:2] == ["-A", "windrow.worker"]
        command = celery_command.get_command(click.Context(celery_command), arguments[2])
        assert command is not None
        options, rest, _ = command.make_parser(click.Context(command)).parse_args(arguments[3:])
        assert rest == []
        assert options.get("command") == ("ping" if arguments[2] == "inspect" else None)
    elif program == "gunicorn":
        server = Config().parser().parse_args(arguments)
        assert server.config == "python:windrow.api.gunicorn_conf"
        assert server.args == ["windrow.api:create_app()"]
    elif arguments[0] == "-m":
        assert program == "python"
        assert importlib.import_module(arguments[1]).main
        assert len(arguments) == 3
    else:
        assert program == "python"
        assert arguments[0] == "-c"
        compile(arguments[1], where, "exec")


def test_celery_application_named_in_the_commands_exists() -> None:
    assert importlib.import_module("windrow.worker.celery.app").app.main


def test_api_factory_and_server_settings_named_in_the_commands_exist() -> None:
    assert callable(importlib.import_module("api").create_app)
    assert importlib.util.find_spec("windrow.api.gunicorn_conf") is not None


def test_compose_starts_the_same_processes_as_the_procfile() -> None:
    def without_schedule(command: list[str]) -> list[str]:
        return command[: command.index("--schedule")] if "--schedule" in command else command

    for service, line in {
        "api": "api",
        "worker-cpu": "worker",
        "worker-gpu": "worker",
        "housekeeping": "housekeeping",
    }.items():
        assert without_schedule(COMMANDS[f"compose {service}"]) == without_schedule(COMMANDS[f"Procfile {line}"])
    assert COMMANDS["Dockerfile CMD"] == COMMANDS["Procfile api"]


def test_the_api_is_first_in_the_procfile_so_that_honcho_passes_port_unchanged() -> None:
    assert list(PROCFILE) == ["api", "worker", "housekeeping"]


@pytest.mark.parametrize("name", WINDROW_SERVICES)
def test_the_health_check_of_a_celery_service_pings_the_node_that_its_command_names(name: str) -> None:
    command, check = COMMANDS[f"compose {name}"], COMMANDS[f"compose {name} healthcheck"]
    if command[0] == "celery":
        node = check[check.index("-d") + 1] if check[0] == "celery" else check[-1]
        assert node == command[command.index("-n") + 1].replace("%h", "$HOSTNAME")
        # The health check of a worker covers its batch loops; housekeeping has none and only answers a ping.
        assert (check[:3] == ["python", "-m", "windrow.worker.health"]) == ("windrow" in command)


@pytest.mark.parametrize("name", WINDROW_SERVICES)
def test_the_environment_of_a_service_contains_only_settings_and_common_variables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no windrow.toml
    variables = docker_variables() | WINDROW_SERVICES[name]["environment"]
    assert {key for key in variables if not key.startswith("WINDROW_")} <= COMMON_VARIABLES
    settings = load_settings(variables)
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.host == "0.0.0.0"


def test_every_variable_that_the_compose_file_reads_has_a_default() -> None:
    asked = re.findall(r"(?<!\$)\$(\{?\w+)([^}\s]*)", COMPOSE_TEXT)
    assert asked
    assert [name for name, default in asked if not default.startswith(":-")] == []


def test_ports_are_published_on_loopback_only_and_redis_is_not_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert SERVICES["redis"]["networks"] == ["redis"]
    assert COMPOSE["networks"]["redis"]["internal"] is True
    port = next(iter(published["api"])).rsplit(":", 1)[1]
    assert f":{port}/healthz" in str(SERVICES["api"]["healthcheck"]["test"])
    assert docker_variables()["PORT"] == SERVICES["api"]["environment"]["PORT"] == port


def test_compose_serves_without_api_keys_but_the_image_alone_refuses_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no windrow.toml
    check_bind(load_settings(docker_variables() | SERVICES["api"]["environment"]))
    with pytest.raises(InvalidSetting, match="no API key is configured"):
        check_bind(load_settings(docker_variables()))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_a_restart_policy_an_unprivileged_user_and_time_to_drain(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) > WORKER_DRAIN_S
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "user" in service or re.findall(r"^USER (\w+)$", DOCKERFILE, re.M)[-1:] == ["windrow"]


def test_cpu_and_gpu_workers_are_chosen_by_profile() -> None:
    chosen = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert chosen == {"worker-cpu": ["cpu"], "worker-gpu": ["gpu"]}
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_files_that_compose_mounts_exist() -> None:
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    folders = {source for source in sources if source.startswith(".")}
    assert folders == {"./deploy/redis.conf"}
    assert all((ROOT / source).is_file() for source in folders)
    assert sources - folders == set(COMPOSE["volumes"])


def test_redis_is_configured_not_to_evict_or_lose_requests() -> None:
    lines = (line.split(maxsplit=1) for line in (ROOT / "deploy/redis.conf").read_text().splitlines())
    directives = {line[0]: line[1] for line in lines if line and line[0] != "#"}
    assert directives["appendonly"] == "yes"
    assert directives["appendfsync"] == "everysec"
    assert directives["maxmemory-policy"] == "noeviction"
    assert directives["bind"] == "127.0.0.1"


def test_files_that_the_image_copies_exist_and_are_not_ignored() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
    sources = {source for line in copies for source in line.split()[:-1]}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == sources


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"run", "demo", "test", "lint", "type", "bench", "lock", "clean", "help"} <= targets
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / ".ci/run"]
    mentioned = {
        target
        for text in texts
        for quoted in re.findall(r"(?:^|`)make ([a-z]+(?: [a-z]+)*)(?=`|$| +#| [A-Z]+=)", text.read_text(), re.M)
        for target in quoted.split()
    }
    assert mentioned <= targets


def test_the_console_script_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["windrow"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_file_is_platform_independent(lock: str) -> None:
    text = (ROOT / lock).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[^\s+]+ +# via .+", line)] == []
    assert not re.search(r"nvidia|triton|://|--|\s/", text)
    assert pins(lock)["torch"] == Version("2.13.0")


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_file_satisfies_every_requirement_of_the_project(lock: str) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    extra = extras["schema"] + (extras["dev"] if "dev" in lock else [])
    locked = pins(lock)
    for requirement in map(Requirement, PROJECT["project"]["dependencies"] + extra):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_tests_run_on_the_locked_versions() -> None:
    runtime, dev = map(pins, LOCKS)
    assert runtime.items() <= dev.items()


def test_every_direct_dependency_is_documented_with_its_licence() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    project = PROJECT["project"]
    direct = map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values()))
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \|$", page, re.M)
    named = {requirement.name for requirement in direct} - {"windrow-inference"}
    assert sorted(name for name, _, _ in rows) == sorted(named)


def test_the_package_has_the_version_of_the_project() -> None:
    assert __version__ == PROJECT["project"]["version"]
