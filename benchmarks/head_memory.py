"""Peak memory of the chunked head against the naive one.

Scores 512 response tokens with a head of 151,936 x 256 (Qwen2.5's vocabulary): log-probability and
KL(full || blind) with gradients into both contexts and the head. Each method runs in a process
of its own and reports how far its resident memory rose above the inputs.

    python benchmarks/head_memory.py [--tokens 512] [--hidden 256] [--vocabulary 151936]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from stapo.algo.head import flagged_scores


def naive(hidden_p, hidden_q, weight, targets):
    """Compute the same three quantities with all logits at once."""
    log_p = torch.log_softmax(hidden_p @ weight.T, dim=-1)
    log_q = torch.log_softmax(hidden_q @ weight.T, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    at = targets[:, None]
    return log_p.gather(1, at).squeeze(1), log_q.gather(1, at).squeeze(1), kl


def measure(method: str, tokens: int, hidden: int, vocabulary: int, chunk: int) -> dict[str, float]:
    """Run forward and backward once in this process and return peak, time and check sums."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weight = (torch.randn(vocabulary, hidden) * 0.05).requires_grad_()
    p = torch.randn(tokens, hidden, requires_grad=True)
    q = torch.randn(tokens, hidden, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    # A first tiny pass loads the libraries, so that they are not counted.
    (torch.randn(2, 4, requires_grad=True) @ torch.randn(4, 2)).log_softmax(-1).sum().backward()
    before, start = resident_peak(), time.process_time()
    if method == "naive":
        logp, logq, kl = naive(p, q, weight, targets)
    else:
        scores = flagged_scores(p, q, weight, targets, chunk=chunk)
        logp, logq, kl = scores.logp_n, scores.logq_n, scores.kl_pq_n
    (kl.mean() - logp.mean() - logq.mean()).backward()
    return {
        "peak_mb": resident_peak() - before,
        "cpu_s": time.process_time() - start,
        "kl": float(kl.detach().mean()),
        "grad_p": float(p.grad.norm()),
        "grad_q": float(q.grad.norm()),
        "grad_w": float(weight.grad.norm()),
    }


def resident_peak() -> float:
    """Highest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print one line per method and the ratio; exit 1 if the chunked head takes over a quarter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--method", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        sizes = (args.tokens, args.hidden, args.vocabulary, args.chunks[0])
        print(json.dumps(measure(args.method, *sizes)))
        return
    results = {}
    for method, chunk in [("naive", 0), *(("chunked", c) for c in args.chunks)]:
        command = [sys.executable, __file__, "--method", method, "--chunks", str(chunk)]
        for key in ("tokens", "hidden", "vocabulary"):
            command += [f"--{key}", str(getattr(args, key))]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[method, chunk] = result = json.loads(out.splitlines()[-1])
        label = method if method == "naive" else f"chunk {chunk}"
        share = result["peak_mb"] / results["naive", 0]["peak_mb"]
        print(
            f"{label:>9}: peak +{result['peak_mb']:6.0f} MB ({share:4.0%})  {result['cpu_s']:5.1f} "
            f"CPU-s  KL {result['kl']:.6f}  |grad| p {result['grad_p']:.6f} "
            f"q {result['grad_q']:.6f} W {result['grad_w']:.6f}"
        )
    default = results.get(("chunked", 64))
    if default and default["peak_mb"] > results["naive", 0]["peak_mb"] / 4:
        sys.exit("chunked head: more than a quarter of the naive peak")


if __name__ == "__main__":
    main()
