"""The REST door: routes, bodies, problems, middleware, the server."""
