"""Search for bytes at which the NATS protocol's parser breaks a promise; ``nox -s fuzz``.

The search is guided by coverage: inputs that reach something new are kept and changed further. It begins with the tables of
bytes that the tests have. What it finds it prints, and ends with a status that is not 0: mend the parser, and add the bytes
to a table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

# At the end, so that what is searched is the installed library wherever there is one.
sys.path.append(str(Path(__file__).resolve().parents[3]))

with atheris.instrument_imports(include=["aegis_backends.nats"]):
    from tests.backends.nats.promises import check, seeds


def main() -> None:
    """Search for as many seconds as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=60, help="how long to search (60)")
    arguments.add_argument("--corpus", type=Path, help="folder of inputs that reached something, kept from run to run")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        flags = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=10", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *flags, "-print_final_stats=1", "-reload=0", str(corpus)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
