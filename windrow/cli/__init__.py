"""The ``windrow`` command."""


def main() -> None:
    """Run the command line; exits with 0, 1 (failed), 2 (usage or settings) or 3 (server unreachable)."""
    from windrow.cli.app import app

    app()
