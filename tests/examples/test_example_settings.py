"""Settings of the examples: defaults, YAML, command line, and what is refused."""

import dataclasses
import importlib
from pathlib import Path
from typing import Literal

import pytest
import yaml

from tfprune.files import run_information

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several.

    Attributes:
        name: What it is called.
        starts: Where it begins.
    """

    name: str
    starts: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the tests set.

    Attributes:
        rate: Size of a step.
        seeds: One run for each.
        quick: Whether to take only a look.
        activation: What bends.
        images: File of images.
        parts: Smaller settings.
    """

    rate: float = 0.1
    seeds: tuple[int, ...] = (0, 1)
    quick: bool = False
    activation: Literal["relu", "tanh"] = "relu"
    images: Path | None = None
    parts: tuple[Part, ...] = (Part("one"),)

    def __post_init__(self):
        if self.rate <= 0.0:
            raise ValueError(f"expected a rate above 0, received {self.rate}")


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("support.settings")


def write(path, text):
    path.write_text(text)
    return str(path)


def test_defaults(module):
    assert module.read_settings(Settings, []) == Settings()


def test_file_goes_over_defaults_and_the_command_line_over_both(module, tmp_path):
    path = write(tmp_path / "a.yaml", "rate: 0.5\nseeds: [3, 4, 5]\nquick: true\n")
    assert module.read_settings(Settings, ["--config", path]) == Settings(0.5, (3, 4, 5), True)
    arguments = ["--config", path, "--rate", "2", "--seeds", "[7]", "--quick", "false", "--images", "a/b.npz"]
    assert module.read_settings(Settings, arguments) == Settings(2.0, (7,), images=Path("a/b.npz"))


def test_list_of_smaller_settings(module, tmp_path, capsys):
    path = write(tmp_path / "a.yaml", "parts:\n- {name: two, starts: [1, 2]}\n- name: three\n")
    assert module.read_settings(Settings, ["--config", path]).parts == (Part("two", (1, 2)), Part("three"))
    with pytest.raises(SystemExit, match="2"):
        module.read_settings(Settings, ["--parts", "[{name: two, start: [1]}]"])
    assert "start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "1"], "--rates"),
        (["--rat", "1"], "--rat"),
        (["--rate", "fast"], '"rate"'),
        (["--rate", "__import__('os')"], '"rate"'),
        (["--rate", "-1"], "expected a rate above 0, received -1.0"),
        (["--seeds", "[1, x]"], '"seeds"'),
        (["--seeds", "1"], '"seeds"'),
        (["--quick"], "--quick: expected one argument"),
        (["--quick", "maybe"], '"quick"'),
        (["--activation", "sigmoid"], "relu"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_words_on_the_command_line(module, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        module.read_settings(Settings, arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("rates: 1\n", "rates"), ("rate: fast\n", '"rate"'), ("quick: 2\n", '"quick"'), ("rate: [\n", "config")],
)
def test_wrong_values_in_a_file(module, capsys, tmp_path, text, message):
    with pytest.raises(SystemExit, match="2"):
        module.read_settings(Settings, ["--config", write(tmp_path / "a.yaml", text)])
    assert message in capsys.readouterr().err


def test_help_tells_what_the_docstring_says(module, capsys):
    with pytest.raises(SystemExit, match="0"):
        module.read_settings(Settings, ["--help"], description="A study.")
    text = capsys.readouterr().out
    assert "A study." in text and "Size of a step." in text and "--quick {true,false}" in text


def test_settings_must_be_frozen(module):
    @dataclasses.dataclass
    class Loose:
        rate: float = 0.1

    for kind in (Loose, dict):
        with pytest.raises(TypeError, match="expected a frozen dataclass, received .*; use @dataclass"):
            module.read_settings(kind, [])


def test_what_is_saved_can_be_read_again(module, tmp_path):
    settings = Settings(0.5, (3,), True, "tanh", Path("a/b.npz"), (Part("two", (3, 4)),))
    module.save_settings(settings, tmp_path / "results")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["settings.yaml", "versions.yaml"]
    path = tmp_path / "results" / "settings.yaml"
    assert yaml.safe_load(path.read_text()) == {
        "rate": 0.5,
        "seeds": [3],
        "quick": True,
        "activation": "tanh",
        "images": "a/b.npz",
        "parts": [{"name": "two", "starts": [3, 4]}],
    }
    assert module.read_settings(Settings, ["--config", str(path)]) == settings
    assert yaml.safe_load((tmp_path / "results" / "versions.yaml").read_text()) == run_information()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written to"):
        module.save_settings(settings, tmp_path / "file")
