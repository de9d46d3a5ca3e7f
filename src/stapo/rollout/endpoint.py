"""A frozen model behind an OpenAI-compatible server, as a sampler for evaluation.

Text goes out and text comes back: there are no token ids and no log-probabilities, so nothing can be trained on what
it answers. A request that fails costs one episode; see `stapo.rollout.faults`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from stapo.agent import Prompt
from stapo.checks import check_choice
from stapo.envs.guard import EnvFailure
from stapo.errors import ConfigError, EndpointError
from stapo.http_client import Caller, CallFailed, CallOptions, checked_key, key_from, read_address
from stapo.rollout.answers import CHARACTERS_OF_A_TOKEN, Answer, Api, Unanswered, read_message
from stapo.rollout.config import NO_LIMITS, SamplingLimits
from stapo.rollout.faults import Boundary
from stapo.rollout.native_calls import with_tools_told
from stapo.rollout.sampler import Sample
from stapo.rollout.stopping import stop_end
from stapo.rollout.text_codec import END, THOUGHT, THOUGHT_APART, prompt_of, spell
from stapo.texts import hide_secrets, replace_surrogates

KEY_VARIABLE = "STAPO_API_KEY"

_PATHS: dict[str, str] = {"chat": "chat/completions", "completions": "completions"}
_ENVELOPE_BYTES = 256 << 10
_BYTES_OF_A_CHARACTER = 12
_NEWER_LIMIT = "max_completion_tokens"
_SHUT = ("http_401", "http_403")


class EndpointSampler:
    """Asks `POST {url}/chat/completions` (or `/completions`) for every response.

    Args:
        url: base address, e.g. "http://127.0.0.1:8000/v1".
        model: name that the server knows the model by.
        max_new_tokens: longest response.
        api: "chat" sends the prompt as one user message, a conversation as its messages, and leaves the chat template
            to the server; "completions" sends it as it stands, for models without a chat template.
        options: how long to wait, how often to try, how many requests at once.
        key: API key, sent as a bearer token. None reads `key_variable`.
        key_variable: environment variable with the API key; an empty or missing one sends none.
        send_seeds: give each request a seed of its own (`seed`), for servers that know it.
        template_values: sent to the chat API as `chat_template_kwargs`, where there are any.
        stop: texts that end a response outside thoughts, sent as `stop`.

    Attributes:
        url: base address.
        model: as given.
        api: as given.
        opens_thought: the server's chat template is known to open a thought before each response.

    Raises:
        ConfigError: no such address or API, or no model named.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_new_tokens: int,
        *,
        api: Api = "chat",
        options: CallOptions | None = None,
        key: str | None = None,
        key_variable: str = KEY_VARIABLE,
        send_seeds: bool = False,
        template_values: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        address = read_address(url, "endpoint")
        check_choice("api", api, get_args(Api))
        if not model:
            raise ConfigError("the endpoint's model has no name; expected the one that the server knows it by.")
        self.url = str(address.copy_with(query=None)).rstrip("/")
        self._query = f"?{address.query.decode('ascii')}" if address.query else ""
        # Thought and text, each character escaped at its longest, and what servers say around them.
        self._largest = _ENVELOPE_BYTES + 2 * _BYTES_OF_A_CHARACTER * CHARACTERS_OF_A_TOKEN * max_new_tokens
        self.model = model
        self.api: Api = api
        self._max_new_tokens = max_new_tokens
        self._limit_name = "max_tokens"
        self._send_seeds = send_seeds
        self._template_values = dict(template_values or {})
        self._offers_tools = False
        self._stop, self.opens_thought = list(stop), False
        self._caller = Caller(
            f"endpoint {self.url}",
            options or CallOptions(read_s=300.0, total_s=600.0, connections=16),
            token=checked_key(key, "the key") or key_from(key_variable),
            reasons=True,
            purpose="one answer",
            largest=self._largest,
            cut=True,
            judge=self._failure,
        )

    @property
    def counts(self) -> Counter[str]:
        """Requests by what came of them: "answered", or the kind of failure, retried ones included."""
        return self._caller.counts

    def check(self) -> None:
        """Look whether the server is there and lets us in, by asking for its list of models.

        A server without such a list passes, as does one that does not list this model: some list only what they have
        loaded.

        Raises:
            EndpointError: it cannot be reached, or refuses the key.
        """
        try:
            self._caller.get(f"{self.url}/models{self._query}")
        except CallFailed as err:
            if err.kind in _SHUT:
                raise EndpointError(
                    f"{err} It wants another API key; put it into the environment variable {KEY_VARIABLE}, or name "
                    "the variable that holds it.",
                    err.kind,
                ) from err
            if err.kind in ("refused", "timeout"):
                raise EndpointError(str(err), err.kind) from err

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        limits: SamplingLimits = NO_LIMITS,
    ) -> list[Sample | EnvFailure]:
        """Answer each prompt, spelled as by `TextCodec`; see `stapo.rollout.sampler.Sampler.sample`.

        Log-probabilities and entropies are NaN: the server keeps them to itself. What failed is a `EnvFailure` in the
        place of its response.

        Raises:
            EndpointError: it was closed.
        """
        bodies = [self._body(prompt_of(p), s, temperature, limits) for p, s in zip(prompts, streams, strict=True)]
        found = [self._read(answer) for answer in self._ask(bodies, stop=bool(self._stop))]
        if self._stop:
            found = self._without_stops_in_thoughts(found, bodies)
        return [one if isinstance(one, EnvFailure) else _sample(one) for one in found]

    def close(self) -> None:
        """Close all connections; more than once is fine."""
        self._caller.close()

    def _body(
        self, prompt: Prompt, stream: tuple[int, ...], temperature: float, limits: SamplingLimits = NO_LIMITS
    ) -> dict[str, Any]:
        if prompt.tools and self.api != "chat":
            prompt = with_tools_told(prompt)
        text, begun = replace_surrogates(prompt.text), replace_surrogates(prompt.begun)
        said = [("system", prompt.system)] if prompt.system else []
        said += [part for turn in prompt.turns for part in (("user", turn.text), ("assistant", turn.said))]
        body: dict[str, Any] = {"model": self.model}
        if self.api == "chat":
            # What the response has begun with cannot be put into the mouth of every server's model.
            said.append(("user", f"{text}\n{begun}" if begun else text))
            body["messages"] = [{"role": role, "content": replace_surrogates(words)} for role, words in said]
            if prompt.tools:
                body["tools"] = json.loads(replace_surrogates(prompt.tools))
                self._offers_tools = True
            if self._template_values:
                body["chat_template_kwargs"] = self._template_values
        elif prompt.system:
            turns = "".join(f"\n{turn.text}\n>{turn.said}" for turn in prompt.turns)
            body["prompt"] = replace_surrogates(f"{prompt.system}{turns}\n{text}\n>{begun}")
        else:
            body["prompt"] = text + begun
        # top_p is said because servers take it from the model's generation_config.json otherwise.
        body |= {"temperature": temperature, "top_p": limits.top_p, "stream": False}
        # No part of OpenAI's API; vLLM, SGLang and llama.cpp know both.
        body |= {k: v for k, v in (("top_k", limits.top_k), ("min_p", limits.min_p)) if v}
        if self._send_seeds and temperature > 0:
            body["seed"] = _seed(stream)
        return body

    def _ask(self, bodies: list[dict[str, Any]], *, stop: bool) -> list[bytes | CallFailed]:
        answers = self._sent(bodies, stop=stop)
        for wants, learn in ((self._wants_newer, self._take_newer), (self._wants_no_stop, self._leave_stops_out)):
            refused = [i for i, a in enumerate(answers) if isinstance(a, CallFailed) and wants(a)]
            if refused:
                learn()
                again = self._sent([bodies[i] for i in refused], stop=stop and bool(self._stop))
                for i, answer in zip(refused, again, strict=True):
                    answers[i] = answer
        return answers

    def _sent(self, bodies: list[dict[str, Any]], *, stop: bool) -> list[bytes | CallFailed]:
        more = {self._limit_name: self._max_new_tokens, **({"stop": self._stop} if stop else {})}
        try:
            return self._caller.each(
                f"{self.url}/{_PATHS[self.api]}{self._query}", [{**body, **more} for body in bodies]
            )
        except CallFailed as err:
            raise EndpointError(str(err), err.kind) from err

    def _take_newer(self) -> None:
        self._limit_name = _NEWER_LIMIT

    def _leave_stops_out(self) -> None:
        """From here on this server generates to the end, and the episode cuts responses."""
        self._stop = []

    def _wants_no_stop(self, err: CallFailed) -> bool:
        """Some models take no stop texts, and some servers no more than four."""
        return bool(self._stop) and err.kind in ("http_400", "http_422") and "stop" in str(err)

    def _without_stops_in_thoughts(
        self, found: list[Answer | EnvFailure], bodies: list[dict[str, Any]]
    ) -> list[Answer | EnvFailure]:
        """Answers with the stop text that ended them; asked again without any where it stood in a thought.

        A server that does not say which text has ended a response leaves open whether any has: none are sent any more.
        """
        found = [one if isinstance(one, EnvFailure) else _with_stop(one) for one in found]
        silent = [i for i, one in enumerate(found) if isinstance(one, Answer) and self._says_no_stop(one)]
        again = silent + [i for i, one in enumerate(found) if isinstance(one, Answer) and self._stops_in_thought(one)]
        if silent:
            self._leave_stops_out()
        for i, answer in zip(again, self._ask([bodies[i] for i in again], stop=False) if again else [], strict=True):
            self._caller.count("asked_again")
            found[i] = self._read(answer)
        return found

    def _says_no_stop(self, answer: Answer) -> bool:
        return answer.stop is None and answer.ended and stop_end(answer.text, self._stop) is None

    def _stops_in_thought(self, answer: Answer) -> bool:
        if not answer.stop:
            return False
        if answer.thought:
            return answer.apart and not answer.said.removesuffix(answer.stop)
        return stop_end(("<think>" if self.opens_thought else "") + answer.said, self._stop) is None

    def _wants_newer(self, err: CallFailed) -> bool:
        """Some models take the length limit under its newer name alone, and say so."""
        return self._limit_name != _NEWER_LIMIT and err.kind == "http_400" and _NEWER_LIMIT in str(err)

    def _failure(self, data: bytes) -> CallFailed | None:
        """Why an answer of status 200 cannot be used, for what may be gone at the next try; the rest is read later."""
        try:
            self._answer(data)
        except Unanswered as err:
            return CallFailed(f"{self._caller.who} answered with {err}", err.kind, True) if err.passes else None
        return None

    def _answer(self, data: bytes) -> Answer:
        cut = len(data) >= self._largest
        return read_message(data, self.api, self._max_new_tokens, cut=cut, tools=self._offers_tools)

    def _read(self, answer: bytes | CallFailed) -> Answer | EnvFailure:
        if isinstance(answer, CallFailed):
            return EnvFailure(Boundary.ENDPOINT, str(answer))
        try:
            found = self._answer(answer)
        except Unanswered as err:
            self._caller.count(err.kind)
            return EnvFailure(Boundary.ENDPOINT, hide_secrets(f"{self._caller.who} answered with {err}"))
        self._caller.count("cut" if found.cut else "answered")
        return found


def _with_stop(answer: Answer) -> Answer:
    """The answer with the stop text that ended it, which servers leave out."""
    if not answer.stop or answer.said.endswith(answer.stop):
        return answer
    return replace(answer, said=answer.said + answer.stop)


def _sample(answer: Answer) -> Sample:
    ids = spell(answer.thought)
    if ids:
        ids.append(THOUGHT_APART if answer.apart else THOUGHT)
    ids += spell(answer.said)
    if answer.ended or not ids:
        ids.append(END)
    absent = [float("nan")] * len(ids)
    return Sample(ids, absent, list(absent), answer.ended)


def _seed(stream: tuple[int, ...]) -> int:
    """A number of 31 bits that belongs to this stream."""
    import numpy as np

    return int(np.random.SeedSequence(stream).generate_state(1)[0]) >> 1
