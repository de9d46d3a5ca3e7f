// Small pieces that several pages share.
import type { ComponentChildren } from "preact";
import { signed, words } from "./format";
import { toStep } from "./route";
import type { Fences, Group, Member, Step } from "./types";

export function Failure({ error }: { error: string }) {
  return error ? (
    <p class="box failure" role="alert">
      {error}
    </p>
  ) : null;
}

export function Notes({ title, texts }: { title: string; texts: string[] }) {
  if (texts.length === 0) return null;
  return (
    <div class="box signs">
      <h3>{title}</h3>
      <ul>
        {texts.map((text, i) => (
          <li key={i}>{text}</li>
        ))}
      </ul>
    </div>
  );
}

export function outcome(member: Member): string {
  return member.won ? "won" : words(member.stop_reason) || "lost";
}

export function Badges({ step }: { step: Step }) {
  return (
    <>
      {step.valid === false && <span class="tag no">invalid{step.problem && `: ${step.problem}`}</span>}
      {step.repeated && <span class="tag">repeated</span>}
      {step.effect === false && <span class="tag">no effect</span>}
      {step.outlier && (
        <span class={`tag ${step.outlier}`}>
          {step.outlier}-entropy outlier{step.acted_on ? "" : ", not acted on"}
        </span>
      )}
      {step.retriever_error && <span class="tag no">search failed: {step.retriever_error}</span>}
    </>
  );
}

const SCALE = 4;
/** Where a normalized entropy lies on its bar, percent from the left; the bar runs from −4 to 4. */
export const place = (value: number) => (100 * (Math.min(Math.max(value, -SCALE), SCALE) + SCALE)) / (2 * SCALE);

/** H_n on its bar, the fences drawn, with the other steps of the anchor group as dots. */
export function EntropyBar({ step, fences, others = [] }: { step: Step; fences: Fences | null; others?: number[] }) {
  const low = fences?.lower == null ? 0 : place(fences.lower);
  const high = fences?.upper == null ? 100 : place(fences.upper);
  const at = step.normalized_entropy;
  return (
    <svg
      class={`ebar ${step.outlier ?? ""}`}
      viewBox="0 0 200 18"
      role="img"
      aria-label={`H_n ${signed(at)}, fences ${signed(fences?.lower)} and ${signed(fences?.upper)}`}
    >
      <rect class="all" x="0" y="5" width="200" height="8" rx="3" />
      <rect class="inside" x={2 * low} y="5" width={2 * (high - low)} height="8" />
      {fences?.lower != null && <line class="fence" x1={2 * low} x2={2 * low} y1="1" y2="17" />}
      {fences?.upper != null && <line class="fence" x1={2 * high} x2={2 * high} y1="1" y2="17" />}
      {others.map((value, i) => (
        <circle key={i} class="other" cx={2 * place(value)} cy="9" r="2.2" />
      ))}
      {at !== null && <circle class="here" cx={2 * place(at)} cy="9" r="4.5" />}
    </svg>
  );
}

interface StripProps {
  run: string;
  iteration: number;
  group: Group;
  member: Member;
  chosen?: number | undefined;
  marked?: number | null;
  onMark?: (anchor: number | null) => void;
}

const MOST_CELLS = 300;

/** The steps of a member as cells; of a long episode those around the chosen step. */
export function Strip({ run, iteration, group, member, chosen, marked, onMark }: StripProps) {
  const first = Math.max(0, Math.min((chosen ?? 0) - MOST_CELLS / 2, member.steps.length - MOST_CELLS));
  const shown = member.steps.slice(first, first + MOST_CELLS);
  const after = member.length - first - shown.length;
  return (
    <div class="cells">
      {first > 0 && <span class="soft small">{first} before</span>}
      {shown.map((step, k) => {
        const i = first + k;
        const last = member.won && i === member.length - 1;
        const kind = step.valid === false ? "x" : step.effect === false ? "idle" : "";
        const sign =
          step.outlier === "high" ? "▲" : step.outlier === "low" ? "▼" : last ? "★" : step.valid === false ? "×" : "";
        return (
          <a
            key={i}
            class={`c ${kind} ${step.outlier ?? (last ? "win" : "")}${chosen === i ? " chosen" : ""}${marked != null && marked === step.anchor_group ? " same" : ""}`}
            href={toStep(run, iteration, group.group, member.member, i)}
            title={`${step.step}: ${step.action}`}
            aria-label={`step ${step.step}: ${step.action}${step.outlier ? `, ${step.outlier}-entropy outlier` : ""}`}
            aria-current={chosen === i ? "step" : undefined}
            onMouseEnter={() => onMark?.(step.anchor_group)}
            onMouseLeave={() => onMark?.(null)}
          >
            {sign}
          </a>
        );
      })}
      {after > 0 && <span class="soft small">{after} more</span>}
    </div>
  );
}

export function Key() {
  return (
    <p class="key">
      <span>
        <i class="c" /> valid
      </span>
      <span>
        <i class="c idle" /> no effect
      </span>
      <span>
        <i class="c x">×</i> invalid
      </span>
      <span>
        <i class="c high">▲</i> high-entropy outlier
      </span>
      <span>
        <i class="c low">▼</i> low-entropy outlier
      </span>
      <span>
        <i class="c win">★</i> solved
      </span>
    </p>
  );
}

export function Facts({ pairs }: { pairs: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {pairs.map(([name, value]) => (
        <>
          <dt key={name}>{name}</dt>
          <dd>{value}</dd>
        </>
      ))}
    </dl>
  );
}
