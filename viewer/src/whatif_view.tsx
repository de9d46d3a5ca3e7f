// What if: the flags of an iteration for another lambda, side or minimum standard deviation.
import { useMemo, useState } from "preact/hooks";
import { useGet } from "./api";
import { num, percent, signed } from "./format";
import { IterationNav } from "./iteration";
import { Failure } from "./parts";
import { toRun } from "./route";
import type { RunPage } from "./types";
import { type Batch, type Flags, flags, normalized, type OutlierSettings, settingsOf } from "./whatif";

interface Sent {
  batches: Record<string, { entropy: (number | null)[]; score: (number | null)[]; anchor: number[] }>;
}

const numbers = (values: (number | null)[]) => Float32Array.from(values, (value) => value ?? NaN);

const BARS = 60;
const WIDTH = 600;
const HEIGHT = 100;

/** All scores as bars, outside the chosen fences in color; the fences of the run dashed. */
function Scores({ score, own, chosen }: { score: ArrayLike<number>; own: Flags; chosen: Flags }) {
  const bars = useMemo(() => {
    const known = Array.from(score).filter((value) => !Number.isNaN(value));
    const most = known.reduce((far, value) => Math.max(far, Math.abs(value)), 1) * 1.02;
    const counts = new Uint32Array(BARS);
    for (const value of known) counts[Math.min(BARS - 1, Math.floor(((value + most) / (2 * most)) * BARS))]!++;
    return { most, counts, highest: Math.max(1, ...counts) };
  }, [score]);
  const x = (value: number) => ((value + bars.most) / (2 * bars.most)) * WIDTH;
  const fence = (value: number, kind: string) =>
    !Number.isNaN(value) && <line class={kind} x1={x(value)} x2={x(value)} y1="0" y2={HEIGHT} />;
  return (
    <svg
      class="whatif"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`scores of all steps from ${num(-bars.most)} to ${num(bars.most)}, fences ${signed(chosen.lower)} and ${signed(chosen.upper)}`}
    >
      {[...bars.counts].map((count, i) => {
        const middle = ((i + 0.5) / BARS) * 2 * bars.most - bars.most;
        // The square root keeps the few steps outside the fences visible.
        const height = count ? Math.max(2, HEIGHT * Math.sqrt(count / bars.highest)) : 0;
        return (
          <rect
            key={i}
            class={middle > chosen.upper || middle < chosen.lower ? "flagged" : "bar"}
            x={(i * WIDTH) / BARS + 0.5}
            width={WIDTH / BARS - 1}
            y={HEIGHT - height}
            height={height}
          />
        );
      })}
      {fence(own.lower, "own")}
      {fence(own.upper, "own")}
      {fence(chosen.lower, "chosen")}
      {fence(chosen.upper, "chosen")}
    </svg>
  );
}

function Panel({ label, batch, own }: { label: string; batch: Batch; own: OutlierSettings }) {
  const [lam, setLam] = useState(own.lam);
  const [sides, setSides] = useState(own.sides);
  const [floor, setFloor] = useState(own.min_std);
  const isNormalized = own.metric === "normalized";
  const gap = useMemo(() => {
    if (!isNormalized) return 0;
    const again = normalized(batch, own);
    return again.reduce((most, value, row) => {
      const saved = batch.score[row]!;
      return Number.isNaN(value) !== Number.isNaN(saved)
        ? Infinity
        : Number.isNaN(value)
          ? most
          : Math.max(most, Math.abs(value - saved));
    }, 0);
  }, [batch, own]);
  const before = useMemo(() => flags(batch.score, own), [batch, own]);
  const score = useMemo(
    () => (isNormalized && floor !== own.min_std ? normalized(batch, { ...own, min_std: floor }) : batch.score),
    [batch, own, floor],
  );
  const after = useMemo(() => flags(score, { ...own, lam, sides }), [score, own, lam, sides]);
  const appeared = after.sides.reduce((n, side, row) => n + (side !== 0 && before.sides[row] === 0 ? 1 : 0), 0);
  const gone = before.sides.reduce((n, side, row) => n + (side !== 0 && after.sides[row] === 0 ? 1 : 0), 0);
  const row = (name: string, found: Flags) => (
    <tr>
      <td>{name}</td>
      <td class="r">{signed(found.lower)}</td>
      <td class="r">{signed(found.upper)}</td>
      <td class="r" data-high={found.high}>
        {found.high}
      </td>
      <td class="r" data-low={found.low}>
        {found.low}
      </td>
      <td class="r">{percent(found.scored ? (found.high + found.low) / found.scored : null)}</td>
    </tr>
  );
  return (
    <section class="box spaced">
      {label && <h3>{label}</h3>}
      <p class="bar">
        <label>
          λ{" "}
          <input
            type="range"
            min="0"
            max="6"
            step="0.05"
            value={lam}
            onInput={(event) => setLam(Number(event.currentTarget.value))}
          />{" "}
          <input
            class="short"
            type="number"
            min="0"
            step="0.05"
            aria-label="lambda"
            value={lam}
            onInput={(event) =>
              event.currentTarget.value !== "" && setLam(Math.max(0, Number(event.currentTarget.value)))
            }
          />
        </label>
        <label>
          side{" "}
          <select value={sides} onChange={(event) => setSides(event.currentTarget.value as OutlierSettings["sides"])}>
            <option>both</option>
            <option>high</option>
            <option>low</option>
          </select>
        </label>
        <label>
          minimum standard deviation{" "}
          <input
            class="short"
            type="number"
            min="0"
            step="0.01"
            disabled={!isNormalized}
            value={floor}
            onInput={(event) =>
              event.currentTarget.value !== "" && setFloor(Math.max(0, Number(event.currentTarget.value)))
            }
          />{" "}
          nats
        </label>
      </p>
      <Scores score={score} own={before} chosen={after} />
      <div class="wide">
        <table>
          <thead>
            <tr>
              <th>settings</th>
              <th class="r">lower fence</th>
              <th class="r">upper fence</th>
              <th class="r">flagged high</th>
              <th class="r">flagged low</th>
              <th class="r">share</th>
            </tr>
          </thead>
          <tbody>
            {row("of the run", before)}
            {row("chosen here", after)}
          </tbody>
        </table>
      </div>
      <p>
        {after.reason
          ? `No step can be flagged: ${after.reason}.`
          : `${appeared} steps would be flagged that are not, ${gone} would no longer be, of ${after.scored.toLocaleString("en")} with a score.`}
      </p>
      {own.select !== "iqr" && (
        <p>
          This run has outlier.select '{own.select}', so its own flags are others. The table says what 'iqr' flags with
          its settings.
        </p>
      )}
      <p class="small soft">
        All steps of the iteration count, not only those in the transcript.{" "}
        {isNormalized
          ? gap < 1e-4
            ? `H_n computed here agrees with the saved one to ${num(gap, 1)}.`
            : `H_n computed here differs from the saved one by up to ${num(gap)}, so read the effect of the minimum standard deviation with care.`
          : `The minimum standard deviation applies to the metric 'normalized'; this run has '${own.metric}', whose saved scores are used.`}
        {own.max_fraction !== null && ` outlier.max_fraction (${own.max_fraction}) is not applied here.`}
      </p>
    </section>
  );
}

export function WhatIf({ page, iteration }: { page: RunPage; iteration: number }) {
  const { data, error } = useGet<Sent>("batch", { run: page.name, iteration });
  const own = useMemo(() => settingsOf(page.settings), [page]);
  const batches = useMemo(
    () =>
      Object.entries(data?.batches ?? {}).map(([label, sent]): [string, Batch] => [
        label,
        { entropy: numbers(sent.entropy), score: numbers(sent.score), anchor: Uint32Array.from(sent.anchor) },
      ]),
    [data],
  );
  return (
    <>
      <IterationNav page={page} iteration={iteration} to={(other) => `${toRun(page.name)}/whatif/${other}`} />
      <h2>What if the fences were elsewhere?</h2>
      <Failure error={error} />
      {data && batches.length === 0 && (
        <p class="none">
          This iteration was recorded without the numbers of all its steps, as earlier versions did, so flags cannot be
          computed anew.
        </p>
      )}
      {batches.map(([label, batch]) => (
        <Panel key={`${iteration} ${label}`} label={label} batch={batch} own={own} />
      ))}
    </>
  );
}
