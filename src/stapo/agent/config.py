"""Settings of the agent's text side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stapo.agent.registries import PROMPT_STYLES, RESPONSE_FORMATS
from stapo.checks import check_choices, check_least
from stapo.errors import ConfigError
from stapo.registry import trait

ListCommands = Literal["auto", "every_turn", "once", "never"]
EarlierThoughts = Literal["keep", "drop"]
Decode = Literal["free", "constrained"]


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How prompts are written and responses are read.

    Attributes:
        prompt: wording of prompts. `standard` explains task and rules in sentences (instruction-tuned models);
            `compact` is a few short lines with the goal last (tiny models that are trained from scratch);
            `conversation` writes an episode as one conversation, for both kinds of models: the first message holds
            role, goal and rules, each turn adds an observation and takes a response, and the steps of an episode are
            read as one sequence (`optim.merge`). Environments and other packages bring styles of their own, such as
            those of published protocols; `stapo plugins` lists them all, with a sentence on each.
        system_prompt: text of the system message, before what the style says there; null for none. Prompts for models
            that follow no instructions begin with it.
        role: sentence that tells an agent its role, in place of the style's; "" leaves it out, null keeps the style's.
        rules: how to respond, in place of what the style and the response format say; "" leaves it out, null keeps
            that. It is not checked against the format.
        blind_prompt: style of trajectory-blind prompts; null for that of `prompt`. A blind conversation has a first
            message without the goal and the observation as its only turn.
        list_commands: where a conversation lists the offered commands: `every_turn`; `once`, in its first turn;
            `never`. `auto` is `never` with constrained decoding (`decode`), unless responses are numbers of commands,
            and `every_turn` without it. Other styles always list them.
        earlier_thoughts: whether the responses in a conversation's past turns `keep` their thoughts, or `drop` them, as
            some chat templates do. Without its thoughts a response is another text, and the next prompt extends none.
        response: format that responses must have. `think_action` expects ``<think>…</think><action>…</action>`` by the
            rules of the published protocols, which write the action in lower case, cut it at 1,000 characters, take the
            first ``<action>`` even of a thought, and refuse Chinese text. `tagged` is for any environment:
            ``<action>…</action>`` as it was written, in any language, behind a thought or without one. `action` expects
            the command alone, in one line. `tool_call` expects a call of one of the environment's tools in the model's
            own form, or of one tool that takes a command where there are none; what cannot be read is an invalid step,
            and the next observation begins with the error. `choice` numbers the offered commands in the prompt and
            expects the number of one: no command has to be spelled out, and none that takes a text of the agent's own
            can be given. Compact prompts put the number of a link in front of it in the page. Environments and other
            packages bring formats of their own; `stapo plugins` lists them all, with a sentence on each.
        decode: which tokens a response may take. `free`: all of the vocabulary. `constrained`: those that lead to an
            offered command, so that no response is invalid; probabilities, entropies and divergences are those among
            these tokens, in training as in sampling. For the formats `action` and `choice`, environments that offer a
            list of commands, and models in this process. A text in place of a placeholder, such as the one in
            ``search[<your query>]``, is free.
        stop: texts that end a response where they are complete, such as ``</action>``; 0 to 16 of them. They stay in
            it, and no end token is added. A thought ends first: inside ``<think>…</think>`` they do nothing. For base
            models, which go on writing. What a sampler writes beyond them, because it cannot stop there, is cut off.
        fallback_characters: characters at the end of a `think_action` response without action tags that are played as
            its action; 0 or more. The response counts as invalid. The published protocols: 30 for ALFWorld, 20 for
            WebShop.
        history_length: number of last steps shown with observation and action; 0 or more. The paper's ALFWorld protocol
            shows 2.
        command_history: number of steps before those shown by their command alone; 0 or more. An agent that searches
            has to know where it has been; it may forget what it saw there.
        hidden_commands: offered commands that prompts do not list; the environment still takes them.
        mark_goal_words: put a star after every word of the observation that is in the goal; compact prompts with
            `choice` also give the numbers of links whose words are all in the goal. Blind prompts know no goal and have
            no marks. For policies trained from scratch, which have not learned to compare words.
        require_admissible: count a well-formed command that the environment does not offer as invalid. A command
            offered with a placeholder, such as ``search[<your query>]``, offers every text in its place. The published
            protocols check the format only.
        mask_own_queries: in blind prompts that hide the goal and show the history, hide the agent's own queries, which
            repeat the goal: only beginning and end remain of them, such as ``search[…]``, or what the style leaves.
        max_observation_characters: characters of an observation or goal that prompts show; 1 or more. Longer text is
            cut, with a mark that says so; the list of offered commands is cut at the same total. Counted in the metrics
            as `cut_texts`.
        max_commands: maximum number of offered commands in a prompt; 1 or more.
        max_prompt_characters: characters above which a prompt is shown without history; 1 or more, or null for no
            bound. The published WebShop protocol: 13,000. A conversation has no such bound.
        max_prompt_tokens: maximum tokens of a prompt; 8 or more. A longer prompt loses its oldest history entries, a
            conversation the older half of its turns at once; a prompt that is still too long is an error.
        max_response_tokens: maximum tokens of a response; 1 or more. Generation stops there.
    """

    prompt: str = field(default="standard", metadata={"registry": PROMPT_STYLES})
    response: str = field(default="think_action", metadata={"registry": RESPONSE_FORMATS})
    decode: Decode = "free"
    fallback_characters: int = 30
    history_length: int = 2
    command_history: int = 0
    system_prompt: str | None = None
    role: str | None = None
    rules: str | None = None
    blind_prompt: str | None = None
    stop: tuple[str, ...] = ()
    list_commands: ListCommands = "auto"
    earlier_thoughts: EarlierThoughts = "keep"
    hidden_commands: tuple[str, ...] = ("help",)
    mark_goal_words: bool = False
    require_admissible: bool = False
    mask_own_queries: bool = False
    max_observation_characters: int = 50_000
    max_commands: int = 2_000
    max_prompt_characters: int | None = None
    max_prompt_tokens: int = 2048
    max_response_tokens: int = 512

    @property
    def for_chat_models(self) -> bool:
        """Whether the prompts address a model that follows instructions."""
        return trait(PROMPT_STYLES.get(self.prompt), "for_chat_models", True)

    @property
    def grows(self) -> bool:
        """Whether each prompt of an episode extends the last one and its response, but where it grows too long."""
        return trait(PROMPT_STYLES.get(self.prompt), "grows", False)

    @property
    def keeps_turns(self) -> bool:
        """Whether a prompt shows all turns of the episode, as a conversation."""
        return trait(PROMPT_STYLES.get(self.prompt), "keeps_turns", False)

    @property
    def lists_commands(self) -> ListCommands:
        """Where a conversation lists the offered commands."""
        if self.list_commands != "auto":
            return self.list_commands
        return "never" if self.constrained and not self.numbered else "every_turn"

    @property
    def numbered(self) -> bool:
        """Whether the response is the number of an offered command."""
        return trait(RESPONSE_FORMATS.get(self.response), "numbered", False)

    @property
    def constrained(self) -> bool:
        """Whether a response can be nothing but an offered command."""
        return self.decode == "constrained"

    @property
    def whole_command(self) -> bool:
        """Whether the response is a command, or its number, and nothing else."""
        return trait(RESPONSE_FORMATS.get(self.response), "whole_command", False)

    @property
    def calls_tools(self) -> bool:
        """Whether the response is a call of a tool, and prompts say which tools there are."""
        return trait(RESPONSE_FORMATS.get(self.response), "calls_tools", False)

    @property
    def has_parts(self) -> bool:
        """Whether a response has a thought and an action, each between tags of its own."""
        return trait(RESPONSE_FORMATS.get(self.response), "has_parts", False)

    @property
    def keeps_thought(self) -> bool:
        """Whether the action of a response begins with its thought, where a server hands that over apart."""
        return trait(RESPONSE_FORMATS.get(self.response), "keeps_thought", False)

    def __post_init__(self) -> None:
        PROMPT_STYLES.check("agent.prompt", self.prompt)
        RESPONSE_FORMATS.check("agent.response", self.response)
        if self.blind_prompt is not None:
            PROMPT_STYLES.check("agent.blind_prompt", self.blind_prompt)
        check_choices(self, "agent", list_commands=ListCommands, earlier_thoughts=EarlierThoughts, decode=Decode)
        if self.constrained and not self.whole_command:
            raise ConfigError(
                f"agent.decode is 'constrained', but a response of the format '{self.response}' is more than a "
                "command. Set agent.response to action or choice, or agent.decode to 'free'."
            )
        if len(self.stop) > 16 or not all(text.strip() for text in self.stop) or (self.stop and self.constrained):
            raise ConfigError(
                f"agent.stop is {', '.join(map(repr, self.stop[:16]))}; expected at most 16 texts that are not blank, "
                "and none with agent.decode=constrained, where a command ends the response."
            )
        if self.numbered and self.keeps_turns and self.lists_commands != "every_turn":
            raise ConfigError(
                f"agent.response is '{self.response}', whose numbers are those of the listed commands, but "
                f"agent.list_commands is '{self.list_commands}'. Set it to every_turn, or use another response format."
            )
        check_least(self, "agent", history_length=0, command_history=0, fallback_characters=0)
        check_least(
            self, "agent", max_observation_characters=1, max_commands=1, max_prompt_tokens=8, max_response_tokens=1
        )
        if self.mark_goal_words and not trait(PROMPT_STYLES.get(self.prompt), "marks", True):
            raise ConfigError(
                f"agent.mark_goal_words is true, but prompts of the style '{self.prompt}' have no marks. Set it to "
                "false, or use a style that has them, such as standard."
            )
        if self.max_prompt_characters is not None:
            check_least(self, "agent", max_prompt_characters=1)
