"""Events become responses: one writer a route, whole or in chunks."""
