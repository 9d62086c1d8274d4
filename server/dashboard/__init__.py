"""The dashboard: pages in the browser that read the public HTTP API, and nothing else of this server."""
