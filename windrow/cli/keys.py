"""``windrow key new | hash``: the API keys of tenants."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from windrow.cli.output import errors_reported, print_json
from windrow.cli.requests import Json, read_stdin

key_app = typer.Typer(name="key", help="Make API keys, and hash them for windrow.toml.", no_args_is_help=True)


@key_app.command()
def new(
    tenant: Annotated[str, typer.Option(help="Whose key it is: a name of letters, digits, '.', '_' and '-'.")],
    as_json: Json = False,
) -> None:
    """Print a new key, this once, and the lines of windrow.toml that let it in."""
    from windrow.api.auth.keys import hash_key, make_key
    from windrow.scheduler.core.tenant_names import check_tenant_name

    with errors_reported(as_json):
        check_tenant_name(tenant)
        key = make_key()
        if as_json:
            return print_json({"tenant": tenant, "key": key, "hash": hash_key(key)})
        print(key)
        sys.stdout.flush()
        # Apart from the key, so that `KEY=$(windrow key new --tenant acme)` is the key.
        print(
            f"\nThis key is shown only now; only its hash is kept. Add to windrow.toml, and send gunicorn a HUP:\n\n"
            f'[tenants."{tenant}"]\nkeys = ["{hash_key(key)}"]\n\n'
            "A tenant may have several: add the new one, HUP, change the clients, remove the old one, HUP.",
            file=sys.stderr,
        )


@key_app.command("hash")
def hash_(as_json: Json = False) -> None:
    """Read a key from stdin and print its hash for windrow.toml."""
    from windrow.api.auth.keys import hash_key

    with errors_reported(as_json):
        hashed = hash_key(read_stdin().rstrip("\r\n"))
        print_json({"hash": hashed}) if as_json else print(hashed)
