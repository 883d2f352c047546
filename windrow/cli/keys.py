"""``windrow key new | hash``: API keys of tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from windrow.cli.output import Json, errors_reported, log, print_json
from windrow.cli.requests import read_stdin

key_app = typer.Typer(name="key", help="Create API keys, and hash them for windrow.toml.", no_args_is_help=True)


@key_app.command()
def new(
    tenant: Annotated[str, typer.Option(help="Tenant that the key identifies: letters, digits, '.', '_' and '-'.")],
    as_json: Json = False,
) -> None:
    """Print a new API key, and the lines of windrow.toml that accept it."""
    from windrow.api.auth.keys import hash_key, make_key
    from windrow.scheduler.core.tenant_names import check_tenant_name

    with errors_reported(as_json):
        check_tenant_name(tenant)
        key = make_key()
        if as_json:
            return print_json({"tenant": tenant, "key": key, "hash": hash_key(key)})
        # On stdout by itself, so that `KEY=$(windrow key new --tenant acme)` is the key.
        print(key, flush=True)
        log(
            "\nThis key is shown only once; the server stores its hash. Add these lines to windrow.toml, and send "
            f'gunicorn a HUP signal:\n\n[tenants."{tenant}"]\nkeys = ["{hash_key(key)}"]\n\n'
            "A tenant may have several keys. To replace one: add the new key, send HUP, change the clients, remove the "
            "old key, send HUP."
        )


@key_app.command("hash")
def hash_(as_json: Json = False) -> None:
    """Read an API key from stdin and print its hash for windrow.toml."""
    from windrow.api.auth.keys import hash_key

    with errors_reported(as_json):
        hashed = hash_key(read_stdin().rstrip("\r\n"))
        print_json({"hash": hashed}) if as_json else print(hashed)
