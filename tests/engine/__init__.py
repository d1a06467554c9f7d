"""The engine: by behaviour, against a naive model, and in every interleaving of small worlds."""
