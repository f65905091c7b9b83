"""Bringing a checkpoint's files from the Hub: only those that are needed, at a pinned commit."""

from pathlib import Path

from exporter.errors import HubError, exhausted

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "normalizer.json"),
)


def fetch(repo: str, revision: str | None) -> tuple[Path, str]:
    """Bring a Hub repository's needed files into the local cache, at a commit that is recorded."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    patterns = [WEIGHTS, INDEX, "model-*-of-*.safetensors", *CONFIGS, *TOKENIZER]
    try:
        commit = HfApi().model_info(repo, revision=revision).sha or "main"
        folder = snapshot_download(repo, revision=commit, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if exhausted(error):
            raise
        reason = str(error).splitlines()[0]
        msg = f"cannot fetch {repo} from the Hub: {reason}\nGive a local folder, or check the id."
        raise HubError(msg) from error
    return Path(folder), commit
