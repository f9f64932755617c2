"""docs/passes.md, generated from the passes themselves: `python -m g4c.passes.documentation > docs/passes.md`.

In: the registry. Out: Markdown. A test checks that the page in the repository is what this prints.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys

from g4c.passes.canonical_rules import rule_table
from g4c.passes.contract import Pass
from g4c.passes.pipeline import format_option
from g4c.passes.pipelines import DEFAULT_PIPELINE, PASSES

_HEAD = """\
# Passes

Generated from the docstrings of `g4c/passes` by `python -m g4c.passes.documentation`.

A pass takes a verified module and leaves a verified module that means the same. A pipeline is a string, such as the
default one:

```
{default}
```

Options follow a name in braces: `precompute-rope{{context=4096}}`. The manager verifies the module around every pass
and checks that a pass changed it exactly if it says so. A dump (`--dump-dir`) begins with the pipeline that is still to
run, so `g4c opt` resumes from any of them. A pass that fails leaves its input in `repro/`, and its error names the
command that runs it again.
"""


def render() -> str:
    """The page."""
    sections = [_HEAD.format(default=DEFAULT_PIPELINE)]
    for cls in PASSES.values():
        sections.append(_section(cls))
        if cls.name == "canonicalize":
            sections.append(rule_table() + "\n")
    return "\n".join(sections)


def _section(cls: type[Pass]) -> str:
    lines = [f"## {cls.name}", ""]
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        code = paragraph.startswith("before:")
        lines += ["```mlir", paragraph, "```", ""] if code else [paragraph, ""]
    facts = [f"Runs after: {', '.join(cls.runs_after)}."] if cls.runs_after else []
    facts.append(f"Level: {cls.level_before.value if cls.level_before else 'any'}.")
    options = dataclasses.fields(cls)
    if options:
        given = (f"`{entry.name.replace('_', '-')}={format_option(entry.default)}`" for entry in options)
        facts.append(f"Options: {', '.join(given)}.")
    return "\n".join([*lines, " ".join(facts), ""])


if __name__ == "__main__":
    sys.stdout.write(render())
