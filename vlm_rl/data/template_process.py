"""The rendering process: `python -m vlm_rl.data.template_process CPU_S MEMORY_MB MAX_CHARS`.

It reads a chat template and chats, and writes what each becomes, or why it cannot be rendered. The
environment is that of transformers, whose import alone would take longer than all of this.
"""

import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlm_rl.verification.limits import limit_this_process, within


class GenerationBlock(Extension):
    """Reads `{% generation %}`, which marks what the model says, as what is in it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main(cpu_s: float, memory_mb: int, max_chars: int) -> None:
    """Render what standard input asks for."""
    limit_this_process(memory_mb)
    asked = json.load(sys.stdin)
    with within(cpu_s):
        variables = asked["variables"] | {"add_generation_prompt": asked["opens"]}
        rendered = _render(asked["template"], variables, asked["chats"], max_chars)
        json.dump(rendered, sys.stdout)


def _render(
    source: str, variables: dict[str, Any], chats: list[Any], max_chars: int
) -> list[dict[str, str]]:
    results = []
    for chat in chats:
        try:
            template = _environment().from_string(source)
            text = template.render(messages=chat, tools=None, documents=None, **variables)
            if len(text) > max_chars:
                results.append({"fault": f"it makes {len(text)} characters of a short chat"})
            else:
                results.append({"text": text})
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            results.append({"fault": f"{error}{f' in line {line}' if line else ''}"[:max_chars]})
        except MemoryError:
            results.append({"fault": "it needs too much memory"})
        except Exception as error:  # a template can raise anything, and the parent names it
            results.append({"fault": f"{type(error).__name__}: {error}"[:max_chars]})
    return results


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what transformers renders chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
