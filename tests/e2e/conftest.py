"""Servers that several tests share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from checkpoints.demo import fetch_demo
from tests.e2e.server_process import ServerProcess
from tests.engine.tiny_models import build_model, save_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
API_KEY = "s3cret"
TEMPLATE = """{% for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] -%}
<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{% endfor %}{% if loops %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}
{%- if escapes %}{{ messages.__class__.__mro__ }}{% endif %}<assistant>"""
THINKER = "{{ messages[0].content }}{% if thinks %}<think>\n{% endif %}{# </think> #}"


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The imported demo model."""
    return fetch_demo()


@pytest.fixture(scope="session")
def demo_server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server as `make serve` starts it."""
    with ServerProcess(log=tmp_path_factory.mktemp("demo") / "log") as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def client(demo_server: ServerProcess) -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(base_url=f"{demo_server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="session")
def tiny_folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with the demo's tokenizer: starts and answers fast, and says nothing."""
    model = build_model("llama", vocab_size=49152, max_position_embeddings=4096, tie_word_embeddings=True)
    folder = save_model(model.float(), tmp_path_factory.mktemp("tiny"))
    for name in TOKENIZER_FILES:
        shutil.copy(demo_folder / name, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the tiny model, whose longest answers are short."""
    limits = ("--max-model-len", "128", "--kv-cache-memory-bytes", "20000000")
    with ServerProcess(
        "--model", f"tiny={tiny_folder}", *limits, log=tmp_path_factory.mktemp("served") / "log"
    ) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def keyed_server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The tiny model behind a key."""
    args = ("--model", f"tiny={tiny_folder}", "--kv-cache-memory-bytes", "50000000", "--api-key", API_KEY)
    with ServerProcess(*args, log=tmp_path_factory.mktemp("keyed") / "log") as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def templated_server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The tiny model with chat templates: `tiny` that shows tools, `thinker` that thinks before it answers."""
    args = ["--kv-cache-memory-bytes", "50000000", "--chat-template-timeout-s", "0.5"]
    for name, template in (("tiny", TEMPLATE), ("thinker", THINKER)):
        folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("templated") / name)
        (folder / "chat_template.jinja").write_text(template)
        args += ["--model", f"{name}={folder}"]
    with ServerProcess(*args, log=tmp_path_factory.mktemp("structured") / "log") as server:
        yield server.wait_ready()
