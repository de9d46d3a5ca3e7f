"""Show that each test of the reliability suite fails without the guard that it checks.

    python scripts/check_guards.py [NUMBER ...]

For every guard the package and its tests are copied to a temporary folder, the guard is taken out of the copy, and the
tests named beside it are run there. They have to fail; a guard whose test still passes is reported, and the exit code
is 1. The working tree is never touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180.0
FAILED = 1  # pytest: tests were run, and some failed


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        number: of the promise in docs/reliability.md; 0 for early warnings.
        what: what is taken out.
        file: below src/stapo.
        present: text of the guard; occurs once.
        absent: what stands there without it.
        tests: what has to fail, as pytest takes it.
    """

    number: int
    what: str
    file: str
    present: str
    absent: str
    tests: str


GUARDS = [
    Guard(1, "the optimizer is restored", "training/loop.py",
          '        restore_optimizer(self.updater.optimizer, self.policy.model, '
          'read_tensors(folder / "optimizer.safetensors"))\n', "",
          "test_01_bitwise_resume.py -k grpo"),
    Guard(1, "the critic is restored", "training/loop.py",
          '            self.critic.restore(folder / "critic")\n', "            pass\n",
          "test_01_bitwise_resume.py -k ppo"),
    Guard(1, "the critic's optimizer is restored", "training/critic.py",
          "        restore_optimizer(self.optimizer, self.model, read_tensors(folder / _OPTIMIZER))\n", "",
          "test_01_bitwise_resume.py -k ppo"),
    Guard(1, "adapters are restored", "training/pipeline.py",
          '        policy.adapter.load(folder / "policy")\n', "",
          "test_01_bitwise_resume.py -k stapo-adapters"),
    Guard(1, "the copies of half-precision weights are restored in float32", "training/optimizer.py",
          "v.to(weight.device) if v.ndim else v", "v.to(weight.device, weight.dtype) if v.ndim else v",
          "test_01_bitwise_resume.py -k stapo-bfloat16"),
    Guard(1, "the place in the order of tasks is restored", "training/tasks.py",
          '        self.position = state["task_position"]\n', "        pass\n",
          "test_01_bitwise_resume.py -k grpo"),
    Guard(1, "the reference is the starting policy, not the present one", "training/pipeline.py",
          'load_policy(str(folder / "reference"), place).model', "None",
          "test_01_bitwise_resume.py -k alfworld-stapo"),
    Guard(1, "a chat template writes the date of the run's start", "training/loop.py",
          "self.policy, config.rollout.engine, self.run.started)", "self.policy, config.rollout.engine)",
          "test_01_bitwise_resume.py -k date"),
    Guard(1, "a chat template writes the date of the run's start in SFT as well", "training/preparation.py",
          "config.sft, config.seed, run.started)", "config.sft, config.seed)",
          "test_01_bitwise_resume.py -k date"),
    Guard(2, "the summaries of steps behind a save are cut back", "run/directory.py",
          '"eval_episodes", "failures", "steps")', '"eval_episodes", "failures")',
          "test_02_kill_at_random_moments.py -k 'killed_between and steps'"),
    Guard(2, "what was written after the save is undone", "training/pipeline.py",
          "    run.cut_back({} if restart", "    (lambda *_: None)({} if restart",
          "test_02_kill_at_random_moments.py -k between_a_row"),
    Guard(3, "old saves go once the new one is there", "run/saves.py",
          "        newest = self.complete()\n",
          "        newest = self.complete()\n        for old in newest[keep - 1 :]:\n            remove_folder(old)\n",
          "test_03_kill_inside_a_save.py -k mixture"),
    Guard(3, "a folder is hidden before it is removed", "atomic_io.py",
          "            path.rename(hidden)\n", "            hidden = path\n",
          "test_03_kill_inside_a_save.py -k mixture"),
    Guard(4, "half a row is cut off again", "atomic_io.py",
          "                os.ftruncate(descriptor, before)", "                pass",
          "test_04_no_room.py -k broken_line"),
    Guard(4, "a failed save is a named error", "run/saves.py",
          "        except Exception as err:  # the writers", "        except ZeroDivisionError as err:  # the writers",
          "test_04_no_room.py -k 'no_room_for_a_save or cannot_be_written'"),
    Guard(4, "going on without a save is a choice", "training/checkpoint.py",
          'if config.log.on_save_error == "stop":', "if False:",
          "test_04_no_room.py -k by_choice"),
    Guard(5, "files are compared with their hashes", "run/saves.py",
          'if found != facts["sha256"]:', "if False:",
          "test_05_corruption.py -k guarded"),
    Guard(5, "foreign files are refused", "run/saves.py",
          "if foreign and not strangers:", "if False:",
          "test_05_corruption.py -k foreign"),
    Guard(5, "saves of other runs are refused", "training/resume.py",
          "        if wrong := _forbidden(state.config, config):\n", "        if wrong := []:\n",
          "test_05_corruption.py -k another_run"),
    Guard(5, "checkpoints are checked before an evaluation", "diagnosis/run.py",
          "    run.check_checkpoint(name)\n", "",
          "test_05_corruption.py -k explicit"),
    Guard(5, "rows are compared with their hashes on resume", "training/resume.py",
          "        damage = run.row_damage(folder, training=True)\n", "        damage: list[str] = []\n",
          "test_05_rows_and_links.py -k 'a_damaged_row_is_named and digit'"),
    Guard(5, "a reader is told of damaged rows", "report/data.py",
          "run.remarks() if checked else []", "[]",
          "test_05_rows_and_links.py -k what_was_added"),
    Guard(5, "links in a run are refused", "run/directory.py",
          "        require_plain(path, NAMES)\n", "",
          "test_05_rows_and_links.py -k every_file_and_folder"),
    Guard(5, "files with further names are copied before they are changed", "atomic_io.py",
          "    if os.fstat(descriptor).st_nlink == 1:\n", "    if True:\n",
          "test_05_rows_and_links.py -k writers_keep"),
    Guard(5, "files are never opened through a link", "atomic_io.py",
          "os.O_NOFOLLOW | ", "",
          "test_05_rows_and_links.py -k writers_keep"),
    Guard(5, "labels and seeds of a stored comparison are checked", "comparison/plan.py",
          "        _check_names(plan)\n", "",
          "../comparison/test_comparison_plan_files.py -k labels"),
    Guard(6, "only what is marked complete counts", "run/saves.py",
          " and oddity(marker) is None and marker.is_file()", "",
          "test_06_incomplete_is_invisible.py"),
    Guard(7, "what environments carry is restored", "training/environments.py",
          '        self.collector.pool.restore(state["environments"])\n', "",
          "test_07_random_state_travels.py -k everything"),
    Guard(7, "the shared random states are restored", "training/loop.py",
          '        restore_random_state(state.random, read_tensors(folder / "random.safetensors"))\n', "",
          "test_07_random_state_travels.py -k everything"),
    Guard(7, "a state that lacks something is an error", "training/checkpoint.py",
          "    if missing:\n", "    if False:\n",
          "test_07_random_state_travels.py -k without_one"),
    Guard(8, "other settings are refused", "training/resume.py",
          "if forbidden := _forbidden(run.config(), config):", "if forbidden := _forbidden(run.config(), config)[:0]:",
          "test_08_changed_settings.py -k refused_with"),
    Guard(8, "other tasks are refused", "training/loop.py",
          "if state.tasks and state.tasks != self._digest():", "if False:",
          "test_08_changed_settings.py -k other_tasks"),
    Guard(9, "the first signal is a request", "training/interrupt.py",
          "            for number in SIGNALS:\n                signal.signal(number, self._on_signal)\n", "",
          "test_09_signals.py -k safe_point"),
    Guard(9, "what takes too long is given up", "training/interrupt.py",
          "        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.grace))\n", "",
          "test_09_signals.py -k too_long"),
    Guard(9, "a second signal stops at once", "training/interrupt.py",
          '            raise RunInterrupted(signum, "stopped at once by a second signal")\n', "            return\n",
          "test_09_signals.py -k second_signal"),
    Guard(9, "handlers come back", "training/interrupt.py",
          "        for number, handler in self._before.items():\n            signal.signal(number, handler)\n", "",
          "test_09_signals.py -k handlers"),
    Guard(9, "one writer at a time", "training/pipeline.py",
          "        stack.enter_context(RunDirectory(out).lock())\n", "",
          "test_09_signals.py -k one_writer"),
    Guard(10, "a later format is refused", "training/checkpoint.py",
          "    if found != FORMAT:\n", "    if False:\n",
          "test_10_old_saves.py -k later_format"),
    Guard(10, "the reference comes from the saves", "training/checkpoint.py",
          "    for save in run.saves.complete()[:1]:\n", "    for save in run.saves.complete()[:0]:\n",
          "test_10_old_saves.py -k gone_on"),
    Guard(11, "a loss that is not finite", "training/update.py",
          '            _require_finite_loss(out.loss, part, f"the loss at {where}")\n', "",
          "test_11_non_finite_guard.py -k 'advantage or reference'"),
    Guard(11, "a gradient that is not finite", "training/update.py",
          "        if not math.isfinite(norm):\n", "        if False:\n",
          "test_11_non_finite_guard.py -k gradient"),
    Guard(11, "a value loss that is not finite", "training/critic.py",
          "            if not torch.isfinite(out.loss):\n", "            if False:\n",
          "test_11_non_finite_guard.py -k 'loss_of_a_critic'"),
    Guard(11, "a critic's gradient that is not finite", "training/critic.py",
          "        if not math.isfinite(norm):\n", "        if False:\n",
          "test_11_non_finite_guard.py -k gradient_of_a_critic"),
    Guard(11, "both gradients are there before one model moves", "training/update.py",
          "            log |= self.critic.backward(batch, all_rows, where)\n            self.critic.optimizer.step()\n"
          "        self.optimizer.step()\n",
          "            self.optimizer.step()\n            log |= self.critic.backward(batch, all_rows, where)\n"
          "            self.critic.optimizer.step()\n        else:\n            self.optimizer.step()\n",
          "test_11_non_finite_guard.py -k gradient_of_a_critic"),
    Guard(11, "returns that are not finite are not dropped with their group", "training/sampling.py",
          "math.isfinite(value) and value == values[0]", "value == values[0]",
          "../train/test_sampling.py -k not_hidden"),
    Guard(11, "rewards, log-probabilities and entropies that are not finite", "training/batch.py",
          "    _require_finite(trajectories)\n", "",
          "test_11_non_finite_guard.py -k 'reward or sampling'"),
    Guard(11, "the limit of steps left out in a row", "training/update.py",
          "if self.non_finite_in_a_row > self.optim.skip_non_finite:", "if False:",
          "test_11_non_finite_guard.py -k 'one_more or stops'"),
    Guard(12, "no division by a spread that is 0", "algo/groups.py",
          "np.where(usable, centered / np.where(usable, stats.std_b + eps, 1.0), 0.0)", "centered / stats.std_b",
          "test_12_degenerate_groups.py"),
    Guard(13, "an exception costs one episode", "envs/guard.py",
          "    except BaseException as err:\n        return raised(err, name())\n",
          "    except ZeroDivisionError as err:\n        return raised(err, name())\n",
          "test_13_environment_crash_isolation.py -k a_step_that_fails"),
    Guard(13, "what an environment returns is checked", "envs/guard.py",
          "    if wrong := _wrong(out, StepResult):\n", "    if False:\n",
          "test_13_environment_crash_isolation.py -k a_step_that_fails"),
    Guard(13, "a demonstration that fails is left out", "rollout/faults.py",
          "            except TaskFailed as err:\n", "            except ZeroDivisionError as err:\n",
          "test_13_environment_crash_isolation.py -k demonstration"),
    Guard(13, "settings of the process are put back", "envs/ambient.py",
          "        _put_back(name, before)\n", "        pass\n",
          "test_13_environment_crash_isolation.py -k put_back"),
    Guard(13, "N in a row stop the run", "rollout/faults.py",
          "        if self.in_a_row >= self.limit:\n", "        if False:\n",
          "test_13_environment_crash_isolation.py -k too_many"),
    Guard(14, "pipes of a worker are closed with it", "envs/worker_process.py",
          "                    pipe.close()\n            os.close(self._lifeline)\n",
          "                    pipe.close()\n",
          "test_14_no_leak.py -k come_and_go"),
    Guard(14, "workers end when their pool wants it, and with it", "envs/supervisor.py",
          "            if pool in ready:\n                break\n", "",
          "test_16_no_wait_without_deadline.py -k spins"),
    Guard(14, "programs that leave their parent fall to the supervisor", "envs/supervisor.py",
          "        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)\n", "        pass\n",
          "test_14_no_leak.py -k 'started_ends and daemon'"),
    Guard(14, "the supervisor ends what a worker has started", "envs/supervisor.py",
          "        left = descendants(os.getpid())\n", "        left = [worker] if status is None else []\n",
          "test_14_no_leak.py -k 'started_ends and session'"),
    Guard(14, "signals to everybody do not end workers", "envs/supervisor.py",
          "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n",
          "    for number in (signal.SIGINT,):\n",
          "test_14_no_leak.py -k signals_to_everybody"),
    Guard(15, "a search that fails is a turn without results", "envs/search/env.py",
          "        except RetrieverError as err:\n"
          '            info |= {"retriever_error": str(err), "retriever_error_kind": err.kind}\n'
          "            return self._protocol.results(_UNREACHABLE)\n",
          "        finally:\n            pass\n",
          "test_15_retriever_outage.py"),
    Guard(15, "a search has a time for all its tries", "http_client.py",
          "            async with asyncio.timeout(options.total_s) as deadline:\n",
          "            async with asyncio.timeout(None) as deadline:\n",
          "test_15_retriever_outage.py"),
    Guard(15, "no error message reaches a prompt", "envs/search/env.py",
          "            return self._protocol.results(_UNREACHABLE)\n",
          "            return self._protocol.results(str(err))\n",
          "test_15_retriever_outage.py"),
    Guard(15, "errors are counted by kind", "training/metrics.py",
          "Counter(s.retriever_error for s in steps if s.retriever_error)",
          'Counter("failed" for s in steps if s.retriever_error)',
          "test_15_retriever_outage.py"),
    Guard(15, "a request that does not end has a deadline", "serving/connections.py",
          "            self.timer = self.loop.call_later(seconds[stage[0]], self.end)\n", "",
          "../retrieval/test_retrieval_server_edges.py -k headers_that_do_not_end"),
    Guard(15, "half-open connections make room", "serving/connections.py",
          "len(self.connections) >= most and not self.make_room()", "len(self.connections) >= most",
          "../retrieval/test_retrieval_server_edges.py -k half_open"),
    Guard(15, "a search that hangs is given up", "serving/threads.py",
          "timeout=self._seconds + 0.25", "timeout=None",
          "../retrieval/test_retrieval_server_edges.py -k hang_are_given_up"),
    Guard(15, "what failed is tried again", "http_client.py",
          'return self.kind == "refused" or self.kind.startswith("http_5") or self.kind in _PATIENCE', "return False",
          "test_15_retriever_outage.py"),
    Guard(16, "an answer has a deadline", "envs/worker_pool.py",
          "                if now >= worker.due:\n", "                if False:\n",
          "test_16_no_wait_without_deadline.py -k in_vain"),
    Guard(16, "waiting for a worker's end has a limit", "envs/worker_process.py",
          "process.wait(timeout=_REAP_SECONDS)", "process.wait()",
          "test_16_no_wait_without_deadline.py -k waits_for_ever"),
    Guard(17, "rows are plain ASCII", "run/directory.py",
          "ensure_ascii=True", "ensure_ascii=False",
          "test_17_malformed_model_output.py"),
    Guard(17, "the report escapes text", "html/pages.py",
          "autoescape=True", "autoescape=False",
          "test_17_malformed_model_output.py"),
    Guard(17, "tags the wrong way round are no part", "agent/parsing.py",
          "opening and closing and opening.end() <= closing.start()", "opening and closing.start()",
          "test_17_malformed_model_output.py"),
    Guard(17, "invalid responses are penalized, valid ones are not", "algo/credit.py",
          "(~np.asarray(valid_b, dtype=bool))", "np.ones(n)",
          "test_17_shown_as_text.py -k pay"),
    Guard(17, "control characters are made visible", "texts.py",
          '_HIDDEN_CATEGORIES = ("Cc", ', '_HIDDEN_CATEGORIES = (',
          "test_17_shown_as_text.py -k report"),
    Guard(18, "rows keep the sampled ids", "rollout/episode.py",
          "            response_ids=sample.ids,\n",
          "            response_ids=(self.encoder.tokenizer.encode(response) * 6)[: len(sample.ids)] or sample.ids,\n",
          "test_18_token_truth.py -k rows_hold"),
    Guard(18, "the end token belongs to the response", "rollout/decoding.py",
          "        self.ids.append(token)\n",
          "        if token not in self.eos_ids:\n            self.ids.append(token)\n",
          "test_18_token_truth.py -k rows_hold"),
    Guard(18, "padding is not attended to", "rollout/decoding.py",
          "            self._mask_rc[r, width - row.length :] = 1\n", "            self._mask_rc[r] = 1\n",
          "test_18_token_truth.py -k 'plain or nor_do'"),
    Guard(18, "a token is predicted from the position before it", "policy/model.py",
          "        first = len(row.prompt_ids) - 1\n", "        first = len(row.prompt_ids) - 2\n",
          "test_18_token_truth.py -k update_are_those_of_sampling"),
    Guard(18, "the ratio is taken to the policy that sampled", "training/update.py",
          "            old_bl = sampled_bl = pad_rows([batch.steps[b].logprobs for b in part], scored.logp_bl)\n",
          "            old_bl = sampled_bl = scored.logp_bl.detach()\n",
          "test_18_token_truth.py -k update_are_those_of_sampling"),
    Guard(19, "random numbers are functions of seed and place", "rollout/sampler.py",
          "np.random.SeedSequence(stream)", "np.random.SeedSequence()",
          "test_19_invariance.py"),
    Guard(19, "groups are numbered on from round to round", "training/sampling.py",
          "play(missing, groups, rounds)", "play(missing, 0, rounds)",
          "../train/test_sampling.py -k 'go_on or missing'"),
    Guard(19, "answers are placed by their request", "envs/worker_pool.py",
          "        return [results[request.index] for request in requests]\n",
          "        return list(results.values())\n",
          "test_19_invariance.py -k 'answers or order or workers'"),
    Guard(20, "tensors are read as safetensors", "training/checkpoint.py",
          "        return load_file(path)\n", "        return __import__('pickle').load(path.open('rb'))\n",
          "test_20_safe_by_default.py"),
    Guard(20, "sizes of a model are held against its weights", "policy/loading.py",
          "    check_sizes(path, folder, described)\n", "",
          "../policy/test_hostile_models.py -k no_weights_fit"),
    Guard(20, "weights files lie in the folder of their index", "policy/inspection.py",
          'if name != Path(name).name or name in ("", ".", "..")', 'if name in ("", ".", "..")',
          "../policy/test_hostile_models.py -k index"),
    Guard(20, "tokenizers are tried in a child first", "policy/inspection.py",
          "    try_out(path, file if described else None, described, templates, given)\n", "",
          "../policy/test_hostile_models.py -k 'do_not_work and (backtracking or loops)'"),
    Guard(20, "aliases of a YAML file are followed and counted", "documents.py",
          "        _count_nodes(root)\n", "",
          "../cli/test_config_files.py -k odd_file"),
    Guard(20, "no number is out of all bounds", "config/run_config.py",
          "        check_values(self)\n", "",
          "../train/test_setting_values.py -k out_of_all_bounds"),
    Guard(20, "what a plug-in raises on import is one error", "registry.py",
          "    except BaseException as err:  # importing", "    except ImportError as err:  # importing",
          "../test_registry.py -k broken_one"),
    Guard(20, "what a plug-in raises when it is called is one error", "registry.py",
          "            raise ConfigError(f\"{self.kind} '{name}' failed:", "            raise OSError(f\"failed:",
          "../test_plugins.py -k what_raises"),
    Guard(11, "a plug-in returns one finite number per row", "algo/groups.py",
          "    require_finite(what, value)\n", "",
          "../test_plugins.py -k number_per_row"),
    Guard(0, "warnings look at windows, not at single iterations", "health.py",
          "        return min(self.newest, self.recent) >= bound\n", "        return self.newest >= bound\n",
          "../train/test_collapse.py -k odd_iterations"),
    Guard(0, "warnings take numbers that are missing", "health.py",
          "    if len(known) < least or not math.isfinite(values[-1]):\n", "    if len(known) < least:\n",
          "../train/test_collapse.py -k missing_now"),
    Guard(0, "the report repeats warnings", "health.py",
          "    return found + _repeated_warnings(rows, thinned)\n", "    return found\n",
          "../report/test_health_checks.py -k told_once_each"),
    Guard(9, "a callback may ask for a stop", "training/callbacks.py",
          "            except StopTraining as err:\n", "            except ZeroDivisionError as err:\n",
          "../train/test_callbacks.py -k may_stop"),
    Guard(22, "a callback that raises is dropped", "training/callbacks.py",
          "        self._listening.remove(callback)\n        text = (\n", "        text = (\n",
          "../train/test_callbacks.py -k named_once"),
    Guard(22, "a callback is given copies", "training/callbacks.py",
          "UpdateEvent(iteration=row[\"iteration\"], metrics=copy.deepcopy(row))",
          "UpdateEvent(iteration=row[\"iteration\"], metrics=row)",
          "../train/test_callbacks.py -k come_in_order"),
    Guard(22, "a tracker that does not end is given up", "trackers/process.py",
          "            if late:\n", "            if False:\n",
          "../trackers/test_process.py -k hangs"),
    Guard(22, "no step is sent to a tracker twice", "trackers/sender.py",
          "        return iteration <= last\n", "        return False\n",
          "../trackers/test_process.py -k sent_all_once"),
    Guard(22, "what a tracker's library prints goes nowhere", "trackers/sender.py",
          "        os.dup2(nowhere, standard)\n", "        pass\n",
          "../trackers/test_process.py -k changes_nothing"),
    Guard(22, "a tracker's id from a run folder is text that was checked", "trackers/sender.py",
          'or not _ID.fullmatch(data["id"])', "",
          "../trackers/test_process.py -k state_of_a_stranger"),
]  # fmt: skip


def without(guard: Guard, folder: Path) -> Path:
    """A copy of package and tests that lacks the guard; returns its folder."""
    for name in ("src", "tests", "docs", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    path = folder / "src" / "stapo" / guard.file
    text = path.read_text(encoding="utf-8")
    if text.count(guard.present) != 1:
        raise SystemExit(
            f"error: guard {guard.number} ('{guard.what}') occurs {text.count(guard.present)} times in {guard.file}, "
            "expected once. The code has changed: adapt the guard in scripts/check_guards.py."
        )
    path.write_text(text.replace(guard.present, guard.absent), encoding="utf-8")
    return folder


def tests_fail(guard: Guard) -> tuple[bool, str]:
    """Whether the tests of a guard fail without it, and the last line that pytest said."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = without(guard, Path(temporary))
        file, _, rest = guard.tests.partition(" ")
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/reliability/{file}"]
        if rest:
            words += ["-k", rest.removeprefix("-k ").strip("'")]
        shared = os.environ.get("STAPO_SHARED", str(ROOT.parent / "shared"))
        environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "STAPO_SHARED": shared}
        try:
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            # Some guards are all that keeps a run from hanging.
            return True, f"no end within {PATIENCE:.0f} s"
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return done.returncode == FAILED, (lines or done.stdout.splitlines() or [done.stderr])[-1][:110]


def main() -> int:
    """Check the guards of the numbers given, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, nargs="*", help="promise whose guards are checked; none for all")
    wanted = set(parser.parse_args().number)
    chosen = [g for g in GUARDS if not wanted or g.number in wanted]
    holes = 0
    for guard in chosen:
        started = time.monotonic()
        failed, said = tests_fail(guard)
        holes += not failed
        verdict = "fails" if failed else "STILL PASSES"
        print(f"{guard.number:>2}  without '{guard.what}': {verdict}  ({time.monotonic() - started:.0f} s)  {said}")
        sys.stdout.flush()
    print(f"{len(chosen) - holes} of {len(chosen)} guards are held by a test")
    return 1 if holes else 0


if __name__ == "__main__":
    raise SystemExit(main())
