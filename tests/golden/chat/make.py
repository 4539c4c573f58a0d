#!/usr/bin/env python3
"""Writes expected.json: what Jinja2, set up as Hugging Face's `apply_chat_template` does, makes of every template in
templates/ with every conversation below, and constructs.json: what it makes of the pieces in constructs.txt, each of which
has one kind of expression or block, with four of the conversations. Needs `pip install jinja2` (3.1.6 was used); the tests need no Python.

    python3 make.py
"""
import datetime
import json
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
TOKENS = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}


def u(content):
    return {"role": "user", "content": content}


def s(content):
    return {"role": "system", "content": content}


def a(content, reasoning=None):
    message = {"role": "assistant", "content": content}
    return message if reasoning is None else {**message, "reasoning_content": reasoning}


CONVERSATIONS = [
    ([u("Hi")], True),
    ([u("Hi")], False),
    ([s("You are terse."), u("Prove that gcd(84, 30) = 6.")], True),
    ([s("One."), s("Two."), u("Now?")], False),
    ([u("1+1?"), a("2"), u("Sure?")], True),
    ([u("1+1?"), a("2"), u("Sure?")], False),
    ([u("Why?"), a("<think>because\n</think>\n\nThat is why."), u("Really?")], True),
    ([u("Why?"), a("That is why.", "because"), u("Really?")], False),
    ([u("Why?"), a("That is why.", "because")], True),
    ([u("Why?"), a("That is why.", "")], False),
    ([u("Ünïcödé √2 ≤ 3 – 你好 😀👍🏽 é"), a("ø đem ﷽ ß"), u("ſ ı İ ŉ")], True),
    ([u(""), a(""), u("")], False),
    ([u("  spaces \t\n"), a("\n\nlines\r\nof\rmany kinds\x0b\u2028\n"), u("\nend\n\n")], True),
    ([u("{{ messages }} {% if %} {# #} \\ \" ' <b>&amp;</b> $x^2$")], True),
    ([u("The \"quoted\" and the 'single'."), a("It's \"both\"."), u("\\boxed{1}")], False),
    ([s("Late systems too."), u("a"), s("Another."), a("b"), u("c"), s("Last.")], True),
    ([u("a"), u("b"), a("c"), a("d", "e"), u("f")], False),
    ([a("I begin."), u("So do I.")], True),
    ([u("12345"), a("٣٤٥ ½ Ⅷ"), u("UPPER CASE"), a("lower case"), u("Title Case Here")], False),
    ([u(f"Question {i}?") if i % 2 == 0 else a(f"Answer {i}.", f"thought {i}") for i in range(9)], True),
]


class Marks(jinja2.ext.Extension):
    """`{% generation %}`: a call block, as in transformers' AssistantTracker."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Refusal(Exception):
    pass


def raise_exception(message):
    raise Refusal(message)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Marks, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)


def outcome(source, messages, thinking):
    """The text, the words with which the template refuses, or the error."""
    try:
        text = environment.from_string(source).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True,
            thinking=thinking, enable_thinking=thinking, **TOKENS,
        )
        return {"text": text}
    except Refusal as refusal:
        return {"refusal": str(refusal)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def write(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


conversations = [{"messages": m, "thinking": t} for m, t in CONVERSATIONS]
expected = {}
for path in sorted((HERE / "templates").glob("*.jinja")):
    source = path.read_bytes().decode()
    expected[path.name] = [outcome(source, m, t) for m, t in CONVERSATIONS]
    assert not any("error" in found for found in expected[path.name]), path
write("expected.json", {"conversations": conversations, "expected": expected})

few = [0, 2, 4, 6]
cases = []
for source in (HERE / "constructs.txt").read_bytes().decode().split("\n----\n"):
    cases.append({"template": source, "outcomes": [outcome(source, *CONVERSATIONS[number]) for number in few]})
write("constructs.json", {"conversations": [conversations[number] for number in few], "cases": cases})
