"""HTTP: a small server for ASGI applications, on Trio."""
