"""Celery's connection settings for each form of `redis_url`."""

from typing import Any

import pytest
from celery import Celery

from windrow.worker.celery.broker import celery_connection

SENTINELS = "redis+sentinel://ann:p%40ss@a:1,b:2/mymaster/3?sentinel_password=other"


def app_for(url: str) -> Celery:
    app = Celery("test")
    app.conf.update(celery_connection(url))
    return app


def params_of(pool: Any) -> dict[str, Any]:
    """Return the arguments of the pool's connections."""
    params: dict[str, Any] = pool.connection_kwargs
    return params


@pytest.mark.parametrize("url", ["redis://ann:p%40ss@host:6380/3", "rediss://ann:p%40ss@host:6380/3"])
def test_broker_and_backend_connect_to_the_server_of_the_url(url: str) -> None:
    app = app_for(url)
    broker = app.connection_for_read()
    backend = params_of(app.backend.client.connection_pool)
    assert (broker.hostname, broker.port, broker.userid, broker.password) == ("host", 6380, "ann", "p@ss")
    assert (backend["host"], backend["port"], backend["username"], backend["password"]) == ("host", 6380, "ann", "p@ss")
    assert int(broker.virtual_host) == backend["db"] == 3


def test_broker_and_backend_verify_the_certificate_that_the_url_names() -> None:
    app = app_for("rediss://host/0?ssl_ca_certs=/etc/ca.pem")
    backend = params_of(app.backend.client.connection_pool)
    for options in (app.connection_for_read().ssl, backend):
        assert options["ssl_ca_certs"] == "/etc/ca.pem"
        assert "none" not in str(options["ssl_cert_reqs"]).lower()


def test_a_url_without_tls_uses_no_tls() -> None:
    assert not app_for("redis://host/0").connection_for_read().ssl


def test_sentinel_urls_are_converted_to_celerys_form_with_the_master_name_as_an_option() -> None:
    settings = celery_connection(SENTINELS)
    assert settings["broker_url"] == settings["result_backend"] == "sentinel://a:1/3;sentinel://b:2/3"
    for options in (settings["broker_transport_options"], settings["result_backend_transport_options"]):
        assert options["master_name"] == "mymaster"
        assert options["sentinel_kwargs"]["password"] == "other"
    app = app_for(SENTINELS)
    broker = app.connection_for_read()
    for _ in range(3):
        assert (broker.transport_cls, broker.userid, broker.password) == ("sentinel", "ann", "p@ss")
        assert int(broker.virtual_host) == 3
        assert broker.alt == ["sentinel://a:1/3", "sentinel://b:2/3"]
        broker.maybe_switch_next()  # Celery calls this after a failed connection attempt
    backend = params_of(app.backend.client.connection_pool)
    assert (backend["username"], backend["password"], backend["db"]) == ("ann", "p@ss", 3)


@pytest.mark.parametrize("url", ["redis://:hush@host/0", SENTINELS.replace("p%40ss", "hush").replace("other", "hush")])
def test_celery_prints_its_addresses_without_a_password(url: str) -> None:
    app = app_for(url)
    assert "hush" not in app.connection_for_read().as_uri()
    assert "hush" not in app.backend.as_uri()
    assert "hush" not in app.bugreport()
    assert "hush" not in app.conf.humanize(with_defaults=False, censored=True)


@pytest.mark.parametrize("url", ["redis://host/0", SENTINELS])
def test_celery_does_not_read_celery_broker_url_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere/0")
    app = app_for(url)
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.hostname in ("host", "a")


def test_every_connection_detects_a_silent_peer() -> None:
    app = app_for("redis://host/0")
    for options in (app.conf.broker_transport_options, params_of(app.backend.client.connection_pool)):
        assert options["socket_keepalive"]
        assert options["health_check_interval"] <= 15
        assert options["socket_timeout"] <= 10
