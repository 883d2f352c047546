"""The HTTP layer below the routes: route declarations, bodies, headers, errors and responses."""
