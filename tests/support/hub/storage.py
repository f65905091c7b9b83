"""Where the Hub's large files are: sent whole or in parts, read at signed addresses, by hash."""

import hashlib
import json
import re
from typing import Any

from tests.support.hub.api import NAME, SIGNATURE, Answer, Api, Request, content, document, refuse
from tests.support.hub.repos import File, git_sha1

BATCH = re.compile(rf"/{NAME}\.git/info/lfs/objects/batch")
PLACE = re.compile(r"/storage/(\w+)(?:/(\d+|verify|complete))?")


class Storage:
    """The large files of an `Api`; with `part_size` they are sent in parts of so many bytes."""

    def __init__(self, api: Api, part_size: int | None) -> None:
        self._api, self._part_size = api, part_size
        self._parts: dict[tuple[str, int], bytes] = {}

    def offers(self, asked: Request) -> Answer:
        """How each object that a client announces is to be sent, if it is not there already."""
        if asked.token != self._api.token:
            refuse(401, "Invalid credentials in Authorization header")
        whole = "multipart" if self._part_size else "basic"
        objects = [self._offer(one) for one in json.loads(asked.body)["objects"]]
        return document({"transfer": whole, "objects": objects})

    def _offer(self, asked: dict[str, Any]) -> dict[str, Any]:
        oid, size, part = asked["oid"], asked["size"], self._part_size
        told = {"oid": oid, "size": size}
        if oid in self._api.large:
            return told
        ours, place = f"{self._api.endpoint}/storage/{oid}", f"{self._api.storage}/storage/{oid}"
        upload: dict[str, Any] = {"href": f"{place}?Signature={SIGNATURE}"}
        if part:
            numbers = range(1, -(-size // part) + 1)
            signed = {str(n): f"{place}/{n}?Signature={SIGNATURE}" for n in numbers}
            upload = {"href": f"{ours}/complete", "header": {"chunk_size": str(part), **signed}}
        return {**told, "actions": {"upload": upload, "verify": {"href": f"{ours}/verify"}}}

    def answer(self, asked: Request, oid: str, what: str | None) -> Answer:
        """Take or give bytes; tokens are none of its business."""
        held = self._api.large
        if asked.method in ("GET", "HEAD"):
            return content(asked, File(held[oid], True), {})
        if what == "verify":
            return document({}) if oid in held else refuse(404, "there is no such object")
        if what and what.isdecimal():
            self._parts[oid, int(what)] = asked.body
            return Answer(200, b"", {"ETag": f'"{git_sha1(asked.body)}"'})
        data = asked.body
        if what == "complete":
            numbers = [part["partNumber"] for part in json.loads(asked.body)["parts"]]
            data = b"".join(self._parts[oid, number] for number in numbers)
        if hashlib.sha256(data).hexdigest() != oid:
            refuse(400, "these are other bytes")
        held[oid] = data
        return document({})
