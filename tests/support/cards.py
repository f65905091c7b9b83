"""The text of a model card."""

from pathlib import Path

from exporter.hub import model_card
from exporter.hub.eligibility import check_publishable


def text_of(folder: Path, repo: str = "org/speech") -> str:
    return model_card.render(check_publishable(folder), repo)[model_card.CARD].decode()
