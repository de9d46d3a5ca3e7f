"""Settings of the agent's text side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stapo.errors import ConfigError, did_you_mean

ResponseFormat = Literal["think_action", "action", "choice", "search_answer", "search_answer_single"]
PromptStyle = Literal["standard", "compact", "webshop", "search-r1", "search-stepwise", "search-compact"]


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How prompts are written and responses are read.

    Attributes:
        prompt: `standard` explains task and rules in sentences (instruction-tuned models); `compact` is a few short
            lines with the goal last (tiny models that are trained from scratch); `webshop` tells a shopping agent what
            the published WebShop protocol tells it. For questions with a search engine: `search-r1` is one growing
            transcript, `search-stepwise` a fresh prompt at every step, `search-compact` the same for tiny models.
        response: `think_action` expects ``<think>…</think><action>…</action>``; `action` expects the command alone.
            `choice` numbers the offered commands in the prompt and expects the number of one: no command has to be
            spelled out, and none that takes a text of the agent's own can be given. Compact prompts put the number of a
            link in front of it in the page.
            `search_answer` passes on the text up to the first ``</search>`` (without one, the first ``</answer>``), and
            is valid with a search or an answer in it; `search_answer_single` is valid with exactly one of them.
        fallback_characters: a `think_action` response without action tags is invalid, and so many of its last
            characters are played. The published protocols: 30 for ALFWorld, 20 for WebShop.
        history_length: how many of the last steps are shown; the paper's ALFWorld protocol shows 2.
        command_history: how many steps before those are shown by their command alone. An agent that searches has to
            know where it has been; what it saw there may be forgotten.
        hidden_commands: offered commands that prompts do not list; the world still takes them.
        mark_goal_words: put a star behind every word of the current observation that the goal has, too, and in compact
            prompts with `choice` say the numbers of the links whose words the goal has all. Blind prompts know no goal
            and have none of it. For policies from scratch, which would have to learn first what a pretrained
            model does unasked: to compare words.
        require_admissible: count a well-formed command that the world does not offer as invalid, too. A command offered
            with a placeholder, such as ``search[<your query>]``, offers every text in its place. The field's reference
            protocol checks the format only.
        mask_own_queries: blind prompts that hide the goal and show the history hide the agent's own queries, too, which
            repeat the goal: ``search[…]`` is left of them, and of a response of the search formats its tags alone.
        max_observation_characters: an observation or a goal that is longer is cut, with a mark that says so, and of
            offered commands only as many are listed as have no more together. Counted in the metrics as `cut_texts`.
        max_commands: longest list of offered commands that a prompt shows.
        max_prompt_characters: longer prompts are shown without any history, as in the published WebShop protocol
            (13,000); None sets no bound.
        max_prompt_tokens: longer prompts lose their oldest history entries, then are an error.
        max_response_tokens: generation stops here.
    """

    prompt: PromptStyle = "standard"
    response: ResponseFormat = "think_action"
    fallback_characters: int = 30
    history_length: int = 2
    command_history: int = 0
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
        return "compact" not in self.prompt

    def __post_init__(self) -> None:
        for field, kind in (("prompt", PromptStyle), ("response", ResponseFormat)):
            value = getattr(self, field)
            if value not in get_args(kind):
                raise ConfigError(
                    f"agent.{field} is '{value}', expected one of {', '.join(get_args(kind))}."
                    + did_you_mean(str(value), get_args(kind))
                )
        for field, least in (
            ("history_length", 0),
            ("command_history", 0),
            ("fallback_characters", 0),
            ("max_observation_characters", 1),
            ("max_commands", 1),
            ("max_prompt_tokens", 8),
            ("max_response_tokens", 1),
        ):
            value = getattr(self, field)
            if value < least:
                raise ConfigError(f"agent.{field} is {value}, expected at least {least}.")
        if self.mark_goal_words and self.prompt.startswith("search-"):
            raise ConfigError(
                f"agent.mark_goal_words is true, but prompts of the style '{self.prompt}' have no marks. Set it to "
                "false, or use standard, compact or webshop."
            )
        if self.max_prompt_characters is not None and self.max_prompt_characters < 1:
            raise ConfigError(
                f"agent.max_prompt_characters is {self.max_prompt_characters}, expected at least 1, "
                "or null for no bound."
            )
