"""The sources of settings below the flags."""

from pathlib import Path

import pytest

from configs.compare import CompareSettings
from configs.errors import SettingsError
from configs.fields import flat_fields, with_overrides
from configs.load import preset_names, read_env, read_layers, read_preset, read_toml
from configs.serve import ServeSettings
from configs.sizes import format_bytes, parse_bytes


def test_every_setting_has_one_flat_name() -> None:
    fields = flat_fields(ServeSettings)
    assert fields["max_num_seqs"] == ("engine", "scheduler", "max_num_seqs")
    leaves = [path[-1] for path in fields.values()]
    assert sorted(fields) == sorted(leaves)


def test_env_gives_settings_by_their_upper_case_names() -> None:
    layer = read_env({"HEADCOUNT_PORT": "81", "HEADCOUNT_MODEL": "demo, b=/x", "PATH": "/bin", "HEADCOUNT_CONFIG": "c"})
    assert layer.values == {"port": "81", "model": ["demo", "b=/x"]}
    origins = read_env({"HEADCOUNT_CORS_ORIGINS": "https://a.example,https://b.example"}).values["cors_origins"]
    assert origins == ["https://a.example", "https://b.example"]


def test_a_misspelt_variable_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"HEADCOUNT_PROT \(did you mean HEADCOUNT_PORT\?\)"):
        read_env({"HEADCOUNT_PROT": "81"})


def test_a_misspelt_toml_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("prot = 81\nblock_sise = 3\n")
    with pytest.raises(SettingsError) as caught:
        read_toml(file)
    assert [line.split("(")[1] for line in caught.value.problems] == [
        "did you mean port?)",
        "did you mean block_size?)",
    ]


@pytest.mark.parametrize("text", ["port = ", "\xff"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match="is not valid TOML"):
        read_toml(file)


def test_models_are_tables(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("models = ['demo']")
    with pytest.raises(SettingsError, match="must be tables"):
        read_toml(file)
    file.write_text("[models.demo]\npath = 'x'")
    assert read_toml(file).models == {"demo": {"path": "x"}}


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*absent\.toml: No such file"):
        read_toml(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    values = read_preset(name).values
    settings = with_overrides(ServeSettings(), values, name)
    assert settings != ServeSettings()


def test_a_preset_belongs_to_one_command() -> None:
    assert preset_names(CompareSettings) == ["compare"]
    assert with_overrides(CompareSettings(), read_preset("compare", CompareSettings).values, "compare")
    with pytest.raises(SettingsError, match="unknown preset compare"):
        read_preset("compare")


def test_an_unknown_preset_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"unknown preset h20 \(did you mean h200\?\); there are: cpu, demo, h200"):
        read_preset("h20")


def test_the_stronger_layer_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("port = 1\n")
    sources = [layer.source for layer in read_layers(file, "cpu", {})]
    assert sources == ["the environment", str(file), "preset cpu"]


def test_every_problem_of_an_override_is_one_line() -> None:
    with pytest.raises(SettingsError) as caught:
        with_overrides(ServeSettings(), {"port": 70000, "dtype": "int8", "block_size": "x y"}, "a.toml")
    assert list(caught.value.problems) == [
        "dtype in a.toml must be one of 'auto', 'bfloat16', 'float16', 'float32' or 'float64', got int8",
        "block_size in a.toml must be a whole number, got 'x y'",
        "port in a.toml must be at most 65535, got 70000",
    ]


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("512MiB", 2**29), ("8GB", 8 * 10**9), ("1.5 g", 1_500_000_000), ("17", 17), (17, 17), ("2ki", 2048), ("3B", 3)],
)
def test_memory_is_read_as_people_write_it(text: object, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "8 X", "GB", "-1", "1e9", True, None])
def test_what_is_no_memory_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (23040, "22.5 KiB"), (2**30, "1.0 GiB"), (2**52, "4,096.0 TiB")],
)
def test_memory_is_written_for_the_eye(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
