"""Settings: a file, the environment over it, and sentences for whoever mistyped one."""

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


def refusal(file: Path, **environ: str) -> str:
    with pytest.raises(InvalidSetting) as raised:
        load(file, **environ)
    return raised.value.detail


def refusal_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "other.toml"
    path.write_text(text, encoding="utf-8")
    return refusal(path)


def test_the_file_says_which_models_there_are(file: Path) -> None:
    settings = load(file)
    assert list(settings.models) == ["mini-lm", "toxic"]
    assert settings.models["mini-lm"].max_wait_ms == 2
    assert settings.lease_s == 5.0


def test_what_the_file_leaves_out_has_a_default(file: Path) -> None:
    settings = load(file)
    assert settings.models["toxic"].strategy == "packed"
    assert settings.models["toxic"].buckets == (32, 64, 128, 256, 512)
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_a_file_without_models_serves_the_one_that_needs_no_network(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    settings = load(empty)
    assert settings.models["minilm"].source.startswith("package:")


def test_the_environment_is_over_the_file(file: Path) -> None:
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
def test_a_setting_of_one_model_can_come_from_the_environment(
    file: Path, variable: str, text: str, name: str, value: object
) -> None:
    assert getattr(load(file, **{variable: text}).models["toxic"], name) == value


def test_a_model_whose_name_no_variable_can_carry_is_found_by_what_is_left_of_it(file: Path) -> None:
    assert load(file, WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE="3").models["mini-lm"].max_batch_size == 3


def test_variables_that_other_tools_set_are_understood(file: Path) -> None:
    settings = load(file, CELERY_BROKER_URL="redis://elsewhere:1/2", PORT="9000")
    assert (settings.redis_url, settings.port) == ("redis://elsewhere:1/2", 9000)


def test_a_variable_that_other_tools_read_too_is_over_our_own_as_it_is_for_them(file: Path) -> None:
    assert load(file, PORT="9000", WINDROW_PORT="9001").port == 9000


def test_an_empty_variable_of_another_tool_is_as_good_as_none(file: Path) -> None:
    assert load(file, PORT="", CELERY_BROKER_URL="").port == 8000


def test_variables_that_are_not_ours_are_left_alone(file: Path) -> None:
    load(file, PATH="/bin", WINDROWS="x", WINDROW_URL="http://127.0.0.1:8000")


def test_settings_cannot_be_changed_afterwards(file: Path) -> None:
    settings = load(file)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "name", "takes"),
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
def test_a_malformed_value_is_refused_by_name_with_what_the_setting_takes(
    file: Path, variable: str, text: str, name: str, takes: str
) -> None:
    detail = refusal(file, **{variable: text})
    assert detail.startswith(name)
    assert takes in detail


@pytest.mark.parametrize("variable", ["WINDROW_PORTT", "WINDROW_MODELS__TOXIC__PORT"])
def test_an_unknown_variable_is_refused_and_not_dropped(file: Path, variable: str) -> None:
    detail = refusal(file, **{variable: "1"})
    assert "unknown setting" in detail
    assert "port" in detail


def test_a_variable_for_a_model_that_is_not_there_names_those_that_are(file: Path) -> None:
    detail = refusal(file, WINDROW_MODELS__TOXIN__MAX_DEPTH="1")
    assert detail.startswith("WINDROW_MODELS__TOXIN__MAX_DEPTH: there is no table 'toxin'")
    assert "mini-lm, toxic" in detail


def test_a_variable_that_goes_into_a_plain_value_is_refused(file: Path) -> None:
    assert "there is no table 'lease_s'" in refusal(file, WINDROW_LEASE_S__X="1")


def test_every_mistake_is_told_at_once(file: Path) -> None:
    detail = refusal(file, WINDROW_PORT="x", WINDROW_LEASE_S="0")
    assert "port: " in detail
    assert "lease_s: " in detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 'red'", "colour: unknown setting"),
        ("[models.m]\ntask = 'embed'\nsource = 's'\ncolour = 'red'", "models.m.colour: unknown setting"),
        ("[models.m]\ntask = 'embed'", "models.m.source: Field required"),
        ("models = 3", "models: "),
        ("[models]", "at least one [models.<name>] table"),
        ("port = [", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal_of(tmp_path, text)


@pytest.mark.parametrize("name", ["events", "secret", "idempotency", "a b", "a:b", "-a", "", "a" * 65, "ä"])
def test_a_model_name_that_redis_keys_or_urls_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    detail = refusal_of(tmp_path, f"[models.'{name}']\ntask = 'embed'\nsource = 's'")
    assert f"model name {name!r}" in detail
    assert "takes letters, digits" in detail


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "windrow.toml"
    path.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal(path)


def test_a_config_file_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    detail = refusal(tmp_path / "nowhere.toml")
    assert detail.startswith("WINDROW_CONFIG: no file at ")
    assert "nowhere.toml" in detail


def test_a_mistake_from_a_variable_names_the_variable(file: Path) -> None:
    detail = refusal(file, PORT="x", WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE="0")
    assert "(got 'x', from PORT)" in detail
    assert "models.mini-lm.max_batch_size: " in detail
    assert "(got '0', from WINDROW_MODELS__MINI_LM__MAX_BATCH_SIZE)" in detail


@pytest.mark.parametrize(
    "text", ["port = true", "worker_grace_s = true", "[models.m]\ntask='embed'\nsource='s'\nbuckets = [true, 2]"]
)
def test_true_is_no_number(tmp_path: Path, text: str) -> None:
    assert "takes neither true nor false" in refusal_of(tmp_path, text)


def test_what_takes_true_or_false_takes_it_from_the_file_and_from_a_variable(tmp_path: Path) -> None:
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
def test_a_tenant_name_that_is_taken_or_that_flows_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    detail = refusal_of(tmp_path, f"[tenants.'{name}']")
    assert f"tenant name {name!r}: takes letters, digits" in detail
    assert "none of celery, default" in detail


def test_a_key_of_two_tenants_is_refused_and_both_are_named(tmp_path: Path) -> None:
    detail = refusal_of(tmp_path, f"[tenants.acme]\nkeys = ['{HASH}']\n[tenants.other]\nkeys = ['{HASH}']")
    assert "tenants 'acme' and 'other'" in detail
    assert HASH not in detail


def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    assert "tenant 'acme' twice" in refusal_of(tmp_path, f"[tenants.acme]\nkeys = ['{HASH}', '{HASH}']")


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
def test_an_error_does_not_repeat_a_key_or_a_password(tmp_path: Path, text: str) -> None:
    assert "hush" not in refusal_of(tmp_path, text)


def test_settings_can_be_printed_without_a_password(file: Path) -> None:
    settings = load(file, CELERY_BROKER_URL="redis://:hush@localhost/0")
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)


@pytest.mark.parametrize(
    ("task", "setting", "said"),
    [
        ("generate", {"buckets": [32]}, "buckets: is a setting of tasks embed, classify, token-classify, rerank"),
        ("generate", {"max_input_tokens": 1}, "max_input_tokens 1: task generate takes at least 2"),
        ("embed", {"cache_tokens": 64}, "cache_tokens: is a setting of task generate only"),
        ("classify", {"page_tokens": 32}, "page_tokens: is a setting of task generate only"),
    ],
)
def test_a_setting_that_means_nothing_to_the_task_is_refused(task: str, setting: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelSettings.model_validate({"task": task, "source": "x", **setting})


def test_a_setting_for_one_task_from_the_environment_is_refused_for_another(tmp_path: Path) -> None:
    path = tmp_path / "llama.toml"
    path.write_text("[models.llama]\ntask = 'generate'\nsource = 'x'\n", encoding="utf-8")
    detail = refusal(path, WINDROW_MODELS__LLAMA__BUCKETS="32,64")
    assert "models.llama: buckets: is a setting of tasks embed" in detail


def test_tasks_that_generate_are_planned_by_steps_and_others_by_rows() -> None:
    table = {"task": "generate", "source": "x"}
    assert ModelSettings(**table).strategy == "continuous"
    for wrong in ({"strategy": "packed"}, {"dtype": "int8"}, {"task": "embed", "strategy": "continuous"}):
        with pytest.raises(ValueError, match="takes"):
            ModelSettings(**table | wrong)
