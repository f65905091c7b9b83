"""Find languages by the names that people use: MMS has codes of ISO 639-3, most data of 639-1.

Source: the languages of FLEURS, as `facebook/mms-1b-all` names them; scripts are left out.
"""

import re
from collections.abc import Iterable

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

_CODES = dict(
    re.findall(
        r"(\w+):(\w+)",
        "af:afr am:amh ar:ara as:asm az:azj be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym "
        "da:dan de:deu el:ell en:eng es:spa et:est eu:eus fa:fas fi:fin fr:fra ga:gle gl:glg "
        "gu:guj ha:hau he:heb hi:hin hr:hrv hu:hun hy:hye id:ind ig:ibo is:isl it:ita ja:jpn "
        "jv:jav jw:jav ka:kat kk:kaz km:khm kn:kan ko:kor ky:kir lb:ltz lg:lug ln:lin lo:lao "
        "lt:lit lv:lav mi:mri mk:mkd ml:mal mn:mon mr:mar ms:zlm mt:mlt my:mya nb:nob ne:npi "
        "nl:nld no:nob ny:nya oc:oci om:orm or:ory pa:pan pl:pol ps:pus pt:por ro:ron ru:rus "
        "sd:snd sk:slk sl:slv sn:sna so:som sr:srp sv:swe sw:swh ta:tam te:tel tg:tgk th:tha "
        "tl:tgl tr:tur uk:ukr ur:urd uz:uzb vi:vie wo:wol xh:xho yo:yor zh:cmn zu:zul",
    )
)


def matching(name: str, known: Iterable[str]) -> list[str]:
    """Return those of the known languages that a name may mean.

    Args:
        name: A code of ISO 639-1 or 639-3, a tag like "pt-BR", or an English name.
        known: Codes of ISO 639-3, some with a script like "cmn-script_simplified".
    """
    spoken = name.strip().lower()
    first = re.split(r"\W|_", spoken)[0]
    code = TO_LANGUAGE_CODE.get(spoken, first)
    languages = [*known]
    if spoken in languages:
        return [spoken]
    return [each for each in languages if each.partition("-")[0] in (first, _CODES.get(code))]
