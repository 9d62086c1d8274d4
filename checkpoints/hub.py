"""Models from the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from checkpoints.errors import HubUnreachableError, ModelNotFoundError

ALLOWED_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.model", "vocab.txt", "merges.txt"]

# Folders hold the same weights in other formats, and consolidated files hold them once more under other names. What is
# wanted of a folder is additional_chat_templates/*.jinja.
IGNORED_FILES = ["*/*.safetensors", "*/*.json", "*/tokenizer*", "*/*.model", "*/*.txt", "consolidated*"]

OFFLINE_REMEDY = "Name a local folder, or `demo`, which comes from a package registry"


def download_from_hub(model_id: str) -> Path:
    """The folder of the hub's model `model_id`; what the hub's own cache holds is not fetched again.

    Raises:
        ModelNotFoundError: the hub knows no such model, or does not show it to us.
        HubUnreachableError: the hub does not answer, and the cache does not hold the model.
    """
    try:
        return Path(snapshot_download(model_id, allow_patterns=ALLOWED_FILES, ignore_patterns=IGNORED_FILES))
    except GatedRepoError as error:
        remedy = "Accept its terms on the hub and set HF_TOKEN"
        raise ModelNotFoundError(f"the hub's model {model_id!r} is gated", remedy=remedy) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        remedy = "Check the spelling; a private model needs HF_TOKEN"
        raise ModelNotFoundError(f"the hub has no model {model_id!r}", remedy=remedy) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        what = f"cannot fetch {model_id!r}: the model hub is out of reach ({reason})"
        raise HubUnreachableError(what, remedy=OFFLINE_REMEDY) from error
