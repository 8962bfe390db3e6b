"""The five commands of a contributor: ``nox -s quick``, ``full``, ``lint``, ``types``, ``docs``.

``nox`` alone runs style, types and the quick tests. All run in the environment that nox is called from (after
``pip install -e ".[dev]"``), because torch is too large to be installed once for each of them. Words behind ``--`` go
to pytest: ``nox -s quick -- tests/runtime -k undo``.
"""

from __future__ import annotations

import shutil

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "quick"]
#: what needs no more than this package: no ComfyUI, no browser, no accelerator, nothing that takes long
QUICK = "not slow and not comfy and not browser and not gpu"


@nox.session
def quick(session: nox.Session) -> None:
    """Tests of a few seconds each."""
    session.run("python", "-m", "pytest", "-q", "-n", "2", "-m", QUICK, *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """All but ``--full`` ones; those for ComfyUI and the browser say what they lack if it is not there."""
    session.run("python", "-m", "pytest", "-q", "-n", "2", "--durations=15", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, the editor's scripts too where npm is; changes nothing. `ruff check --fix . && ruff format .` does."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    if shutil.which("npx"):
        session.run("npx", "--yes", "eslint@9", "comfy_nodes/web", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Type checks."""
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Writes the generated pages anew: methods, command line, nodes, their translations and examples."""
    session.run("python", "-m", "tools.docs")
