"""The dashboard in a real browser, against a real router. ``nox -s dashboard`` runs these tests."""
