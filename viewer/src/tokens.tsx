// A response as its tokens, colored by a number of each.
import { useState } from "preact/hooks";
import { num } from "./format";
import type { Token } from "./types";

const MEASURES = [
  {
    key: "entropy",
    label: "entropy",
    of: (token: Token) => token.entropy,
    why: "nats; dark where the policy was unsure",
  },
  {
    key: "logprob",
    label: "log-probability",
    of: (token: Token) => (token.logprob === null ? null : -token.logprob),
    why: "nats; dark where the sampled token was unlikely",
  },
  {
    key: "kl",
    label: "KL full to blind",
    of: (token: Token) => token.kl ?? null,
    why: "nats; dark where goal and history mattered",
  },
] as const;

const LEVELS = 8;

export function TokenHeat({ tokens }: { tokens: Token[] }) {
  const known = MEASURES.filter((measure) => tokens.some((token) => measure.of(token) !== null));
  const [key, setKey] = useState<string>(known[0]?.key ?? "");
  const measure = known.find((one) => one.key === key) ?? known[0];
  if (!measure) return null;
  const most = Math.max(1e-9, ...tokens.map((token) => measure.of(token) ?? 0));
  const level = (token: Token) => Math.round((LEVELS * Math.max(0, measure.of(token) ?? 0)) / most);
  return (
    <>
      <p class="bar small">
        {known.map((one) => (
          <label key={one.key}>
            <input type="radio" name="heat" checked={one === measure} onChange={() => setKey(one.key)} /> {one.label}
          </label>
        ))}
        <span class="soft">
          0{" "}
          <span class="scale" aria-hidden="true">
            {Array.from({ length: LEVELS + 1 }, (_, i) => (
              <i key={i} class={`heat${i}`} />
            ))}
          </span>{" "}
          {num(most)}; {measure.why}
        </span>
      </p>
      <pre class="text tokens" dir="auto" tabIndex={0}>
        {tokens.map((token, i) => (
          <span
            key={i}
            class={`token heat${level(token)}`}
            title={`${MEASURES.map((one) => `${one.label} ${num(one.key === "logprob" ? token.logprob : one.of(token))}`).join(", ")}`}
          >
            {token.text || "·"}
          </span>
        ))}
      </pre>
    </>
  );
}
