"""The REST interface: routes, bodies, problems, middleware, the server."""
