"""The ``windrow`` command."""


def main() -> None:
    """Run the command line; exit with 0, 1 (failed), 2 (usage, settings or a missing package) or 3 (no server)."""
    from windrow.cli.app import app

    app()
