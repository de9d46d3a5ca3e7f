"""SFT from files: recorded episodes of this package, or chat messages as SFT trainers read them.

A line with `messages` is a conversation, whoever wrote it. Each of its assistant messages is a row of its own under
the messages before it; one with the weight 0 is context alone. Nothing else of such a line is known: no goal, and no
blind prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stapo.agent import Exchange, Prompt
from stapo.atomic_io import digest_of
from stapo.config.run_config import RunConfig
from stapo.documents import shown
from stapo.envs import CommandShapes
from stapo.envs.guard import Started
from stapo.errors import ConfigError, EnvError, reading
from stapo.rollout.record import RecordedEpisode, fingerprint, read_episode, read_header
from stapo.run.lines import read_lines
from stapo.training.demonstrations import DemoStep, imitated
from stapo.training.factories import RunEnv

_USERS = ("user", "tool", "observation", "environment")


def shapes_of(env: RunEnv, config: RunConfig) -> CommandShapes:
    """How the commands and pages of an environment look, which it says when an episode begins.

    Raises:
        EnvError: its first training task cannot be begun.
    """
    env.pool.grow(env.PLAYED + 1)
    (begun,) = env.pool.reset([(env.PLAYED, env.tasks_of(config.env.split)[0])])
    if not isinstance(begun, Started):
        raise EnvError(
            f"the first task of split '{config.env.split}' cannot be begun: {getattr(begun, 'error', begun)}"
        )
    return begun.shapes


def read_steps(config: RunConfig, env: RunEnv) -> list[DemoStep]:
    """The steps of `sft.data`, as SFT imitates them.

    Raises:
        ConfigError: the file cannot be read or used; the line is named. Nothing of it is used then.
    """
    path, demos, chat, shapes = Path(config.sft.data), list[DemoStep](), "", shapes_of(env, config)
    own = fingerprint(config.agent, config.env.name, config.env.options)
    known = False
    for where, row in read_lines(path):
        if read_header(row, own, where):
            known = True
        elif "messages" in row:
            demos += chat_steps(row["messages"], where, row.get("tools"))
            chat = chat or where
        elif known:
            demos += imitated(read_episode(row, where), config.agent, config.algorithm.selective.blind_mask, shapes)
        else:
            raise ConfigError(
                f"{where} is neither the header of a record, as 'stapo export' writes it first, nor a line with "
                "'messages'."
            )
    if not demos:
        raise ConfigError(f"sft.data: '{path}' holds no step to imitate; expected recorded episodes or chat messages.")
    for name in ("blind_fraction", "curriculum"):
        if chat and getattr(config.sft, name):
            raise ConfigError(
                f"{chat} holds chat messages, which have no blind and no short prompts, and sft.{name} is "
                f"{getattr(config.sft, name):g}; set it to 0."
            )
    return demos


def chat_steps(messages: Any, where: str, tools: Any = None) -> list[DemoStep]:
    """The assistant messages of a conversation, each under the messages before it.

    Raises:
        ConfigError: they are not alternating messages of texts; the first odd one is named.
    """
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where} has messages {shown(messages)}, expected a list of messages.")
    if tools is not None and not isinstance(tools, list):
        raise ConfigError(f"{where} has tools {shown(tools)}, expected a list of schemas.")
    told = json.dumps(tools) if tools else ""
    system, turns, asked, demos = "", list[Exchange](), list[str](), list[DemoStep]()
    for number, message in enumerate(messages):
        at = f"{where}, messages[{number}]"
        role, text = _message(message, at)
        if role in ("system", "developer") and number == 0:
            system = text
        elif role in _USERS:
            asked.append(text)
        elif role == "assistant" and asked:
            prompt = Prompt("\n".join(asked), system=system, turns=tuple(turns), tools=told)
            if message.get("weight", 1):
                demos.append(DemoStep("", prompt, prompt, prompt, text, ended=message.get("ended", True) is not False))
            turns.append(Exchange(prompt.text, text))
            asked = []
        else:
            raise ConfigError(
                f"{at} has the role {shown(role)} here; expected one system message first, then messages of user (or "
                "tool) and assistant in turn."
            )
    return demos


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ConfigError(f"{where} is {shown(message)}, expected an object with role and content.")
    if message.get("tool_calls"):
        raise ConfigError(
            f"{where} has tool_calls apart from its text; expected the text that the model writes, with its calls in "
            "it. Render the conversation with the model's chat template first."
        )
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ConfigError(f"{where} has the content {shown(content)}, expected text.")
    return str(message.get("role")), content


def chat_lines(episodes: Iterable[RecordedEpisode], config: RunConfig, shapes: CommandShapes) -> list[dict[str, Any]]:
    """Episodes as chat messages: a line for each step, since each has a prompt of its own.

    Earlier responses of a conversation have the weight 0: they are lines of their own. A response that was cut off has
    `ended` false.

    Raises:
        ConfigError: prompts continue what the agent has begun to say, which no list of messages can tell.
    """
    mark = fingerprint(config.agent, config.env.name, config.env.options)
    lines = []
    for episode in episodes:
        for step in imitated(episode, config.agent, "none", shapes):
            prompt = step.prompt
            if prompt.begun:
                raise ConfigError(
                    f"prompts of the style '{config.agent.prompt}' continue the agent's own message, which chat "
                    "messages cannot tell; export episodes instead (leave --chat out)."
                )
            said: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
            for turn in prompt.turns:
                said += [
                    {"role": "user", "content": turn.text},
                    {"role": "assistant", "content": turn.said, "weight": 0},
                ]
            said += [{"role": "user", "content": prompt.text}]
            last: dict[str, Any] = {"role": "assistant", "content": step.action, "weight": 1}
            said += [last if step.ended else {**last, "ended": False}]
            tools = {"tools": json.loads(prompt.tools)} if prompt.tools else {}
            lines.append({"messages": said, **tools, "fingerprint": mark, "task": episode.task, "won": episode.won})
    return lines


def digest_of_data(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    with reading(f"'{path}'", ConfigError):
        return digest_of(path)
