"""``python -m windrow``: the same as the ``windrow`` command."""

from windrow.cli import main

if __name__ == "__main__":
    main()
