"""The HTTP layer below the routes: bodies, headers, errors, addresses and gunicorn's worker class."""
