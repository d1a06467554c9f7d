"""Names and store keys: what is legal, and that keys can be read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aegis_core import names
from aegis_core.names import InstanceKey, Key, StandbyKey, TargetKey, TransferKey

KEY_ALPHABET = re.compile(r"[A-Za-z0-9_=/.-]+")

service_names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5}){0,3}", fullmatch=True)
instance_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
resource_ids = st.text(min_size=1, max_size=60).filter(lambda text: names.resource_id_problem(text) is None)
targets = resource_ids | st.builds(names.role_target, service_names, instance_ids)
encodable = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(encodable)
def test_escaping_is_reversible(text: str) -> None:
    """Any text becomes one token of the keys' alphabet, and is read back."""
    token = names.escape(text)
    assert KEY_ALPHABET.fullmatch(token)
    assert "." not in token
    assert not token.startswith("/")
    assert not token.endswith("/")
    assert names.unescape(token) == text


@given(encodable, encodable)
def test_no_two_texts_share_a_token(first: str, second: str) -> None:
    """Neither texts as they come, nor a text and another's token."""
    assume(first != second)
    assert names.escape(first) != names.escape(second)


@given(st.text("ab=./-_0AF2Eé", max_size=12))
def test_a_token_that_is_none_is_refused(token: str) -> None:
    """Each text has exactly one token: whatever can be read back is the token of what was read."""
    try:
        text = names.unescape(token)
    except ValueError:
        return
    assert names.escape(text) == token


@pytest.mark.parametrize("token", ["", "=", "=2", "=zz", "=41", "a b", "=2f", "/a", "a/", "=FF", "é", "=2E=2"])
def test_tokens_that_escaping_never_makes(token: str) -> None:
    """Among them escapes of what needs none, and in lower case."""
    with pytest.raises(ValueError, match=r".*"):
        names.unescape(token)


def test_names_that_look_alike_have_keys_of_their_own() -> None:
    """Dots, underscores and colons never meet; plain names stay readable."""
    alike = ["a.b", "a_b", "a:b", "a/b", "a-b", "a=b", "ab", "A.b", "a..b"]
    keys = [names.target_key(name) for name in alike]
    assert len(set(keys)) == len(alike)
    assert names.target_key("orders/eu-west_1") == "resources.orders/eu-west_1"
    assert names.target_key("account:42") == "resources.account=3A42"
    assert names.target_key(names.role_target("svc", "default")) == "roles.svc.default"


@given(service_names, instance_ids, targets)
def test_every_key_is_read_back(service: str, instance: str, target: str) -> None:
    """Whatever it names, and it is within the alphabet and the length that every store takes."""
    written: dict[str, Key] = {
        names.instance_key(service, instance): InstanceKey(service, instance),
        names.target_key(target): TargetKey(target),
        names.standby_key(target, instance): StandbyKey(target, instance),
        names.transfer_key(instance): TransferKey(instance),
    }
    assert len(written) == 4
    for key, meant in written.items():
        assert KEY_ALPHABET.fullmatch(key)
        assert len(key) <= 3500
        assert names.parse_key(key) == meant


@given(targets, targets, instance_ids)
def test_no_two_targets_share_a_key(first: str, second: str, instance: str) -> None:
    """Neither their own nor that of a place in their lines."""
    assume(first != second)
    assert names.target_key(first) != names.target_key(second)
    assert names.standby_key(first, instance) != names.standby_key(second, instance)


@given(
    st.text("aZ0.-_=/ %4A", max_size=30)
    | st.text(max_size=30)
    | st.lists(st.sampled_from(["a", "Z0", "_", "-", "/", ":", ".", "=", "=3A", "=2E", "=2F"])).map(
        lambda parts: "resources." + "".join(parts)
    )
)
def test_any_text_may_stand_where_a_key_is_expected(text: str) -> None:
    """It is a key of ours and is written the same way again, or it is none."""
    key = names.parse_key(text)
    match key:
        case None:
            return
        case InstanceKey(service, instance):
            again = names.instance_key(service, instance)
        case TargetKey(target):
            again = names.target_key(target)
        case StandbyKey(target, instance):
            again = names.standby_key(target, instance)
        case TransferKey(transfer_id):
            again = names.transfer_key(transfer_id)
    assert again == text


@pytest.mark.parametrize(
    "key",
    [
        "other.keys",
        "resources",
        "resources.a.b",
        "resources.=41",
        "resources.=2A",
        "resources.=24",
        "service-instances.svc",
        "service-instances.sv=c.a",
        "service-instances.svc.-a",
        "roles.svc.-group",
        "roles.s c.group",
        "standbys.resources.=2A.a",
        "standbys.resources.a.-b",
        "standbys.roles.svc.-g.a",
        "standbys.roles.svc.g.-a",
        "standbys.other.a.b",
        "transfers.a=b",
        "transfers.a.b",
        "silent.svc.a",
    ],
)
def test_foreign_keys_are_left_alone(key: str) -> None:
    """A store may be shared with other writers."""
    assert names.parse_key(key) is None


def test_service_names_of_other_writers_are_read() -> None:
    """Capitals and underscores are not for new services, but they are there."""
    assert names.parse_key("service-instances.My_Service.a") == InstanceKey("My_Service", "a")
    assert names.service_name_problem("My_Service") is not None


@pytest.mark.parametrize("name", ["a", "account-service", "a1-b2-3c", "x" * 64])
def test_service_names(name: str) -> None:
    """Lower-case words joined by dashes."""
    assert names.service_name_problem(name) is None


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a--b", "-a", "a-", "a b", "a\n", "x" * 65, 7, None])
def test_no_service_names(name: object) -> None:
    """The problem says what would be right, or what came instead."""
    assert re.search("lower-case words|expected str, got", names.service_name_problem(name) or "")


@pytest.mark.parametrize("name", ["a", "A_b-9", "0", "x" * 128])
def test_instance_ids_and_groups(name: str) -> None:
    """Letters, digits, dashes and underscores."""
    assert names.instance_id_problem(name) is None
    assert names.group_problem(name) is None


@pytest.mark.parametrize("name", ["", "-a", "_a", "a.b", "a b", "a\n", "é", "x" * 129, b"a"])
def test_no_instance_ids_and_groups(name: object) -> None:
    """Each problem speaks of what was asked for."""
    assert re.search("not an instance id|expected str, got", names.instance_id_problem(name) or "")
    assert re.search("not a role group|expected str, got", names.group_problem(name) or "")


@pytest.mark.parametrize("name", ["balance", "_private", "a.b.c", "x" * 128])
def test_method_names(name: str) -> None:
    """Identifiers, with dots."""
    assert names.method_problem(name) is None


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", ".a", "x" * 129, 1])
def test_no_method_names(name: object) -> None:
    """The problem shows what came."""
    assert "is not a method name" in (names.method_problem(name) or "")


@pytest.mark.parametrize("name", ["a", "account:42", "a.b/c@d", "/", "küche", "数据", "x" * 255, "#!(),;=[]^_~'+-"])
def test_resource_ids(name: str) -> None:
    """Printable, without white space; colons, dots, slashes, at-signs and other scripts are legal."""
    assert names.resource_id_problem(name) is None


@pytest.mark.parametrize(
    "bad", [*'*><?"|\\{}$%&`', " ", "\t", "\n", "\u2028", "\u00a0", "\x00", "\x7f", "\ud800", "\u200b"]
)
def test_characters_that_no_resource_id_has(bad: str) -> None:
    """The problem names the character."""
    problem = names.resource_id_problem(f"a{bad}b")
    assert problem is not None
    assert repr(bad) in problem


@pytest.mark.parametrize(
    ("name", "problem"), [("", "must not be empty"), ("x" * 256, "at most 255"), (5, "expected str, got int")]
)
def test_no_resource_ids(name: object, problem: str) -> None:
    """Empty, too long, or no text."""
    assert problem in (names.resource_id_problem(name) or "")


def test_problems_do_not_repeat_endless_names() -> None:
    """What is shown of a name is bounded."""
    assert len(names.service_name_problem("A" * 5000) or "") < 250


@given(service_names, instance_ids)
def test_role_targets_are_read_back_and_are_no_resource_ids(service: str, group: str) -> None:
    """The two kinds of targets never meet."""
    target = names.role_target(service, group)
    assert names.is_role(target)
    assert names.role_parts(target) == (service, group)
    assert names.describe_target(target) == f"{service}/{group}"
    assert names.resource_id_problem(target) is not None


def test_a_resource_is_described_by_its_id() -> None:
    """It is no role."""
    assert not names.is_role("account:42")
    assert names.describe_target("account:42") == "account:42"


def test_minted_ids_are_legal_and_differ() -> None:
    """Unless the hex digits are given."""
    minted = {names.mint_instance_id("account-service") for _ in range(50)}
    assert len(minted) == 50
    assert all(re.fullmatch(r"account-service-[0-9a-f]{8}", m) for m in minted)
    assert names.mint_instance_id("svc", "00ff00ff") == "svc-00ff00ff"


def test_one_lease_id_proves_another_lease_for_each_instance() -> None:
    """However its parts are cut; names have no dots, a lease id may."""
    parts = [("svc", "a", "x"), ("svc", "b", "x"), ("svd", "a", "x"), ("svc", "a", "y"), ("svc", "a", "b.x")]
    assert len({names.lease_tag(names.lease_proof(*part)) for part in parts}) == len(parts)


def test_a_lease_tag_shows_nothing_of_the_lease_id() -> None:
    """It is the same for the same lease, and short."""
    tag = names.lease_tag("secret")
    assert re.fullmatch("[0-9a-f]{16}", tag)
    assert tag == names.lease_tag("secret") != names.lease_tag("secret2")
