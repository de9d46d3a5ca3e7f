"""The environments and the agent as an agent loop of verl: one episode in, one row per chain of steps out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from stapo.config.run_config import RunConfig
from stapo.errors import EngineError
from stapo.rollout import Trajectory
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import Episode
from stapo.rollout.sampler import Sample
from stapo.rollout.templates import utc_now
from stapo.verl_plugin.play import env_caches, play_episode
from stapo.verl_plugin.rows import PAYLOAD, SentRow, sent_rows
from stapo.verl_plugin.settings import AGENT, run_config_of

_VERSIONS = {"min_global_steps": min, "max_global_steps": max}  # which weights answered; verl logs staleness by them


@register(AGENT)
class StapoAgentLoop(AgentLoopBase):
    """Plays one attempt at one task with verl's rollout servers."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[AgentLoopOutput]:
        """Play an episode; see verl.

        Args:
            sampling_params: for the rollout servers.
            row: the task, by `stapo.verl_plugin.dataset.TaskDataset`, and verl's own keys.

        Returns:
            one output for each chain of steps, in order (`optim.merge`). None at all where the first prompt does not
            fit, or where the episode failed and `rollout.on_failure` says to shrink its group.

        Raises:
            EngineError: the episode failed, and `rollout.on_failure` says to drop its group; verl then leaves it out.
        """
        run = run_config_of(self.data_config)
        position, member = int(row["position"]), int(row["session_id"])
        answers: list[_Answer] = []
        # verl sends what has one id to one server, which then knows the prompt up to its new tokens.
        session = uuid4().hex if run.agent.grows else None

        def begin(trajectory: Trajectory) -> Episode:
            answers.clear()
            return Episode(
                _encoder(self.tokenizer),
                run.agent,
                trajectory,
                blind_mask=run.algorithm.selective.blind_mask,
                anchor=run.rollout.anchor,
                reward_scale=run.rollout.reward_scale,
                mark_parts=run.algorithm.outlier.tokens != "response",
            )

        async def generate(ids: list[int]) -> Sample:
            started = time.perf_counter()
            output = await self.server_manager.generate(
                request_id=session or uuid4().hex, prompt_ids=ids, sampling_params=dict(sampling_params)
            )
            answers.append(_Answer(output, time.perf_counter() - started))
            return self._sample(run, output)

        cache = env_caches().of(run)
        pool = cache.take()
        try:
            start = Trajectory(str(row["task_id"]), "", "", position, member)
            played = await play_episode(begin, pool, generate, start, retries=run.rollout.retries)
        finally:
            cache.put_back(pool)
        if played.failure is not None:
            failure = played.failure
            message = (
                f"task '{played.task_id}', attempt {member}: the episode failed at its {failure.boundary.value}, "
                f"step {failure.step + 1}: {failure.error}"
            )
            if run.rollout.on_failure == "drop":
                raise EngineError(f"{message}. Its group is left out (rollout.on_failure=drop).")
            print(f"stapo: {message}. It is left out of its group.", flush=True)
            return []
        return _outputs(played, sent_rows(played, position, merge=run.optim.merge), answers)

    def _sample(self, run: RunConfig, output: Any) -> Sample:
        """The server's answer as the episode takes it; the training engine computes entropies later."""
        ids, limit = list(output.token_ids), run.agent.max_response_tokens
        logprobs = list(output.log_probs or [0.0] * len(ids))
        ended = bool(ids) and len(ids) <= limit and (len(ids) < limit or ids[-1] == self.tokenizer.eos_token_id)
        return Sample(ids[:limit], logprobs[:limit], [0.0] * min(len(ids), limit), ended)


class _Answer:
    """What a server said beside the tokens, and how long it took."""

    def __init__(self, output: Any, seconds: float) -> None:
        said: Mapping[str, Any] = output.extra_fields or {}
        # Servers that count no weights (tests, fixed ones) have version 0.
        self.versions = {name: int(said.get(name) or 0) for name in _VERSIONS}
        self.seconds = seconds
        self.has_logprobs = bool(output.log_probs)


def _outputs(played: Trajectory, rows: list[SentRow], answers: list[_Answer]) -> list[AgentLoopOutput]:
    told = {"won": float(played.won), "task_score": played.task_score, "steps": len(played.steps)}
    outputs = []
    for row in rows:
        own = [answers[step] for step in row.steps]
        versions = {name: pick(a.versions[name] for a in own) for name, pick in _VERSIONS.items()}
        outputs.append(
            AgentLoopOutput(
                prompt_ids=row.prompt_ids,
                response_ids=row.response_ids,
                response_mask=row.mask,
                response_logprobs=row.logprobs if all(a.has_logprobs for a in own) else None,
                # verl gives every row of an episode the last one's; it serves its own metrics alone.
                reward_score=float(played.score),
                num_turns=len(played.steps),
                metrics=AgentLoopMetrics(generate_sequences=sum(a.seconds for a in own)),
                extra_fields={PAYLOAD: row.payload, "reward_extra_info": told, **versions},
            )
        )
    return outputs


@lru_cache(maxsize=2)
def _encoder(tokenizer: Any) -> PromptEncoder:
    """One encoder for all episodes of a process, so that its cache of prompts is shared."""
    return PromptEncoder(tokenizer, _began)


@lru_cache(maxsize=1)
def _began() -> datetime:
    """When this process first made a prompt: verl keeps no time of a run's start that its agent loops could read."""
    return utc_now()
