"""`stapo` that says when it is at a place, for tests that kill it there: `python stop_at.py PLACE MARKER WORDS…`.

PLACE is ``push`` (half of the weights of the second copy are in vLLM; it stays there) or ``generate`` (vLLM has
made a step of its answers to the first prompts behind that copy; it stays there). MARKER is written when it is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stapo.cli.main import main
from stapo.policy import Policy
from stapo.rollout.vllm import VllmSampler

FOREVER = 3600


def install(place: str, marker: Path) -> None:
    pushes, weights, push, generate = [0], Policy.plain_weights, VllmSampler._push, VllmSampler._generate

    def counted_push(self):
        pushes[0] += 1
        push(self)

    def half_of_the_weights(self):
        found = list(weights(self))
        for number, pair in enumerate(found):
            if place == "push" and pushes[0] == 2 and number == len(found) // 2:
                marker.touch()
                time.sleep(FOREVER)
            yield pair

    def watched_generate(self, asked, params):
        if place == "generate" and pushes[0] == 2 and len(asked) > 1:
            engine = self._llm.llm_engine
            step = engine.step

            def first_step():
                step()
                assert engine.has_unfinished_requests()
                marker.touch()
                time.sleep(FOREVER)

            engine.step = first_step
        return generate(self, asked, params)

    VllmSampler._push, VllmSampler._generate = counted_push, watched_generate
    Policy.plain_weights = half_of_the_weights


if __name__ == "__main__":
    install(sys.argv[1], Path(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
