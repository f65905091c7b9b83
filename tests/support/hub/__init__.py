"""A Hub for tests: a server on loopback that answers, keeps and breaks off as the real one does."""

from tests.support.hub.api import SIGNATURE, Answer, Request, refuse
from tests.support.hub.repos import File, Repo, of_folder
from tests.support.hub.server import FAULTS, FAULTS_OF_A_PULL, Fault, Hub, reads_large, serving

__all__ = [
    "FAULTS",
    "FAULTS_OF_A_PULL",
    "SIGNATURE",
    "Answer",
    "Fault",
    "File",
    "Hub",
    "Repo",
    "Request",
    "of_folder",
    "reads_large",
    "refuse",
    "serving",
]
