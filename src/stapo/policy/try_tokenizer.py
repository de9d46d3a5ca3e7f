"""Run as a script: try the tokenizer and the chat templates of a model folder, which may hang or take all memory.

Reads a request as JSON from stdin, writes one JSON object per line: what is tried next, and at the end what was found.
It knows nothing of this package and imports no torch, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from typing import Any

MESSAGE = "Look around the kitchen\nand take the 2 mugs."
_SLOW = 1.0
_TEMPLATE_SECONDS = 1
_MOST_RENDERED = 200_000


def tell(**fields: Any) -> None:
    """Write one line for `stapo.policy.trial`."""
    print(json.dumps(fields), flush=True)


def limit_to(what: int, value: int) -> None:
    """Lower one of the limits of this process."""
    _, hard = resource.getrlimit(what)
    if hard == resource.RLIM_INFINITY or value <= hard:
        resource.setrlimit(what, (value, hard))


def try_tokenizer(file: str, probes: list[str]) -> None:
    """Load the tokenizer and cut the probes with it; the first that it cannot cut, or not in time, is told."""
    from tokenizers import Tokenizer

    tell(doing="tokenizer.json cannot be loaded")
    tokenizer = Tokenizer.from_file(file)
    for probe in probes:
        tell(doing=f"tokenizer.json cannot cut a text such as {probe[:12]!r}, repeated")
        before = time.process_time()
        tokenizer.encode(probe, add_special_tokens=False)
        took = time.process_time() - before
        if took > _SLOW:
            raise ValueError(f"{len(probe):,} characters take {took:.1f} s")


def try_template(name: str, text: str, given: dict[str, Any]) -> None:
    """Render a chat template as transformers does; errors of its own are left to the caller, who will see them."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` of transformers: its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    tell(doing=f"its chat template ({name}) cannot be rendered")
    limit_to(resource.RLIMIT_CPU, math.ceil(time.process_time()) + _TEMPLATE_SECONDS)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals.update(raise_exception=refuse, strftime_now=time.strftime)
    length = 0
    try:
        template = environment.from_string(text)
        for piece in template.generate(
            messages=[{"role": "user", "content": MESSAGE}],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **given,
        ):
            length += len(piece)
            if length > _MOST_RENDERED:
                raise MemoryError(f"a short message becomes more than {_MOST_RENDERED:,} characters")
    except (MemoryError, RecursionError):
        raise
    except Exception:  # a template may refuse what it is given here
        return


def main() -> int:
    """Try everything; the exit status is 0 once an answer was written."""
    request = json.load(sys.stdin)
    limit_to(resource.RLIMIT_AS, request["bytes"])
    limit_to(resource.RLIMIT_CPU, request["seconds"])
    try:
        if request["tokenizer"]:
            try_tokenizer(request["tokenizer"], request["probes"])
        for name, text in request["templates"].items():
            try_template(name, text, request["given"])
    except BaseException as err:  # a panic of the Rust code is not an Exception
        tell(problem=" ".join(str(err).split())[:200] or type(err).__name__)
        return 0
    tell(problem=None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
