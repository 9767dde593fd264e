"""Settings: every mistake is an error that names the key, the line and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zoo_bridge.config import load, secret
from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli import app

GOOD = """\
work_dir = "data"
[project]
slug = "owner/name"
workflow = 7
[[question]]
name = "smooth-or-featured"
task = "T0"
answers = { smooth = ["Smooth"], featured = ["Features or Disk"] }
target = "featured"
[survey]
catalogue = "s3://bucket/catalogue.csv"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "zoo_bridge.toml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_good_settings_have_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD))
    assert settings.cutouts.size == 128
    assert settings.work == tmp_path / "data"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/data/ledger.sqlite3"


def test_an_unknown_key_names_its_line_and_the_likely_one(tmp_path: Path) -> None:
    error = complaint(tmp_path, GOOD + "[upload]\nper_wek = 3\n")
    assert "zoo_bridge.toml:13: upload.per_wek is not a setting" in error.message
    assert "Did you mean per_week?" in error.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("workflow = 7", 'workflow = "seven"'), "project.workflow"),
        (("workflow = 7", "workflow = 0"), "project.workflow"),
        (('slug = "owner/name"', 'slug = "name"'), "project.slug"),
        (('target = "featured"', 'target = "bars"'), "not one of the answers: smooth, featured"),
        (('["Smooth"]', '["Features or Disk"]'), "stands for two answers"),
        (("catalogue", "prefix"), "prefix needs id_pattern"),
        (('work_dir = "data"', 'work_dir = "s3://b/p"'), "work_dir"),
    ],
)
def test_impossible_values_say_what_would_be_right(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    assert words in complaint(tmp_path, GOOD.replace(*change)).message


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    error = complaint(tmp_path, GOOD.partition("[survey]")[0])
    assert "survey is needed and missing" in error.message


def test_what_is_no_toml_says_where(tmp_path: Path) -> None:
    assert "line 1" in complaint(tmp_path, "work_dir = \n").message


def test_an_absent_file_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "nothing.toml")
    assert "zoo-bridge init" in caught.value.hint


def test_a_bad_cron_line_or_zone_is_refused(tmp_path: Path) -> None:
    assert "cron line" in complaint(tmp_path, GOOD + '[schedule]\ncycle = "10 * *"\n').message
    assert "time zone" in complaint(tmp_path, GOOD + '[schedule]\ntimezone = "Mars"\n').message


def test_versions_are_pairs_of_integers(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD + '[votes]\nfrom_version = "28.30"\n'))
    assert settings.votes.first_version == (28, 30)


def test_a_question_asked_after_an_unknown_one_is_refused(tmp_path: Path) -> None:
    more = (
        '[[question]]\nname = "bar"\ntask = "T4"\nanswers = { yes = [], no = [] }\n'
        'target = "yes"\nasked_after = { question = "edge-on", answers = ["no"] }\n[survey]'
    )
    error = complaint(tmp_path, GOOD.replace("[survey]", more))
    assert "edge-on" in error.message


def test_a_question_asked_after_itself_is_refused(tmp_path: Path) -> None:
    tree = "".join(
        f'[[question]]\nname = "{name}"\ntask = "T4"\nanswers = {{ yes = [], no = [] }}\n'
        f'target = "yes"\nasked_after = {{ question = "{other}", answers = ["no"] }}\n'
        for name, other in (("bar", "arms"), ("arms", "bar"))
    )
    error = complaint(tmp_path, GOOD.replace("[survey]", tree + "[survey]"))
    assert "bar is asked after itself, by way of bar" in error.message


def test_the_api_cannot_tell_anonymous_people_apart(tmp_path: Path) -> None:
    more = '[votes]\nanonymous_repeats = "first"\n[pull]\nmode = "incremental"\n'
    assert 'needs pull.mode = "export"' in complaint(tmp_path, GOOD + more).message


def test_secrets_come_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "direct")
    assert secret("SOME_SECRET") == "direct"
    monkeypatch.delenv("SOME_SECRET")
    assert secret("SOME_SECRET") is None
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("SOME_SECRET_FILE", str(tmp_path / "secret"))
    assert secret("SOME_SECRET") == "from a file"
    monkeypatch.setenv("SOME_SECRET_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="cannot be read"):
        secret("SOME_SECRET")


def test_a_setting_that_has_gone_is_taken_once_more_with_a_warning(tmp_path: Path) -> None:
    """An upgrade must not stop a loop that nobody looks at."""
    text = GOOD + "[upload]\nper_run = 3\nsubjects_per_call = 20\n"
    settings = load(write(tmp_path, text))
    assert settings.upload.per_run == 3
    (warning,) = settings.warnings
    assert "zoo_bridge.toml:14: upload.subjects_per_call has no effect any more" in warning
    assert "upload.connections" in warning
    assert load(write(tmp_path, GOOD)).warnings == ()


def test_a_setting_that_has_moved_is_taken_from_its_old_place(tmp_path: Path) -> None:
    text = GOOD + "[pull]\ntimeout_seconds = 7\n[score]\nfetch_threads = 3\n"
    settings = load(write(tmp_path, text))
    assert (settings.project.timeout_seconds, settings.survey.fetch_threads) == (7, 3)
    first, second = settings.warnings
    assert "zoo_bridge.toml:13: pull.timeout_seconds is project.timeout_seconds now" in first
    assert "zoo_bridge.toml:15: score.fetch_threads is survey.fetch_threads now" in second
    # What stands in the new place counts.
    text = text.replace("[survey]", "[survey]\nfetch_threads = 5", 1)
    settings = load(write(tmp_path, text))
    assert settings.survey.fetch_threads == 5
    assert "stands there, too, and counts" in settings.warnings[1]
    # In another table than its old one it is as unknown as ever.
    with pytest.raises(SettingsError, match=r"upload\.fetch_threads is not a setting"):
        load(write(tmp_path, GOOD + "[upload]\nfetch_threads = 3\n"))


def test_how_long_and_by_how_many_is_no_reason_to_do_it_again(tmp_path: Path) -> None:
    from zoo_bridge.steps.context import settings_digest

    sections = ("project", "survey", "question", "votes", "cutouts", "model", "seed")
    before = settings_digest(load(write(tmp_path, GOOD)), *sections)
    text = GOOD.replace("[survey]", "[survey]\nfetch_threads = 5", 1)
    text = text.replace("[project]", "[project]\ntimeout_seconds = 7", 1)
    assert settings_digest(load(write(tmp_path, text)), *sections) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[cutouts]\nstretch = "lupton"\nlow_percentile = 2.0\n', "cutouts.low_percentile"),
        ("[cutouts]\nlupton_q = 3.0\n", "cutouts.lupton_q"),
        ('[cutouts]\nstretch = "linear"\nasinh_a = 0.2\n', "cutouts.asinh_a"),
        ('[pull]\nmode = "incremental"\nwait_minutes = 5\n', "pull.wait_minutes"),
        ("[upload]\npower = 3.0\n", "upload.power"),
        (
            '[upload]\npublish = "automatic"\nwait_for_approval = false\n',
            "upload.wait_for_approval",
        ),
        ('[upload]\nweights = { "smooth-or-featured" = 2.0 }\n', "upload.weights"),
    ],
)
def test_a_setting_that_does_nothing_beside_another_says_so(
    tmp_path: Path, more: str, told: str
) -> None:
    (warning,) = load(write(tmp_path, GOOD + more)).warnings
    assert f"{told} has no effect: " in warning
    lines = (GOOD + more).splitlines()
    (line,) = [n for n, text in enumerate(lines, 1) if text.startswith(told.partition(".")[2])]
    assert f"zoo_bridge.toml:{line}: " in warning


def test_every_rule_of_no_effect_is_about_a_setting() -> None:
    from zoo_bridge.config import Settings
    from zoo_bridge.config.no_effect import RULES

    for key, _, why in RULES:
        section, _, name = key.partition(".")
        assert name in Settings.model_fields[section].annotation.model_fields, key  # type: ignore[union-attr]
        assert why


def test_commands_tell_of_such_settings_and_go_on(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "[upload]\nsubjects_per_call = 20\n")
    ended = CliRunner().invoke(app, ["runs", "--json", "--config", str(path)])
    assert ended.exit_code == 0
    assert json.loads(ended.stdout) == []
    assert "zoo-bridge: warning:" in ended.stderr
