"""One episode in progress: environment, memory and the trajectory that grows."""

from __future__ import annotations

from stapo.agent import AgentConfig, BlindMask, Memory, PromptFields, Turn, parse_response, render_prompt
from stapo.envs import Env
from stapo.rollout.config import AnchorKey
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.parts import token_parts
from stapo.rollout.sampler import Sample
from stapo.rollout.types import Step, StopReason, Trajectory


class Episode:
    """Plays one task; `prompt` and `act` are called in turn until `done`."""

    def __init__(
        self,
        env: Env,
        encoder: PromptEncoder,
        agent: AgentConfig,
        trajectory: Trajectory,
        *,
        blind_mask: BlindMask,
        anchor: AnchorKey,
        reward_scale: float,
        mark_parts: bool = False,
    ) -> None:
        self.env = env
        self.encoder = encoder
        self.agent = agent
        self.trajectory = trajectory
        self.blind_mask = blind_mask
        self.anchor = anchor
        self.reward_scale = reward_scale
        self.mark_parts = mark_parts
        first = env.reset(trajectory.task_id)
        trajectory.goal = first.goal
        self.memory = Memory(agent.history_length)
        self.observation = first.text
        self.blind_observation = first.blind_text if first.blind_text is not None else first.text
        self.admissible = first.admissible
        self.done = False
        self._tried: set[tuple[str, str]] = set()
        self._prompt: tuple[str, list[int], str, list[int]] = ("", [], "", [])

    def prompt(self) -> list[int] | None:
        """Render the prompts of this step and return the full one's tokens, or None if it cannot fit."""
        turns = self.memory.recall()
        for kept in range(len(turns), -1, -1):
            fields = PromptFields(
                goal=self.trajectory.goal,
                step=len(self.trajectory.steps),
                steps_taken=self.memory.steps_taken,
                history=turns[len(turns) - kept :],
                observation=self.observation,
                blind_observation=self.blind_observation,
                admissible=self.shown_commands(),
            )
            text = render_prompt(fields, self.agent)
            ids = self.encoder.encode(text)
            if len(ids) <= self.agent.max_prompt_tokens:
                blind = render_prompt(fields, self.agent, self.blind_mask)
                self._prompt = (text, ids, blind, self.encoder.encode(blind))
                return ids
        self.trajectory.stop_reason = StopReason.PROMPT_TOO_LONG
        self.done = True
        return None

    def shown_commands(self) -> tuple[str, ...] | None:
        """The commands a prompt lists, or None where actions are free text."""
        if self.admissible is None:
            return None
        return tuple(c for c in self.admissible if c not in self.agent.hidden_commands)

    def act(self, sample: Sample) -> None:
        """Hand a sampled response to the environment and append the step."""
        response = self.encoder.decode(sample.ids)
        parsed = parse_response(response, self.agent.response)
        valid, problem = parsed.valid, parsed.problem
        offered = self.admissible if self.agent.require_admissible else None
        if valid and offered is not None and parsed.action not in offered:
            valid, problem = False, "not_admissible"
        text, ids, blind, blind_ids = self._prompt
        anchor = self.observation
        if self.anchor == "observation_and_admissible" and self.admissible is not None:
            anchor += "\n" + "\n".join(self.admissible)
        out = self.env.step(parsed.action)
        self.trajectory.steps.append(
            Step(
                prompt_ids=ids,
                blind_ids=blind_ids,
                response_ids=sample.ids,
                logprobs=sample.logprobs,
                entropies=sample.entropies,
                prompt=text,
                blind_prompt=blind,
                response=response,
                action=parsed.action,
                valid=valid,
                problem=problem,
                anchor=anchor,
                observation=self.observation,
                reward=out.reward * self.reward_scale,
                truncated=not sample.ended,
                repeated=(anchor, parsed.action) in self._tried,
                effect=out.info.get("effect"),
                parts=token_parts(sample.ids, self.encoder.decode) if self.mark_parts else {},
            )
        )
        self._tried.add((anchor, parsed.action))
        self.memory.add(Turn(self.observation, self.blind_observation, parsed.action))
        self.observation = self.blind_observation = out.text
        self.admissible = out.admissible
        if out.done:
            self.done = True
            self.trajectory.won = out.won
            if out.won:
                self.trajectory.stop_reason = StopReason.WON
            elif out.info.get("truncated"):
                self.trajectory.stop_reason = StopReason.STEP_LIMIT
            else:
                self.trajectory.stop_reason = StopReason.FAILED
