"""Pushes and pulls with every request broken, every two of them, and from each one on."""

from pathlib import Path

import pytest

from tests.support import faulty
from tests.support.faulty import Pulling, Pushing, Record
from tests.support.hub import FAULTS, FAULTS_OF_A_PULL, Hub

standing = pytest.mark.parametrize("standing", [False, True], ids=["new", "replacing"])
way = pytest.mark.parametrize("way", faulty.WAYS)


@standing
@way
def test_a_hub_that_goes_away_in_every_way(
    loopback: Hub, tmp_path: Path, way: str, standing: bool, record_property: Record
) -> None:
    pushing = Pushing(loopback, tmp_path, way, standing=standing)
    count = faulty.cut_off_and_again(pushing, FAULTS)
    faulty.prove(record_property, "P9", count, "old or new, then one commit")


@pytest.mark.parametrize(("way", "standing"), [("main", False), ("request", True)])
def test_two_requests_broken_in_one_way(
    loopback: Hub, tmp_path: Path, way: str, standing: bool, record_property: Record
) -> None:
    pushing = Pushing(loopback, tmp_path, way, standing=standing)
    count = faulty.survive_two(pushing, zip(FAULTS, FAULTS, strict=True))
    faulty.prove(record_property, "P10", count, "every first push arrived, two requests broken")


def test_two_requests_broken_in_two_ways(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    pushing = Pushing(loopback, tmp_path, "main", standing=True)
    pairs = zip(FAULTS, (*FAULTS[1:], FAULTS[0]), strict=True)
    count = faulty.survive_two(pushing, pairs)
    faulty.prove(record_property, "P10", count, "every first push arrived, two requests broken")


def test_every_request_of_a_pull_broken_in_every_way(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    pulling = Pulling(loopback, tmp_path)
    count = faulty.pull_through_one(pulling, FAULTS_OF_A_PULL)
    faulty.prove(record_property, "P15", count, "every first pull arrived")


def test_a_pull_goes_on_wherever_it_broke_off(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    count = faulty.pull_again_after(Pulling(loopback, tmp_path), FAULTS_OF_A_PULL)
    faulty.prove(record_property, "P15", count, "nothing whole was fetched twice")
