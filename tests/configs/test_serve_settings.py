"""Several models in one server: their names and what each one's engine is told."""

import pytest
from pydantic import ValidationError

from configs.serve import ServeSettings, split_model


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("demo", "demo", "demo"),
        ("small=/data/smol", "small", "/data/smol"),
        ("/data/smol/", "smol", "/data/smol/"),
        ("./a=b", "a=b", "./a=b"),
        ("org/smol", "org/smol", "org/smol"),
        (".", ".", "."),
    ],
)
def test_a_model_is_named_by_what_stands_before_the_equals_sign_or_by_itself(text: str, name: str, source: str) -> None:
    assert split_model(text) == (name, source)


def test_without_a_model_the_demo_is_served() -> None:
    assert [entry.source for entry in ServeSettings().entries()] == ["demo"]


def test_a_table_overrides_engine_settings_for_its_model_alone() -> None:
    settings = ServeSettings(
        model=("demo",), models={"big": {"path": "/data/big", "max_num_seqs": "4", "enable_prefix_cache": "false"}}
    )
    demo, big = settings.entries()
    assert (big.name, big.source) == ("big", "/data/big")
    assert big.settings.scheduler.max_num_seqs == 4
    assert not big.settings.cache.enable_prefix_cache
    assert demo.settings == settings.engine


def test_a_table_named_by_model_is_served_once() -> None:
    settings = ServeSettings(model=("demo",), models={"demo": {"dtype": "float32"}})
    (entry,) = settings.entries()
    assert entry.settings.model_settings.dtype == "float32"
    assert entry.source == "demo"


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two models are served as smol"):
        ServeSettings(model=("/a/smol", "/b/smol"))


def test_a_misspelt_key_of_a_table_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_num_sqs in \[models.a\] \(did you mean max_num_seqs\?\)"):
        ServeSettings(models={"a": {"max_num_sqs": "3"}})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_a_host_that_others_reach_needs_a_key_or_a_word(host: str) -> None:
    with pytest.raises(ValidationError, match="can be reached from other machines"):
        ServeSettings.model_validate({"http": {"host": host}})
    ServeSettings.model_validate({"http": {"host": host, "api_key": "k"}})
    ServeSettings.model_validate({"http": {"host": host, "insecure": True}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert ServeSettings.model_validate({"http": {"host": host}}).http.host == host
