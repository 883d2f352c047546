"""Settings from a file and the environment, and the error messages for invalid ones."""

from pathlib import Path

import pytest

from windrow.errors import InvalidSetting
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings, load_settings

FILE = """
lease_s = 5.0
[models.mini-lm]
task = "embed"
source = "package:weights/model"
max_wait_ms = 2
[models.toxic]
task = "classify"
source = "org/toxic"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "windrow.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def load(file: Path, **environ: str) -> Settings:
    return load_settings({"WINDROW_CONFIG": str(file), **environ})


def load_error(file: Path, **environ: str) -> str:
    with pytest.raises(InvalidSetting) as raised:
        load(file, **environ)
    return raised.value.detail


def error_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "other.toml"
    path.write_text(text, encoding="utf-8")
    return load_error(path)


def test_the_file_defines_the_models(file: Path) -> None:
    settings = load(file)
    assert list(settings.models) == ["mini-lm", "toxic"]
    assert settings.models["mini-lm"].max_wait_ms == 2
    assert settings.lease_s == 5.0


def test_settings_missing_from_the_file_have_defaults(file: Path) -> None:
    settings = load(file)
    assert settings.models["toxic"].strategy == "packed"
    assert settings.models["toxic"].buckets == (32, 64, 128, 256, 512)
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_a_file_without_models_serves_the_packaged_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    settings = load(empty)
    assert settings.models["minilm"].source.startswith("package:")


def test_the_environment_overrides_the_file(file: Path) -> None:
    assert load(file, WINDROW_LEASE_S="7.5").lease_s == 7.5


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("WINDROW_MODELS__TOXIC__MAX_WAIT_MS", "20", "max_wait_ms", 20.0),
        ("WINDROW_MODELS__TOXIC__MAX_WAIT_MS", "auto", "max_wait_ms", "auto"),
        ("WINDROW_MODELS__TOXIC__STRATEGY", "bucket", "strategy", "bucket"),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "8, 16,32", "buckets", (8, 16, 32)),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "[8, 16]", "buckets", (8, 16)),
        ("windrow_models__toxic__max_depth".upper(), "1", "max_depth", 1),
    ],
)
def test_a_model_setting_can_be_set_in_the_environment(
    file: Path, variable: str, text: str, name: str, value: object
) -> None:
    assert getattr(load(file, **{variable: text}).models["toxic"], name) == value


def test_characters_of_a_model_name_that_a_variable_cannot_contain_become_underscores(file: Path) -> None:
    assert load(file, WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE="3").models["mini-lm"].max_batch_size == 3


def test_variables_of_other_tools_are_accepted(file: Path) -> None:
    settings = load(file, CELERY_BROKER_URL="redis://elsewhere:1/2", PORT="9000")
    assert (settings.redis_url, settings.port) == ("redis://elsewhere:1/2", 9000)


def test_a_variable_of_another_tool_overrides_the_windrow_variable(file: Path) -> None:
    assert load(file, PORT="9000", WINDROW_PORT="9001").port == 9000


def test_an_empty_variable_of_another_tool_is_ignored(file: Path) -> None:
    assert load(file, PORT="", CELERY_BROKER_URL="").port == 8000


def test_unrelated_variables_are_ignored(file: Path) -> None:
    load(file, PATH="/bin", WINDROWS="x", WINDROW_URL="http://127.0.0.1:8000")


def test_settings_are_immutable(file: Path) -> None:
    settings = load(file)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "name", "accepted"),
    [
        ("WINDROW_PORT", "http", "port", "valid integer"),
        ("WINDROW_PORT", "70000", "port", "less than or equal to 65535"),
        ("WINDROW_LEASE_S", "0", "lease_s", "greater than or equal to 2"),
        ("WINDROW_LEASE_S", "soon", "lease_s", "valid number"),
        ("WINDROW_LEASE_S", "inf", "lease_s", "finite number"),
        ("WINDROW_WORKER_GRACE_S", "nan", "worker_grace_s", "finite number"),
        ("WINDROW_MAX_ATTEMPTS", "0", "max_attempts", "greater than or equal to 1"),
        ("WINDROW_RESULT_TTL_S", "0", "result_ttl_s", "greater than or equal to 1"),
        ("WINDROW_MAX_BODY_BYTES", "1", "max_body_bytes", "greater than or equal to 1024"),
        ("WINDROW_MAX_BATCH_INPUTS", "1001", "max_batch_inputs", "less than or equal to 1000"),
        ("WINDROW_REDIS_URL", "amqp://rabbit", "redis_url", "rediss://"),
        ("CELERY_BROKER_URL", "amqp://rabbit", "redis_url", "rediss://"),
        ("WINDROW_MODELS", "minilm", "models", "dictionary"),
        ("WINDROW_MODELS__TOXIC__STRATEGY", "fast", "models.toxic.strategy", "task classify takes none, static"),
        ("WINDROW_MODELS__TOXIC__TASK", "paint", "models.toxic.task", "takes embed, classify"),
        ("WINDROW_MODELS__TOXIC__DTYPE", "int4", "models.toxic.dtype", "'auto', 'float32'"),
        ("WINDROW_MODELS__TOXIC__SOURCE", "", "models.toxic.source", "at least 1 character"),
        ("WINDROW_MODELS__TOXIC__MAX_BATCH_SIZE", "0", "models.toxic.max_batch_size", "greater than or equal to 1"),
        ("WINDROW_MODELS__TOXIC__MAX_BATCH_TOKENS", "1.5", "models.toxic.max_batch_tokens", "valid integer"),
        (
            "WINDROW_MODELS__TOXIC__MAX_WAIT_MS",
            "-1",
            "models.toxic.max_wait_ms",
            "milliseconds from 0 to 60000, or auto",
        ),
        (
            "WINDROW_MODELS__TOXIC__MAX_WAIT_MS",
            "nan",
            "models.toxic.max_wait_ms",
            "milliseconds from 0 to 60000, or auto",
        ),
        (
            "WINDROW_MODELS__TOXIC__MAX_WAIT_MS",
            "soon",
            "models.toxic.max_wait_ms",
            "milliseconds from 0 to 60000, or auto",
        ),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "64,32", "models.toxic.buckets", "increasing lengths in tokens"),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "32,32", "models.toxic.buckets", "increasing lengths in tokens"),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "0,32", "models.toxic.buckets", "increasing lengths in tokens"),
        ("WINDROW_MODELS__TOXIC__BUCKETS", "wide", "models.toxic.buckets", "valid integer"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_the_setting_and_the_accepted_values(
    file: Path, variable: str, text: str, name: str, accepted: str
) -> None:
    detail = load_error(file, **{variable: text})
    assert detail.startswith(name)
    assert accepted in detail


@pytest.mark.parametrize("variable", ["WINDROW_PORTT", "WINDROW_MODELS__TOXIC__PORT"])
def test_an_unknown_variable_is_refused(file: Path, variable: str) -> None:
    detail = load_error(file, **{variable: "1"})
    assert "unknown setting" in detail
    assert "port" in detail


def test_a_variable_for_an_unknown_model_is_refused_with_the_known_models(file: Path) -> None:
    detail = load_error(file, WINDROW_MODELS__TOXIN__MAX_DEPTH="1")
    assert detail.startswith("WINDROW_MODELS__TOXIN__MAX_DEPTH: there is no table 'toxin'")
    assert "mini-lm, toxic" in detail


def test_a_variable_for_a_field_of_a_plain_value_is_refused(file: Path) -> None:
    assert "there is no table 'lease_s'" in load_error(file, WINDROW_LEASE_S__X="1")


def test_all_mistakes_are_reported_at_once(file: Path) -> None:
    detail = load_error(file, WINDROW_PORT="x", WINDROW_LEASE_S="0")
    assert "port: " in detail
    assert "lease_s: " in detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 'red'", "colour: unknown setting"),
        ("[models.m]\ntask = 'embed'\nsource = 's'\ncolour = 'red'", "models.m.colour: unknown setting"),
        ("[models.m]\ntask = 'embed'", "models.m.source: Field required"),
        ("models = 3", "models: "),
        ("[models]", "at least one [models.<name>] table"),
        ("port = [", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_of(tmp_path, text)


@pytest.mark.parametrize("name", ["events", "secret", "idempotency", "a b", "a:b", "-a", "", "a" * 65, "ä"])
def test_a_model_name_that_is_invalid_in_redis_keys_or_urls_is_refused(tmp_path: Path, name: str) -> None:
    detail = error_of(tmp_path, f"[models.'{name}']\ntask = 'embed'\nsource = 's'")
    assert f"model name {name!r}" in detail
    assert "takes letters, digits" in detail


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "windrow.toml"
    path.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in load_error(path)


def test_a_missing_config_file_is_refused_by_name(tmp_path: Path) -> None:
    detail = load_error(tmp_path / "nowhere.toml")
    assert detail.startswith("WINDROW_CONFIG: no file at ")
    assert "nowhere.toml" in detail


def test_a_mistake_from_a_variable_names_the_variable(file: Path) -> None:
    detail = load_error(file, PORT="x", WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE="0")
    assert "(got 'x', from PORT)" in detail
    assert "models.mini-lm.max_batch_size: " in detail
    assert "(got '0', from WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE)" in detail


@pytest.mark.parametrize(
    "text", ["port = true", "worker_grace_s = true", "[models.m]\ntask='embed'\nsource='s'\nbuckets = [true, 2]"]
)
def test_a_boolean_is_refused_as_a_number(tmp_path: Path, text: str) -> None:
    assert "takes neither true nor false" in error_of(tmp_path, text)


def test_a_boolean_setting_is_read_from_the_file_and_from_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("allow_no_keys = true")
    assert load(path).allow_no_keys is True
    assert load(path, WINDROW_ALLOW_NO_KEYS="0").allow_no_keys is False


HASH = "sha256:" + "ab" * 32


def test_a_tenant_has_keys_a_weight_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f"[tenants.acme]\nkeys = ['{HASH}']\nweight = 2\nmax_in_flight = 7\n[tenants.other]")
    tenants = load(path, WINDROW_TENANTS__OTHER__KEYS=f"sha256:{'cd' * 32}, sha256:{'ef' * 32}").tenants
    assert (tenants["acme"].keys, tenants["acme"].weight, tenants["acme"].quota.max_in_flight) == ((HASH,), 2.0, 7)
    assert tenants["other"].keys == (f"sha256:{'cd' * 32}", f"sha256:{'ef' * 32}")


@pytest.mark.parametrize("name", ["default", "celery", "a:b", "a|b", "a b", "", "a" * 65, "ä"])
def test_a_tenant_name_that_is_reserved_or_invalid_in_flow_names_is_refused(tmp_path: Path, name: str) -> None:
    detail = error_of(tmp_path, f"[tenants.'{name}']")
    assert f"tenant name {name!r}: takes letters, digits" in detail
    assert "none of celery, default" in detail


def test_an_api_key_of_two_tenants_is_refused_and_both_are_named(tmp_path: Path) -> None:
    detail = error_of(tmp_path, f"[tenants.acme]\nkeys = ['{HASH}']\n[tenants.other]\nkeys = ['{HASH}']")
    assert "tenants 'acme' and 'other'" in detail
    assert HASH not in detail


def test_an_api_key_listed_twice_is_refused(tmp_path: Path) -> None:
    assert "tenant 'acme' twice" in error_of(tmp_path, f"[tenants.acme]\nkeys = ['{HASH}', '{HASH}']")


@pytest.mark.parametrize(
    "text",
    [
        "[tenants.acme]\nkeys = ['wr_hush']",
        "[tenants.acme]\nkeys = 'wr_hush'",
        "[tenants.acme]\nwebhook_secret = ['wr_hush']",
        "tenants = 'wr_hush'",
        "[tenants]\nacme = 'wr_hush'",
        "[models.x]\ntask = 'upstream'\nurl = 'http://user:wr_hush@host/v1'",
        "public_url = 'http://user:wr_hush@host'",
        "redis_url = 'http://user:wr_hush@localhost'",
        "redis_url = ['redis://user:wr_hush@localhost']",
        "redis_url = 'redis://:wr_hush/1@localhost:6379/0'",
        "redis_url = 'redis://:wr_hush@localhost:port/0'",
    ],
)
def test_an_error_message_does_not_contain_a_key_or_a_password(tmp_path: Path, text: str) -> None:
    assert "hush" not in error_of(tmp_path, text)


def test_printed_settings_do_not_contain_the_redis_password(file: Path) -> None:
    settings = load(file, CELERY_BROKER_URL="redis://:hush@localhost/0")
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)


@pytest.mark.parametrize(
    ("task", "setting", "message"),
    [
        ("generate", {"buckets": [32]}, "buckets: is a setting of tasks embed, classify, token-classify, rerank"),
        ("generate", {"max_input_tokens": 1}, "max_input_tokens 1: task generate takes at least 2"),
        ("embed", {"cache_tokens": 64}, "cache_tokens: is a setting of task generate only"),
        ("classify", {"page_tokens": 32}, "page_tokens: is a setting of task generate only"),
    ],
)
def test_a_setting_that_does_not_apply_to_the_task_is_refused(
    task: str, setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSettings.model_validate({"task": task, "source": "x", **setting})


def test_a_variable_for_a_setting_that_does_not_apply_to_the_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama.toml"
    path.write_text("[models.llama]\ntask = 'generate'\nsource = 'x'\n", encoding="utf-8")
    detail = load_error(path, WINDROW_MODELS__LLAMA__BUCKETS="32,64")
    assert "models.llama: buckets: is a setting of tasks embed" in detail


def test_generate_uses_the_continuous_strategy_and_other_tasks_refuse_it() -> None:
    table = {"task": "generate", "source": "x"}
    assert ModelSettings(**table).strategy == "continuous"
    for wrong in ({"strategy": "packed"}, {"dtype": "int8"}, {"task": "embed", "strategy": "continuous"}):
        with pytest.raises(ValueError, match="takes"):
            ModelSettings(**table | wrong)
