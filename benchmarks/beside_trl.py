"""Seconds per environment step beside TRL's GRPOTrainer, and of this tree beside an earlier one.

Every side is a process of its own with one thread, the same model in the same dtype, the same generated household tasks
and the same limits. The sides take turns: one iteration each, in the order given, again and again; the first round is
not counted. Sides:

    trl          GRPO by TRL, its own way of many turns (`environment_factory`): the world is a tool, an answer is its
                 call, an episode is one completion
    free         GRPO by stapo, decoded freely, as TRL does
    constrained  GRPO by stapo, responses chosen among the offered commands, as the preset does
    preset       the preset as it is, with STAPO
    before       the same, by the sources of another checkout (`--before FOLDER`)

    python benchmarks/beside_trl.py --start MODEL --trl-python ENV/bin/python
    python benchmarks/beside_trl.py --start MODEL --sides before preset --before ../stapo-before

`MODEL` is a folder, such as `checkpoints/start` of a run of `stapo train smollm2/alfworld-tiny --optim.iterations 0`.
docs/performance.md says how to make the environment of TRL. Ratios of processor seconds are what counts where other
programs run. Exit status 1: TRL takes less than `--goal` times the processor seconds of `free` per environment step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

PRESET = "smollm2/alfworld-tiny"
SIDES = ("trl", "free", "constrained", "preset", "before")
PARTS = ("generation", "environment", "reference", "update", "blind")
SOURCES = Path(__file__).resolve().parents[1] / "src"
OVER = "The task is over."


def configuration(side: str, options: argparse.Namespace) -> Any:
    """The settings of a run of one side; TRL's worker takes from them what it shares with `free`."""
    from stapo.config import load_config

    settings: dict[str, Any] = {
        "model": {"path": options.start, "dtype": options.dtype, "device": "cpu"},
        "sft": {"steps": 0},
        "rollout": {"groups": options.groups, "group_size": options.size},
        "optim": {"learning_rate": options.rate, "schedule": "constant", "warmup_iterations": 0, "iterations": 99},
        "log": {"transcript_every": 0},
    }
    if side in ("trl", "free"):
        settings["agent"] = {"decode": "free", "list_commands": "never"}
    if side in ("preset", "before"):
        return load_config(PRESET, base=settings)
    settings["algorithm"] = {"loss": {"beta": options.beta}}
    return load_config(PRESET, algorithm="grpo", base=settings)


def stapo_worker(side: str, options: argparse.Namespace, go: Callable[[], None], tell: Callable[..., None]) -> None:
    """Iterations of a run, one each time that one is asked for."""
    # Parts are timed by what `perf_counter` says; with one thread, processor seconds of this process are the work.
    wall, time.perf_counter = time.perf_counter, time.process_time
    from stapo.config.schema import to_data
    from stapo.policy import load_policy
    from stapo.run import RunDirectory
    from stapo.training.loop import Trainer

    config = configuration(side, options)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", to_data(config), ["benchmark"])
        trainer = Trainer(config, load_policy(config.model.path, config.model), run)
        for number in range(1, options.warm + options.repeats + 1):
            go()
            started = wall()
            row = trainer.iterate(number)
            tell(
                wall=wall() - started,
                parts={part: row["seconds"].get(part, 0.0) for part in PARTS},
                steps=row["rows"],
                won=row["success"],
                generated=round(row["response_tokens"] * row["rows"]),
                read=row["prefill"]["tokens"],
                learned=row["sequences"]["tokens"],
            )
        trainer.collector.close()


class Counts:
    """Processor seconds and numbers of TRL's side, since they were last taken."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float) -> None:
        """Add to one of them."""
        self.values[name] = self.values.get(name, 0.0) + value

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with its processor seconds counted."""

        def call(*args: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **named)
            finally:
                self.add(name, time.process_time() - started)

        return call

    def take(self) -> dict[str, float]:
        """What has come since the last time."""
        taken, self.values = self.values, {}
        return taken


def household_tool(config: Any, counts: Counts) -> type:
    """The class that TRL builds for each episode; its public methods are what a model may call."""
    from stapo.training.factories import env_factory

    class Household:
        def __init__(self) -> None:
            self._env, self._won, self._over = env_factory(config)(), False, False

        def reset(self, task_id: str, **row: Any) -> str:
            self._won = self._over = False
            return counts.timed("environment", self._env.reset)(task_id).blind

        def act(self, command: str) -> str:
            """Give one command to the household.

            Args:
                command: the command, for example `go to desk 1`.

            Returns:
                What is seen afterwards.
            """
            if self._over:
                return OVER
            counts.add("steps", 1)
            seen = counts.timed("environment", self._env.step)(command)
            self._won, self._over = seen.won, seen.done
            return f"{seen.blind} {OVER}" if seen.done else seen.blind

        def get_reward(self) -> float:
            return float(self._won)

    return Household


def tool_calling(tokenizer: Any) -> Any:
    """A tokenizer with which a whole answer is the call of `act`, and what the world says is a message of the user.

    The prompts are those of stapo's conversations, token for token.
    """
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def parse(ids: list[int], prefix: list[int] | None = None, **named: Any) -> dict[str, Any]:
        said = tokenizer.decode(ids, skip_special_tokens=True).strip()
        parsed: dict[str, Any] = {"role": "assistant", "content": said}
        # There is no way for a tool to end an episode: it says so, and the answer to that is no call.
        if prefix is None or OVER not in tokenizer.decode(prefix[-32:]):
            call = {"name": "act", "arguments": {"command": said}}
            parsed |= {"content": "", "tool_calls": [{"type": "function", "function": call}]}
        return parsed

    tokenizer.response_template, tokenizer.parse_response = {}, parse
    return tokenizer


def prompts_of(config: Any, count: int) -> Iterator[dict[str, Any]]:
    """The first `count` tasks of a run, each with the first message of its conversation."""
    from stapo.agent import PromptFields, render_prompt
    from stapo.training.factories import env_factory
    from stapo.training.tasks import training_stream

    env = env_factory(config)()
    for task in training_stream(env.tasks_of(config.env.split), config).take(count):
        first = env.reset(task)
        fields = PromptFields(
            goal=first.goal, step=0, steps_taken=0, history=(), observation=first.text, blind_observation=first.blind,
            admissible=None, earlier=(),
        )  # fmt: skip
        system = render_prompt(fields, config.agent).system
        yield {
            "task_id": task,
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": ""}],
        }
    env.close()


def trl_worker(side: str, options: argparse.Namespace, go: Callable[[], None], tell: Callable[..., None]) -> None:
    """Steps of TRL's trainer, one each time that one is asked for."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config, counts, episodes = configuration(side, options), Counts(), options.groups * options.size
    rounds = options.warm + options.repeats

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **named: Any) -> Any:
            said = super()._generate_single_turn(prompt_ids, *args, **named)
            counts.add("read", sum(map(len, prompt_ids)))
            counts.add("generated", sum(map(len, said[0])))
            return said

        def _generate(self, prompts: Any) -> Any:
            found = counts.timed("generate", super()._generate)(prompts)
            counts.add("learned", sum(map(len, found[0])) + sum(map(len, found[1])))
            counts.add("won", sum(e.get_reward() for e in self.environments))
            return found

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            return counts.timed("scored", super()._generate_and_score_completions)(inputs)

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **named: Any) -> None:
            go()
            counts.take()
            self.wall, self.processor = time.perf_counter(), time.process_time()

        def on_step_end(self, *args: Any, **named: Any) -> None:
            spent, n = time.process_time() - self.processor, counts.take()
            tell(
                wall=time.perf_counter() - self.wall,
                parts={
                    "generation": n["generate"] - n["environment"],
                    "environment": n["environment"],
                    "reference": n["scored"] - n["generate"],
                    "update": spent - n["scored"],
                    "blind": 0.0,
                },
                won=n["won"] / episodes,
                **{name: int(n[name]) for name in ("steps", "generated", "read", "learned")},
            )

    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, use_cpu=True,
            bf16=False, model_init_kwargs={"dtype": options.dtype}, gradient_checkpointing=False,
            per_device_train_batch_size=options.trl_batch, gradient_accumulation_steps=episodes // options.trl_batch,
            num_generations=options.size, max_steps=rounds, shuffle_dataset=False, seed=config.seed,
            beta=options.beta, learning_rate=options.rate, lr_scheduler_type="constant", weight_decay=0.01,
            temperature=config.rollout.temperature, top_k=0, max_completion_length=config.agent.max_prompt_tokens,
            generation_kwargs={"max_new_tokens": config.agent.max_response_tokens},
            max_tool_calling_iterations=config.env.options["max_steps"],
        )  # fmt: skip
        Timed(
            model=options.start,
            args=arguments,
            train_dataset=Dataset.from_list(list(prompts_of(config, options.groups * rounds))),
            processing_class=tool_calling(AutoTokenizer.from_pretrained(options.start, padding_side="left")),
            environment_factory=household_tool(config, counts),
            callbacks=[Turns()],
        ).train()


def work(side: str, options: argparse.Namespace) -> None:
    """Be the process of one side: a line on standard input asks for an iteration, a line of JSON answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    torch.set_num_threads(1)
    used = [0.0]

    def go() -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        used[0] = resource.getrusage(resource.RUSAGE_SELF).ru_utime

    def tell(**found: Any) -> None:
        found["user"] = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used[0]
        print(json.dumps(found), file=answers, flush=True)

    (trl_worker if side == "trl" else stapo_worker)(side, options, go, tell)


def begin(side: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start the process of a side."""
    sources = Path(options.before).resolve() / "src" if side == "before" else SOURCES
    env = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    python = options.trl_python if side == "trl" else sys.executable
    command = [python, __file__, *sys.argv[1:], "--worker", side]
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(side: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """One iteration of a side."""
    pipes: tuple[TextIO, TextIO] = (process.stdin, process.stdout)  # type: ignore[assignment]
    print("go", file=pipes[0], flush=True)
    line = pipes[1].readline()
    if not line:
        sys.exit(f"side '{side}' ended with status {process.wait()}; what it said is above")
    return json.loads(line)


def show(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians, and how the first side compares with each of the others, round by round."""
    each = ("wall", "user")
    columns = ("steps", "won", "generated", "read", "learned", *each)
    print(f"\n{'':12}" + "".join(f"{name:>12}" for name in (*columns, *PARTS)))
    for side, rows in rounds.items():
        numbers = [
            statistics.median(r[k] for r in rows) for k in ("steps", "won", "generated", "read", "learned", *each)
        ]
        numbers += [statistics.median(r["parts"][part] for r in rows) for part in PARTS]
        print(f"{side:12}" + "".join(f"{n:12,.0f}" if n >= 100 else f"{n:12.2f}" for n in numbers))
    first, *others = rounds
    for other in others:
        for key in each:
            found = ratios(rounds[first], rounds[other], lambda row, key=key: row[key] / row["steps"])
            print(f"{first} / {other}, {key} seconds per environment step: {spread(found)}")
        for part in PARTS:
            if all(row["parts"][part] for rows in (rounds[first], rounds[other]) for row in rows):
                found = ratios(rounds[first], rounds[other], lambda row, part=part: row["parts"][part] / row["steps"])
                print(f"    {part}: {spread(found)}")


def ratios(ours: list[dict], theirs: list[dict], of: Callable[[dict], float]) -> list[float]:
    """Quotients of two sides by round."""
    return [of(a) / of(b) for a, b in zip(ours, theirs, strict=True)]


def spread(found: list[float]) -> str:
    """A median and its range."""
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    """Let the sides take turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="folder of the model that every iteration begins with")
    parser.add_argument("--sides", nargs="+", default=["trl", "free", "constrained"], choices=SIDES)
    parser.add_argument("--trl-python", default=sys.executable, help="python of an environment with trl and stapo")
    parser.add_argument("--trl-batch", type=int, default=2, help="episodes in a forward pass of TRL's update")
    parser.add_argument("--before", help="checkout whose src is the side 'before'")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    parser.add_argument("--warm", type=int, default=1, help="rounds before those, that do not count")
    parser.add_argument("--beta", type=float, default=0.02, help="KL to the start, both sides; 0 leaves out its model")
    parser.add_argument("--rate", type=float, default=1e-7, help="learning rate; small, so that all rounds are alike")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--goal", type=float, default=0.0, help="least ratio of trl to free")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options)
        return
    if "before" in options.sides and not options.before:
        parser.error("the side 'before' needs --before FOLDER")
    if options.groups * options.size % options.trl_batch:
        parser.error(f"--trl-batch has to divide the {options.groups * options.size} episodes")
    processes = {side: begin(side, options) for side in options.sides}
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for number in range(options.warm + options.repeats):
        for side, process in processes.items():
            row = ask(side, process)
            print(f"round {number}, {side}: {json.dumps(row)}", flush=True)
            if number >= options.warm:
                rounds[side].append(row)
    for process in processes.values():
        process.communicate()
    show(rounds)
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1))
    if {"trl", "free"} <= set(rounds):
        found = statistics.median(ratios(rounds["trl"], rounds["free"], lambda row: row["user"] / row["steps"]))
        sys.exit(f"TRL takes {found:.2f} times, the goal is {options.goal}" if found < options.goal else 0)


if __name__ == "__main__":
    main()
