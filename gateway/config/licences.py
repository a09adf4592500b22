"""Sorts the licences of models into the classes that a route's ``require`` names.

Names are those of the SPDX list (https://spdx.org/licenses/) and, for licences that are not in it, the ones that model
cards carry. What a class allows is left to routing.
"""

from typing import get_args

from gateway.config.problems import unknown
from gateway.types import Licence

CLASSES: tuple[Licence, ...] = get_args(Licence)

_MEMBERS: dict[Licence, str] = {
    "permissive": """
        apache-2.0 mit mit-0 bsd-2-clause bsd-3-clause bsd-3-clause-clear isc 0bsd zlib bsl-1.0 unlicense afl-3.0 ncsa
        postgresql artistic-2.0 ms-pl ecl-2.0 wtfpl cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 pddl odc-by
        cdla-permissive-1.0 cdla-permissive-2.0
    """,
    "copyleft": """
        gpl-2.0 gpl-2.0-only gpl-2.0-or-later gpl-3.0 gpl-3.0-only gpl-3.0-or-later agpl-3.0 agpl-3.0-only
        agpl-3.0-or-later lgpl-2.1 lgpl-2.1-only lgpl-2.1-or-later lgpl-3.0 lgpl-3.0-only lgpl-3.0-or-later mpl-2.0
        epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 osl-3.0 ofl-1.1 gfdl cc-by-sa-3.0 cc-by-sa-4.0 odbl cdla-sharing-1.0
    """,
    "restricted": """
        llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma openrail openrail++ creativeml-openrail-m
        bigscience-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m falcon-llm-license falcon-180b-license qwen
        tongyi-qianwen deepseek deepseek-license
    """,
    "non-commercial": """
        cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nc-nd-3.0
        cc-by-nc-nd-4.0 mrl mnpl qwen-research apple-amlr fair-noncommercial-research-license
        deepfloyd-if-license
    """,
    "no-derivatives": "cc-by-nd-3.0 cc-by-nd-4.0",
}
_CLASS_OF: dict[str, Licence] = {name: kind for kind, names in _MEMBERS.items() for name in names.split()}


def licence_class(written: object) -> Licence | None:
    """Return the class of a licence named by class or by its own name, in any case; None stays None.

    Raises ValueError for a name that is not known, since a guess here would be legal advice.
    """
    if written is None:
        return None
    if not isinstance(written, str):
        raise ValueError("should be text: a licence's name or class")  # noqa: TRY004 - pydantic collects ValueError only
    name = written.strip().lower()
    for kind in CLASSES:
        if name == kind:
            return kind
    if name not in _CLASS_OF:
        raise ValueError(f"{unknown('licence', written, [*CLASSES, *_CLASS_OF])} (or write its class)")
    return _CLASS_OF[name]
