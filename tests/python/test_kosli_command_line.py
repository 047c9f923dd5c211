"""Kosli's own command line against the emulator: what it makes the function rotates, and what the function makes it shows."""

from json import dumps, loads

import pytest
from commands import FUNCTION_ARN, World, scripts
from conftest import Emulator


@pytest.fixture
def world(emulator, tmp_path):
    running = World(emulator, "http://127.0.0.1:9", tmp_path)
    yield running
    running.stop()


def kosli(world, command, token=None, account="ci"):
    """What the command prints, as JSON where there is something to print."""
    of_account = f" --service-account {account}" if "api-key" in command else ""
    as_json = " --output json" if not command.startswith(("create service-account", "delete")) else ""
    variables = f"KOSLI_API_TOKEN={token} " if token else ""
    printed = world.run(f"{variables}kosli {command}{of_account} --org acme{as_json}")
    return loads(printed) if as_json else printed


def test_a_keys_whole_life(world):
    created = kosli(world, "create api-key --description 'made by hand'")
    got = kosli(world, f"get api-key {created['id']}")
    assert (got["id"], got["description"]) == (created["id"], "made by hand")
    assert not got.get("last_used_at") and "key" not in got
    assert kosli(world, "list environments", token=created["key"]) == []
    listed = {key["id"]: key for key in kosli(world, "list api-keys")}
    assert len(listed) == 2 and listed[created["id"]]["last_used_at"] > 0

    [rotated] = kosli(world, f"rotate api-key {created['id']} --grace-period-hours 2")
    assert rotated["id"] != created["id"] and rotated["description"] == "made by hand"
    assert world.emulator.accepts(created["key"]) and world.emulator.accepts(rotated["key"])
    world.emulator.advance("2h")
    assert not world.emulator.accepts(created["key"]) and world.emulator.accepts(rotated["key"])

    assert "was deleted" in kosli(world, f"delete api-key {rotated['id']} --assume-yes")
    assert not world.emulator.accepts(rotated["key"])
    with pytest.raises(AssertionError, match="Invalid or missing API key"):
        kosli(world, "list environments", token=rotated["key"])
    with pytest.raises(AssertionError, match="API key not found"):
        kosli(world, f"get api-key {rotated['id']}")


def test_a_service_accounts_whole_life(world):
    made = kosli(world, "create service-account bot --privilege snapshotter --description 'reports snapshots'")
    assert "service account bot was created" in made
    account = kosli(world, "get service-account bot")
    assert (account["name"], account["privilege"]) == ("bot", "snapshotter")
    assert account["description"] == "reports snapshots" and account["created_at"] > 1.7e9
    assert account in kosli(world, "list service-accounts")
    # As a table, which reads every field.
    for command in ["get service-account bot", "list service-accounts"]:
        assert "snapshotter" in world.run(f"kosli {command} --org acme")

    key = kosli(world, "create api-key --description 'its key'", account="bot")["key"]
    with pytest.raises(AssertionError, match="You don't have permission"):
        kosli(world, "create service-account boss --privilege admin", token=key)
    kosli(world, "create service-account helper --privilege reader", token=key)
    kosli(world, "create api-key --description 'made by its creator'", token=key, account="helper")
    with pytest.raises(AssertionError, match="You don't have permission"):
        kosli(world, "list api-keys", token=key)

    assert "was deleted" in kosli(world, "delete service-account bot --assume-yes")
    assert not world.emulator.accepts(key)
    with pytest.raises(AssertionError, match="Service account not found"):
        kosli(world, "get service-account bot")


def test_a_key_that_it_has_made_is_rotated_and_the_new_one_is_listed_by_it(world):
    # Self-rotation, for which Kosli asks for this role.
    kosli(world, "create service-account reporter --privilege admin")
    first = kosli(world, "create api-key --description 'the first key'", account="reporter")
    document = {"api_key": first["key"], "org": "acme", "service_account": "reporter", "key_id": first["id"]}
    world.aws.create_secret(Name="kosli/reporter", SecretString=dumps(document))
    world.aws.rotate_secret(SecretId="kosli/reporter", RotationLambdaARN=FUNCTION_ARN)
    world.wait_for_a_rotation("kosli/reporter")

    new = world.current("kosli/reporter")
    listed = {key["id"]: key for key in kosli(world, "list api-keys", account="reporter")}
    assert set(listed) == {first["id"], new["key_id"]}
    assert listed[new["key_id"]]["description"] == "the first key"
    assert kosli(world, "list environments", token=new["api_key"]) == []
    kosli(world, f"delete api-key {new['key_id']} --assume-yes", account="reporter")
    assert not world.emulator.accepts(new["api_key"])


@pytest.mark.parametrize("privilege", ["admin", "member"])
def test_the_documented_key_that_rotates(tmp_path, privilege):
    """docs/deploy.md makes the admin secret in two ways, of which the second needs no Admin's key afterwards."""
    block = next(text for _, text in scripts() if f"kosli create service-account key-rotation --privilege {privilege}" in text)
    emulator = Emulator(tmp_path / "emulator.log", variables=["KOSLI_ADMIN_SECRET_ID=kosli-admin"])
    world = World(emulator, "http://127.0.0.1:9", tmp_path)
    try:
        # The account of the secret is no Admin's here, and in the second way it is made by the key that rotates.
        world.aws.delete_secret(SecretId="kosli/ci", ForceDeleteWithoutRecovery=True)
        kosli(world, "delete service-account ci --assume-yes")
        world.run(block)
        if privilege == "admin":
            kosli(world, "create service-account ci --privilege member")
            first = kosli(world, "create api-key --description 'the first key'")
            document = {"api_key": first["key"], "org": "acme", "service_account": "ci", "key_id": first["id"]}
            world.aws.create_secret(Name="kosli/ci", SecretString=dumps(document))
        assert kosli(world, "get service-account key-rotation")["privilege"] == privilege

        old = world.current()
        world.aws.rotate_secret(SecretId="kosli/ci", RotationLambdaARN=FUNCTION_ARN)
        world.wait_for_a_rotation()
        assert world.current()["key_id"] != old["key_id"]
        # The least privilege: accounts that others have made are out of its reach.
        rotator = world.current("kosli-admin")["api_key"]
        if privilege == "member":
            with pytest.raises(AssertionError, match="You don't have permission"):
                kosli(world, "list api-keys", token=rotator, account="you")
    finally:
        world.stop()
        emulator.process.terminate()
        emulator.process.wait(60)
