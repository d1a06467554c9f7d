"""Everything public is explained where its reader looks for it."""

from __future__ import annotations

from tests.house import documentation_rules, source
from tests.house.documentation_rules import undocumented_hooks, undocumented_names, untested_hooks
from tests.house.export_rules import PUBLIC_MODULES
from tests.house.source import CHECKOUT, Module, module

REFERENCE = CHECKOUT / "docs" / "reference"


def public_modules() -> dict[str, Module]:
    """The modules that users import from, by name."""
    found = {read.name: read for read in source.product() if read.name in PUBLIC_MODULES}
    assert set(found) == set(PUBLIC_MODULES)
    return found


def pages() -> list[str]:
    """The text of each page of the reference."""
    return [page.read_text(encoding="utf-8") for page in sorted(REFERENCE.rglob("*.md"))]


def hookspecs() -> Module:
    """The module that specifies the hooks, which has at least those of the first release."""
    specified = public_modules()["aegis_core.hookspecs"]
    assert len(documentation_rules.hooks(specified)) >= 8
    return specified


def test_every_hook_has_a_test() -> None:
    """A test function carries the hook's name."""
    assert untested_hooks(hookspecs(), source.tests()) == []


def test_every_hook_is_documented() -> None:
    """The hook reference has an entry for each hook, and its docstring says when it is called."""
    page = (REFERENCE / "hooks.md").read_text(encoding="utf-8")
    assert undocumented_hooks(hookspecs(), page) == []


def test_every_public_name_is_in_the_reference() -> None:
    """What can be imported can be looked up."""
    assert undocumented_names(public_modules(), pages()) == []


def test_every_module_of_the_reference_is_public() -> None:
    """What is shown to users is held to what is asked of public modules; hooks have entries of their own."""
    shown = set(documentation_rules.documented(pages()))
    assert shown <= set(PUBLIC_MODULES)
    assert set(PUBLIC_MODULES) - shown == {"aegis_core.hookspecs"}


def test_every_public_name_has_a_docstring() -> None:
    """Classes, their public methods, and functions say what they are for."""
    assert documentation_rules.names_without_docstring(public_modules().values()) == []


def test_hook_rules_bite() -> None:
    """A hook without test, heading or docstring is named; one with all three is not."""
    silent = module("aegis_core.hookspecs", "def aegis_new(): ...")
    told = module("aegis_core.hookspecs", "def aegis_new():\n    'Called once.'")
    assert untested_hooks(told, [module("tests.x", "def test_something_new(): ...")]) == ["aegis_new"]
    assert untested_hooks(told, [module("tests.x", "def test_hook_new_is_called(): ...")]) == []
    assert undocumented_hooks(told, "In passing, `aegis_new` exists.") == ["aegis_new"]
    assert undocumented_hooks(silent, "## `aegis_new`") == ["aegis_new"]
    assert undocumented_hooks(told, "## `aegis_new`") == []
    assert undocumented_hooks(told, "```{eval-rst}\n.. autofunction:: aegis_core.hookspecs.aegis_new\n```") == []


def test_reference_rule_bites() -> None:
    """A name is documented by its module's directive, by its own, or by a mention as code."""
    offering = {"aegis_core.events": module("aegis_core.events", "__all__ = ['Resync', 'RoleChanged']")}
    assert undocumented_names(offering, ["RoleChanged and `Resync`"]) == ["aegis_core.events.RoleChanged"]
    assert undocumented_names(offering, ["`RoleChanged` and", ".. autoclass:: aegis_core.Resync"]) == []
    assert undocumented_names(offering, [".. automodule:: aegis_core.events\n   :members:"]) == []
    assert len(undocumented_names(offering, [".. automodule:: aegis_core.errors\n   :members:"])) == 2
    assert len(undocumented_names(offering, [".. automodule:: aegis_core.events\n\n.. x::\n   :members:"])) == 2
    assert len(undocumented_names(offering, [".. automodule:: aegis_core.events\n   :members: RoleChanged"])) == 2
    text = "from aegis_core.events import Resync\nfrom aegis_core.errors import Held\n__all__ = ['Held', 'Resync']"
    taking = {"aegis_core": module("aegis_core", text)}
    assert undocumented_names(taking, [".. automodule:: aegis_core.events\n   :members:"]) == ["aegis_core.Held"]


def test_docstring_rule_bites() -> None:
    """A silent class, method or function is named; what is private or repeated is not."""
    text = """
__all__ = ["Loud", "Silent", "loud", "silent"]
class Loud:
    "Says what it is."
    def method(self): ...
    def _private(self): ...
    @overload
    def repeated(self): ...
class Silent: ...
def silent(): ...
def loud():
    "Says what it does."
    def inner(): ...
def unlisted(): ...
"""
    assert documentation_rules.names_without_docstring([module("aegis_core.x", text)]) == [
        "aegis_core.x.Loud.method",
        "aegis_core.x.Silent",
        "aegis_core.x.silent",
    ]
