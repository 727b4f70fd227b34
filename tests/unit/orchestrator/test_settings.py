"""Settings come from flags, environment, file and defaults in that order; what is wrong is named; secrets stay hidden."""

from __future__ import annotations

import json
import traceback

import pytest

from opendt.model.errors import InputError
from opendt.orchestrator.settings import (
    HIDDEN,
    Settings,
    explain,
    kafka_bootstrap_servers,
    known_keys,
    load_settings,
    openai_api_key,
    without_password,
)

SECRET = "rosebud"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def file(text, name="opendt.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


def message_of(file=None, flags=None, environ=None):
    with pytest.raises(InputError) as caught:
        load_settings(file, flags, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_win_over_environment_over_file_over_defaults(write):
    file = write('window_s = 60\nseed = 1\nfutures = 1\n[kafka]\ngroup = "file"\nbootstrap_servers = "file:1"')
    environ = {"OPENDT_SEED": "2", "OPENDT_FUTURES": "2", "OPENDT_KAFKA__GROUP": "environment"}
    settings = load_settings(file, {"futures": 3, "kafka.group": None}, environ)
    assert (settings.window_s, settings.seed, settings.futures) == (60, 2, 3)
    assert (settings.kafka.group, settings.kafka.bootstrap_servers) == ("environment", "file:1")
    assert settings.lateness_s == Settings().lateness_s


def test_every_value_says_where_it_came_from(write):
    file = write("window_s = 60\nseed = 1\n[datacenter.SURF]\n")
    environ = {"OPENDT_SEED": "2", "OPENDT_KAFKA": '{"group": "g"}', "OPENDT_DATACENTER__SURF__SLO": "slo.json"}
    rows = {row.key: row for row in explain(file, {"log_level": "debug"}, environ)}
    assert rows["window_s"].source == str(file)
    assert rows["seed"] == ("seed", "2", "environment OPENDT_SEED")
    assert rows["kafka.group"].source == "environment OPENDT_KAFKA"
    assert rows["datacenter.SURF.slo"].source == "environment OPENDT_DATACENTER__SURF__SLO"
    assert rows["datacenter.SURF.name"].source == "environment OPENDT_DATACENTER__SURF"
    assert rows["log_level"].source == "flag"
    assert rows["futures"].source == "default"
    assert {key.replace("SURF", "NAME") for key in rows} == set(known_keys())


def test_what_a_default_amounts_to_is_shown(write):
    file = write('state_dir = "state"')
    rows = {row.key: row for row in explain(file, {}, {})}
    assert rows["ledger_url"] == ("ledger_url", f"sqlite:///{file.parent}/state/ledger.sqlite", "default")
    assert rows["log.directory"].value == str(file.parent / "state" / "log")
    assert rows["health_file"].value == str(file.parent / "state" / "health.json")


def test_paths_are_relative_to_the_file_and_elsewhere_to_the_process(tmp_path, write):
    (tmp_path / "etc").mkdir()
    file = write(
        'health_file = "/run/health.json"\nledger_url = "sqlite:///l.sqlite"\n'
        '[log]\ndirectory = "log"\n[datacenter.a]\ntopology = "a/topology.json"\nslo = "../slo.json"',
        "etc/opendt.toml",
    )
    settings = load_settings(file, {"datacenter.a.slo": "slo.json"}, {})
    section = settings.datacenter["a"]
    assert section.topology == tmp_path / "etc" / "a" / "topology.json"
    assert str(section.slo) == "slo.json"
    assert str(settings.health_path) == "/run/health.json"
    assert settings.log_directory == tmp_path / "etc" / "log"
    assert settings.state_dir == tmp_path / "etc" / "opendt-state"
    assert settings.ledger_address == f"sqlite:///{tmp_path}/etc/l.sqlite"


def test_datacenters_are_sections_or_a_list_in_toml_or_json(write):
    sections = load_settings(write('[datacenter.a]\ntopology = "/t"\n[datacenter.b]\n'), {}, {})
    tables = load_settings(write('[[datacenter]]\nname = "a"\ntopology = "/t"\n[[datacenter]]\nname = "b"\n'), {}, {})
    content = {"datacenter": [{"name": "a", "topology": "/t"}, {"name": "b"}]}
    json_file = load_settings(write(json.dumps(content), "opendt.json"), {}, {})
    assert sections.datacenters == tables.datacenters == json_file.datacenters
    assert [section.name for section in sections.datacenters] == ["a", "b"]


def test_a_file_is_found_by_variable_then_in_the_working_directory(write):
    assert load_settings(environ={}).seed == 0
    write("seed = 1")
    assert load_settings(environ={}).seed == 1
    other = write("seed = 2", "other.toml")
    assert load_settings(environ={"OPENDT_CONFIG": str(other)}).seed == 2


def test_made_in_code_nothing_is_read_from_outside(monkeypatch):
    monkeypatch.setenv("OPENDT_SEED", "9")
    assert Settings().seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("windows_s = 3", "windows_s: found an unknown setting, expected a known one. The nearest is window_s."),
        ("bootstrap_servers = 'x'", "The nearest is kafka.bootstrap_servers."),
        (
            "[kafka]\ngroups = 'x'",
            "kafka.groups: found an unknown setting, expected a known one. The nearest is kafka.group.",
        ),
        ("[datacenter.a]\ntopologie = 'x'", "The nearest is datacenter.a.topology."),
        ("foo.bar = 1", "foo: found an unknown setting"),
        ("window_s = 7", "window_s: found 7, expected a divisor of 3600"),
        ("window_s = true", "window_s: found True, expected a number"),
        ("window_s = 1.5", "window_s: found 1.5, expected a whole number"),
        ("lateness_s = nan", "lateness_s: found nan, expected "),
        ("lateness_s = -1", "lateness_s: found -1, expected greater than or equal to 0"),
        ("mode = 'atuo'", "mode: found 'atuo', expected 'observe', 'advise', 'approve' or 'auto'"),
        ("kafka = 3", "kafka: found 3, expected a section"),
        ("datacenter = 3", "datacenter: found 3, expected a section"),
        ("datacenter.a = 3", "datacenter.a: found 3, expected a section"),
        ("state_dir = 3", "state_dir: found 3, expected a path"),
        ("[datacenter.'a/b']", "datacenter.a/b.name: found 'a/b', expected letters, digits"),
        ("[datacenter.a]\nname = 'b'", "expected datacenter.a.name to be 'a', not 'b'"),
        ("[datacenter.a]\n[datacenter.A]", "differ in more than upper and lower case"),
        ("[[datacenter]]\ntopology = 'x'", "datacenter[0].name: found no name, expected a name"),
        (
            "[[datacenter]]\nname = 'a'\n[[datacenter]]\nname = 'a'",
            "datacenter[1].name: found 'a', expected a name that no",
        ),
        ("[kafka.settings]\n'group.id' = 'x'", "expected keys other than 'group.id' (set kafka.group)"),
        ("seed", "found broken TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, text, message):
    file = write(text)
    said = message_of(file)
    assert said.startswith(f"{file}: ")
    assert message in said


def test_names_of_datacenters_may_have_dots(write):
    settings = load_settings(write("[datacenter.'eu.1']\n"), {"datacenter": {"eu.1": {"topology": "/t"}}}, {})
    assert [(s.name, str(s.topology)) for s in settings.datacenters] == [("eu.1", "/t")]
    said = message_of(write("[datacenter.'eu.1']\ntopologie = 'x'"))
    assert said.endswith("The nearest is datacenter.eu.1.topology.")


def test_a_missing_file_is_named(tmp_path):
    assert str(tmp_path / "none.toml") in message_of(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"OPENDT_WINDOWS_S": "3"},
            "OPENDT_WINDOWS_S: found an unknown setting, expected a known one. The nearest is OPENDT_WINDOW_S.",
        ),
        ({"OPENDT_KAFKA__GROUPS": "3"}, "OPENDT_KAFKA__GROUPS: found an unknown setting"),
        ({"OPENDT_WINDOW_S": "x"}, "OPENDT_WINDOW_S: found 'x', expected a whole number"),
        ({"OPENDT_KAFKA": "x"}, "OPENDT_KAFKA: found text that is not JSON"),
        ({"OPENDT_DATACENTER__A__TOPOLOGIE": "x"}, "The nearest is OPENDT_DATACENTER__A__TOPOLOGY."),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(tmp_path, monkeypatch, environ, message):
    monkeypatch.chdir(tmp_path)
    assert message in message_of(environ=environ)


def test_what_is_wrong_on_the_command_line_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "It was given on the command line." in message_of(flags={"window_s": "x"})


def test_variables_that_are_no_settings_are_left_alone(tmp_path, monkeypatch):
    """Kubernetes describes a Service named opendt to every container beside it."""
    monkeypatch.chdir(tmp_path)
    link = {
        "OPENDT_SERVICE_HOST": "10.0.0.1",
        "OPENDT_PORT": "tcp://10.0.0.1:80",
        "OPENDT_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings(environ=link | {"OPENDT_DATA": "x", "OPENDT_SEED": "4", "SEED": "5"}).seed == 4


def test_a_variable_means_the_datacenter_of_the_file_whatever_its_case(write):
    file = write("[datacenter.SURF]\n")
    settings = load_settings(file, {}, {"OPENDT_DATACENTER__SURF__TOPOLOGY": "/t.json"})
    assert [(s.name, str(s.topology)) for s in settings.datacenters] == [("SURF", "/t.json")]


def test_no_secret_is_shown(write):
    file = write(
        f"ledger_url = 'postgresql+psycopg://twin:{SECRET}@db/opendt'\n[kafka]\npassword = '{SECRET}'\n"
        f"[kafka.settings]\n'ssl.keystore.password' = '{SECRET}'\n'security.protocol' = 'SSL'\n"
        f"[openai]\napi_key = '{SECRET}'"
    )
    settings, rows = load_settings(file, {}, {}), explain(file, {}, {})
    values = {row.key: row.value for row in rows}
    assert SECRET not in str(rows)
    assert {values[k] for k in ("kafka.password", "openai.api_key", "kafka.settings.ssl.keystore.password")} == {HIDDEN}
    assert values["ledger_url"] == "postgresql+psycopg://twin:***@db/opendt"
    assert values["kafka.settings.security.protocol"] == "SSL"
    assert SECRET not in repr(settings.openai) + repr(settings.ledger_url) + repr(settings.kafka.password)


@pytest.mark.parametrize(
    "text",
    [
        f"[openai]\napi_key = ['{SECRET}']",
        f"[kafka.settings]\n'group.id' = 'x'\n'sasl.password' = '{SECRET}'",
        f"[kafka.settings]\n'sasl.password' = ['{SECRET}']",
        f"[kafka]\npassword = {{x = '{SECRET}'}}",
        f"ledger_url = ['{SECRET}']",
    ],
)
def test_no_secret_is_in_a_complaint(write, text):
    file = write(text)
    assert SECRET not in message_of(file)
    with pytest.raises(InputError) as caught:
        load_settings(file, {}, {})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_secrets_reach_whoever_needs_them(write):
    file = write(
        f"[kafka]\nbootstrap_servers = 'b:1'\npassword = '{SECRET}'\nsettings = {{'sasl.mechanism' = 'PLAIN'}}"
    )
    settings = load_settings(file, {}, {"OPENDT_OPENAI__API_KEY": SECRET})
    assert kafka_bootstrap_servers(settings) == "b:1"
    assert openai_api_key(settings) == SECRET
    assert settings.kafka.client_settings() == {
        "sasl.mechanism": "PLAIN",
        "sasl.password": SECRET,
    }


def test_both_functions_read_the_default_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENDT_KAFKA__BOOTSTRAP_SERVERS", "broker:9093")
    monkeypatch.delenv("OPENDT_OPENAI__API_KEY", raising=False)
    assert kafka_bootstrap_servers() == "broker:9093"
    assert openai_api_key() is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:////a:b@c", "sqlite:////a:b@c"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
    ],
)
def test_passwords_in_addresses_are_hidden(url, shown):
    assert without_password(url) == shown


def test_an_empty_variable_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"OPENDT_HEALTH_FILE": "", "OPENDT_KAFKA__PASSWORD": "", "OPENDT_SEED": ""}
    assert load_settings(environ=environ) == Settings()
